"""One TCP stream through a user-space tunnel between two namespaces: espd
against the newest wireguard-go and strongSwan's kernel-libipsec, side by side.

    throughput_bench.py [SECONDS [ROUNDS]]      run by ./dev bench; needs root

All share this machine's cores with both ends of iperf3, so only ratios mean
something. The contenders take turns within each round, and medians count. On a
busy machine the rate also shows how many threads a program claims the cores
with; "x by CPU", the ratio of all CPU time an octet with both ends of iperf3,
is what two cores to themselves would give at best. A last line without a
tunnel shows what TCP itself costs.
"""

import json
import os
import pathlib
import secrets
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from cryptography.hazmat.primitives import serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # noqa: E402
from interop.strongswan import Connection, StrongSwan, installed  # noqa: E402
from lab import Lab, LabError, Namespace, go_program, wait_until  # noqa: E402
from lab.espd import AES256_GCM, Espd, Pair  # noqa: E402

SECONDS = 3
ROUNDS = 5
MUST, TOWARD = 6.0, 10.0
OUTER = ("192.0.2.1", "192.0.2.2")
INNER = ("10.244.1.1", "10.244.2.1")
MTU = 1420  # of the tunnel's device, where it is ours to choose

# What the network cards (one veth pair) do, by ethtool's names. A real card
# seldom cuts UDP trains and never carries super-packets: the kernel cuts them
# before the driver, and joins what comes in by GRO.
SETTINGS = {
    "super-packets cross the wire": (),
    "as a real card: segmentation and GRO in software": (
        "tso", "off", "tx-udp-segmentation", "off", "gso", "on", "gro", "on"),
    "no offload at all": ("tso", "off", "tx-udp-segmentation", "off", "gso", "off",
                          "gro", "off"),
}


def cpu_seconds(pids: list[int]) -> float:
    """Of all threads; the scheduler's own count, in nanoseconds."""
    return sum(int(stat.read_text().split()[0]) / 1e9 for pid in pids
               for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"))


def link(nodes: list[Namespace], features: tuple[str, ...]) -> None:
    """No bridge between: what it costs is no contender's."""
    nodes[0].run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0",
                  "netns", nodes[1].path])
    for node, address in zip(nodes, OUTER):
        node.run(["ip", "address", "add", f"{address}/24", "dev", "eth0"])
        node.run(["ip", "link", "set", "eth0", "up"])
        if features:
            node.run(["ethtool", "-K", "eth0", *features])


class Contender:
    """Two namespaces with a tunnel between them."""

    target = INNER[1]

    def __init__(self, lab: Lab, name: str, features: tuple[str, ...]):
        self.name = name
        self.lab = lab
        self.short = type(self).__name__[:3].lower() + type(self).__name__[-3:].lower()
        self.nodes = [Namespace(lab, f"{self.short}-{number}") for number in (1, 2)]
        link(self.nodes, features)
        self.pids: list[int] = []
        self.rates: list[float] = []
        self.costs: list[float] = []  # CPU of the tunnel
        self.totals: list[float] = []  # with both ends of iperf3
        self.set_up()
        wait_until(lambda: self.nodes[0].ping(self.target, wait=1), 15, f"{name} carries packets")
        self.server = self.nodes[1].start(f"iperf-{self.short}", ["iperf3", "-s", "--forceflush"])
        self.server.wait_for_log("listening", 10)

    def set_up(self) -> None:
        raise NotImplementedError

    def measure(self, seconds: int) -> None:
        client = subprocess.Popen(
            self.nodes[0].command(["iperf3", "-c", self.target, "-t", str(seconds), "-O", "1",
                                   "-C", "cubic", "-J"]),
            stdout=subprocess.PIPE, text=True)
        # From the end of iperf3's own warm-up on.
        time.sleep(1)
        ends = [client.pid, self.server.pid]
        began = time.monotonic()
        before = cpu_seconds(self.pids), cpu_seconds(ends)
        time.sleep(seconds - 0.5)
        used = [after - past for past, after in
                zip(before, (cpu_seconds(self.pids), cpu_seconds(ends)))]
        elapsed = time.monotonic() - began
        output, _ = client.communicate(timeout=30)
        received = json.loads(output)["end"]["sum_received"]["bits_per_second"]
        octets = received / 8 * elapsed
        self.rates.append(received / 1e9)
        self.costs.append(used[0] * 1e9 / octets)
        self.totals.append(sum(used) * 1e9 / octets)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def total(self) -> float:
        return statistics.median(self.totals)

    def ping_us(self) -> float:
        output = self.nodes[0].run(
            ["ping", "-n", "-q", "-c", "200", "-i", "0.002", self.target]).stdout
        return float(output.split("= ")[1].split("/")[1]) * 1000


class Espalier(Contender):
    options: list[str] = []

    def set_up(self) -> None:
        ends = [Espd(node, [INNER[i]], mtu=MTU, options=self.options)
                for i, node in enumerate(self.nodes)]
        Pair(*ends, OUTER).connect(AES256_GCM)
        self.pids = [end.process.pid for end in ends]


