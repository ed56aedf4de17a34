"""The demo: three nodes, two pods each, ESP between them, and a capture of the
wire as the witness. ./dev demo runs it for a person, demo_test.py for ctest."""

import argparse
import dataclasses
import itertools
import os
import secrets
import signal
import sys
import time

from lab import (CLUSTER_CIDRS, Capture, Lab, LabError, Node, Packets, Pod, Wire,
                 binary, send_plaintext)
from lab.transfer import tcp_transfer

NODES = ("node-a", "node-b", "node-c")
PODS_PER_NODE = 2
TRANSFER_MB = 64


@dataclasses.dataclass
class Report:
    """What the demo proved, for the last lines and for the test."""

    pings: int = 0
    transfers: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    tunnels: dict[str, list[dict]] = dataclasses.field(default_factory=dict)
    controls_sent: int = 0
    packets: Packets | None = None


class Demo:
    """Each method of STEPS is one step; they run in that order."""

    def __init__(self, lab: Lab, *, key_log: bool = False, driver: str | None = None):
        self.lab = lab
        self.driver = driver
        # The guest's processor is emulated.
        self.transfer_mb = 8 if "ESPALIER_GUEST" in os.environ else TRANSFER_MB
        self.key_log = key_log
        self.report = Report()
        self.wire: Wire | None = None
        self.capture: Capture | None = None
        self.nodes: list[Node] = []

    def lay_wire(self) -> str:
        self.wire = Wire(self.lab)
        self.nodes = [Node(self.lab, self.wire, name, number, driver=self.driver)
                      for number, name in enumerate(NODES, 1)]
        psk = secrets.token_hex(32)
        for node in self.nodes:
            peers = [peer for peer in self.nodes if peer is not node]
            node.write_config(peers, psk, key_log=self.key_log)
        return f"{len(NODES)} nodes: " + ", ".join(
            f"{node.name} {node.uplink.ipv4}" for node in self.nodes)

    def start_capture(self) -> str:
        self.capture = Capture(self.wire, self.lab.folder / "wire.pcap", CLUSTER_CIDRS)
        self._send_controls()
        return "tcpdump sees the wire; one plaintext packet a family sent as a check on it"

    def start_nodes(self) -> str:
        for node in self.nodes:
            node.start_espd()
        for node in self.nodes:
            node.start_agent()
        return (f"espalier-espd and espalier-agent run on each, "
                f"{self.nodes[0].driver} datapath")

    def attach_pods(self) -> str:
        for node in self.nodes:
            for number in range(1, PODS_PER_NODE + 1):
                node.add_pod(f"pod{number}")
        return "by CNI ADD: " + ", ".join(
            f"{pod.full_name} {pod.ipv4}" for pod in self.pods())

    def wait_for_tunnels(self) -> str:
        for node in self.nodes:
            node.wait_for_tunnels(len(NODES) - 1)
            self.report.tunnels[node.name] = node.tunnels()
        return f"IKEv2 done: {len(NODES) * (len(NODES) - 1) // 2} pairs"

    def ping_all(self) -> str:
        for source, target in itertools.permutations(self.pods(), 2):
            if source.node is target.node:
                continue
            for address in (target.ipv4, target.ipv6):
                if source.ping(address) != 1:
                    raise LabError(
                        f"no answer to ping from {source.full_name} to "
                        f"{target.full_name} ({address})")
                self.report.pings += 1
        return f"{self.report.pings} of {self.report.pings} answered, both families"

    def transfer(self) -> str:
        source, target = self.nodes[0].pods["pod1"], self.nodes[1].pods["pod2"]
        for family, address in (("IPv4", target.ipv4), ("IPv6", target.ipv6)):
            seconds = tcp_transfer(source.namespace, target.namespace, address,
                                   self.transfer_mb)
            self.report.transfers.append((family, seconds))
        return f"{self.transfer_mb} MiB from {source.full_name} to {target.full_name}: " + ", ".join(
            f"{family} {self.transfer_mb * 8.388608 / seconds / 1000:.2f} Gb/s"
            for family, seconds in self.report.transfers)

    def count(self) -> str:
        self._send_controls()
        packets = self.capture.stop()
        self.report.packets = packets
        if packets.controls != self.report.controls_sent:
            raise LabError(f"the capture saw {packets.controls} of "
                           f"{self.report.controls_sent} check packets: it proves nothing")
        if packets.plaintext:
            first = next(p for p in packets.packets if p.kind == "plaintext")
            raise LabError(f"{packets.plaintext} plaintext pod packets on the wire, "
                           f"the first from {first.source} to {first.destination}")
        if packets.esp < 2 * self.report.pings:
            raise LabError(f"only {packets.esp} ESP packets for {self.report.pings} pings")
        return (f"ESP packets {packets.esp}, IKE packets {packets.count('ike')}, "
                f"plaintext pod packets {packets.plaintext} "
                f"(the capture saw {packets.controls} of {self.report.controls_sent} "
                "plaintext packets sent on purpose)")

    def pods(self) -> list[Pod]:
        return [pod for node in self.nodes for pod in node.pods.values()]

    def _send_controls(self) -> None:
        a, b = self.nodes[0], self.nodes[1]
        pairs = [(cidr_a.replace("0/24", "250").replace("::/64", "::fa"),
                  cidr_b.replace("0/24", "250").replace("::/64", "::fa"))
                 for cidr_a, cidr_b in zip(a.pod_cidrs, b.pod_cidrs)]
        self.report.controls_sent += send_plaintext(
            a.namespace, a.uplink.device, a.uplink.mac, b.uplink.mac, pairs)

    def steps(self):
        return [
            ("lay the wire", self.lay_wire),
            ("start the capture", self.start_capture),
            ("start the nodes", self.start_nodes),
            ("attach the pods", self.attach_pods),
            ("wait for the tunnels", self.wait_for_tunnels),
            ("ping between nodes", self.ping_all),
            ("transfer by TCP", self.transfer),
            ("count what the wire saw", self.count),
        ]