class EspalierOpenssl(Espalier):
    options = ["--openssl"]


class WireguardGo(Contender):
    def set_up(self) -> None:
        program = go_program("golang.zx2c4.com/wireguard")
        keys = [X25519PrivateKey.generate() for _ in self.nodes]
        raw = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        for i, node in enumerate(self.nodes):
            # Its control socket's place is fixed, so the name is this run's.
            device = f"wg{secrets.token_hex(4)}"
            process = node.start(f"wireguard-{self.short}-{i}", [program, "-f", device],
                                 env={"LOG_LEVEL": "error"})
            socket = pathlib.Path(f"/run/wireguard/{device}.sock")
            process.wait_for(socket.exists, 10, "its control socket")
            private = keys[i].private_bytes(
                serialization.Encoding.Raw, serialization.PrivateFormat.Raw,
                serialization.NoEncryption()).hex()
            self._configure(socket, "\n".join([
                "set=1", f"private_key={private}", "listen_port=51820",
                f"public_key={keys[1 - i].public_key().public_bytes(*raw).hex()}",
                f"endpoint={OUTER[1 - i]}:51820", f"allowed_ip={INNER[1 - i]}/32", "", ""]))
            node.run(["ip", "address", "add", f"{INNER[i]}/32", "dev", device])
            node.run(["ip", "link", "set", device, "mtu", MTU, "up"])
            node.run(["ip", "route", "add", f"{INNER[1 - i]}/32", "dev", device])
            self.pids.append(process.pid)

    @staticmethod
    def _configure(path: pathlib.Path, text: str) -> None:
        import socket
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(text.encode())
            answer = connection.recv(1000)
            if b"errno=0" not in answer:
                raise LabError(f"wireguard-go answered {answer!r}")


class Libipsec(Contender):
    def set_up(self) -> None:
        psk = secrets.token_hex(16)
        daemons = []
        for i, node in enumerate(self.nodes):
            node.run(["ip", "address", "add", f"{INNER[i]}/32", "dev", "lo"])
            daemon = StrongSwan(self.lab, node, OUTER[i], f"{i}.bench")
            daemon.configure(Connection(
                "bench", OUTER[1 - i], f"{1 - i}.bench", f"{INNER[i]}/32",
                f"{INNER[1 - i]}/32", psk=psk, esp_proposal="aes256gcm16"))
            daemons.append(daemon)
        daemons[0].initiate("bench")
        self.pids = [daemon.process.pid for daemon in daemons]


class Plain(Contender):
    target = OUTER[1]

    def set_up(self) -> None:
        pass


def run(seconds: int, rounds: int, setting: str) -> float:
    kinds = [("Espalier, AES-256-GCM", Espalier),
             ("Espalier, the same by OpenSSL", EspalierOpenssl),
             ("wireguard-go, newest", WireguardGo)]
    if installed():
        kinds.append(("strongSwan kernel-libipsec, AES-256-GCM", Libipsec))
    else:
        print("strongSwan is not installed: its line is missing")
    kinds.append(("no tunnel", Plain))
    with Lab("throughput") as lab:
        contenders = [kind(lab, name, SETTINGS[setting]) for name, kind in kinds]
        for _ in range(rounds):
            for contender in contenders:
                contender.measure(seconds)
                time.sleep(0.2)
        rows = []
        base = contenders[2]
        for c in contenders:
            ratios = [mine / theirs for mine, theirs in zip(c.rates, base.rates)]
            rows.append((c.name, f"{c.rate:.2f}", f"{min(c.rates):.2f}-{max(c.rates):.2f}",
                         f"{c.rate / base.rate:.2f}", f"{min(ratios):.2f}-{max(ratios):.2f}",
                         f"{statistics.median(c.costs):.2f}",
                         f"{c.total:.2f}", f"{base.total / c.total:.2f}", f"{c.ping_us():.0f}"))
        print(f"One TCP stream, {seconds} s, median of {rounds} rounds; {setting}; "
              f"load of the machine {os.getloadavg()[0]:.1f}")
        head = ("", "Gb/s", "range", "x wg-go", "range", "CPU ns/octet", "with iperf3", "x by CPU", "ping us")
        for row in [head, *rows]:
            print(f"{row[0]:42}{row[1]:>8}{row[2]:>14}{row[3]:>9}{row[4]:>14}{row[5]:>14}"
                  f"{row[6]:>13}{row[7]:>10}{row[8]:>9}")
        print(flush=True)
        return contenders[0].rate / base.rate


def main() -> int:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    ratios = {setting: run(seconds, rounds, setting) for setting in SETTINGS}
    for setting, ratio in ratios.items():
        print(f"ratio to wireguard-go, {setting}: {ratio:.2f} (must be {MUST:g}, "
              f"toward {TOWARD:g}): {'reached' if ratio >= MUST else 'MISSED'}")
    return 0 if all(ratio >= MUST for ratio in ratios.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