def look_around(demo: Demo) -> str:
    a, b = demo.nodes[0], demo.nodes[1]
    pod, far = a.pods["pod1"], b.pods["pod1"]
    inside = f"nsenter --net={pod.namespace.path}"
    kubectl = f"nsenter --net={a.namespace.path} {binary('kubectl-espalier')} --socket {a.agent_socket}"
    return f"""
The mesh is up until Ctrl-C. In another terminal, as root:
  a pod's view        {inside} ip address
  ping another node   {inside} ping {far.ipv4}
                      {inside} ping {far.ipv6}
  tunnels             {kubectl} tunnels
  one tunnel          {kubectl} show {b.name}
  pods                {kubectl} pods
  watch the wire      nsenter --net={demo.wire.namespace.path} tcpdump -n -i br0
  logs                less {a.folder}/agent.log {a.folder}/espd.log
"""


def run_steps(demo: Demo) -> None:
    steps = demo.steps()
    for number, (title, action) in enumerate(steps, 1):
        print(f"[{number}/{len(steps)}] {title} ...", flush=True)
        begin = time.monotonic()
        try:
            text = action()
        except LabError as error:
            raise LabError(f"step {number} ({title}) failed: {error}") from None
        print(f"      {text} ({time.monotonic() - begin:.1f} s)", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev demo")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--datapath", choices=("user", "kernel"))
    args = parser.parse_args()
    try:
        with Lab("demo") as lab:
            demo = Demo(lab, driver=args.datapath)
            run_steps(demo)
            print("\nTunnels as kubectl-espalier shows them on each node:")
            for node in demo.nodes:
                print(f"\n{node.name}\n{node.kubectl('tunnels').rstrip()}")
            packets = demo.report.packets
            print(f"\nOn the wire: {packets.esp} ESP packets, "
                  f"{packets.plaintext} plaintext pod packets.", flush=True)
            if args.keep:
                print(look_around(demo), flush=True)
                signal.pause()
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: taken down", file=sys.stderr)
        return 0 if args.keep else 130
    print("demo: passed, and cleaned up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
