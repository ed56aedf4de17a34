"""The kernel datapath's figures, in the guest: TCP between two pods through what
the agents installed, against the same SAs made by hand with `ip xfrm` between the
same nodes; and SAs and policies installed a second against `ip -batch`. Rates in
an emulated machine mean nothing; the ratios, inside one boot, do."""

import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROUNDS = 5
TRANSFER_MB = 8
LEAST_RATIO = 0.97


def start_guest() -> int:
    return subprocess.run(
        [ROOT / "dev", "guest", "--seconds", "280",
         f"/usr/bin/python3 {pathlib.Path(__file__).resolve()}"], cwd=ROOT).returncode


def by_hand(mesh, number: int, mtu: int):
    """A pod of the node's with addresses of its own, behind an xfrm interface, SAs
    and policies of ip's: as Espalier's, but made by hand."""
    from lab import Namespace
    node, peer = mesh.nodes[number - 1], mesh.nodes[2 - number]
    pod = Namespace(mesh.lab, f"hand{number}")
    run = node.namespace.run
    run(["ip", "link", "add", "handpod", "mtu", mtu, "type", "veth", "peer", "name", "eth0",
         "netns", pod.path, "mtu", mtu])
    run(["ip", "address", "add", f"10.99.{number}.1/24", "dev", "handpod"])
    run(["ip", "link", "set", "handpod", "up"])
    pod.run(["ip", "address", "add", f"10.99.{number}.2/24", "dev", "eth0"])
    pod.run(["ip", "link", "set", "eth0", "up"])
    pod.run(["ip", "route", "add", "default", "via", f"10.99.{number}.1"])
    run(["ip", "link", "add", "hand0", "mtu", mtu, "type", "xfrm", "if_id", "7"])
    run(["ip", "link", "set", "hand0", "up"])
    node.namespace.sysctl("net.ipv4.conf.hand0.rp_filter", 0)
    run(["ip", "route", "add", f"10.99.{3 - number}.0/24", "dev", "hand0"])
    for sender in (1, 2):
        ends = [node.uplink.ipv4, peer.uplink.ipv4]
        source, destination = ends if sender == number else ends[::-1]
        run(["ip", "xfrm", "state", "add", "src", source, "dst", destination, "proto", "esp",
             "spi", f"0x{0x900 + sender:x}", "reqid", "7", "mode", "tunnel",
             "replay-window", "1" if sender == number else "4096", "flag", "af-unspec", "esn",
             "aead", "rfc4106(gcm(aes))", "0x" + f"{sender:02x}" * 36, "128", "if_id", "7"])
        for way in (["out"] if sender == number else ["in", "fwd"]):
            run(["ip", "xfrm", "policy", "add", "src", f"10.99.{sender}.0/24",
                 "dst", f"10.99.{3 - sender}.0/24", "dir", way, "tmpl", "src", source,
                 "dst", destination, "proto", "esp", "reqid", "7", "mode", "tunnel",
                 "if_id", "7"])
    return pod


def throughput() -> bool:
    from lab import Lab
    from lab.mesh import Mesh
    from lab.transfer import tcp_transfer
    with Lab("kernel-bench") as lab:
        mesh = Mesh(lab, driver="kernel",
                    extra={"guard": {"bpf": "off", "nftables": "off"}}).up()
        mesh.capture.stop()
        ours = mesh.pods
        link = ours[0].run(["ip", "-o", "link", "show", "dev", "eth0"]).stdout
        mtu = link.split(" mtu ")[1].split()[0]
        hand = [by_hand(mesh, number, mtu) for number in (1, 2)]
        ratios, rates = [], {"Espalier": [], "by hand": []}
        for number in range(ROUNDS + 1):
            seconds = {
                "Espalier": lambda: tcp_transfer(ours[0].namespace, ours[1].namespace,
                                                 ours[1].ipv4, TRANSFER_MB),
                "by hand": lambda: tcp_transfer(hand[0], hand[1], "10.99.2.2", TRANSFER_MB)}
            # Each goes first in every other round.
            order = sorted(seconds, reverse=number % 2 == 1)
            took = {name: seconds[name]() for name in order}
            if number == 0:
                continue  # warm-up
            for name, value in took.items():
                rates[name].append(TRANSFER_MB * 8.388608 / value)
            ratios.append(took["by hand"] / took["Espalier"])
        print(f"TCP between pods, Mb/s, median of {ROUNDS}: "
              + ", ".join(f"{name} {statistics.median(rate):.1f}"
                          for name, rate in rates.items()))
        ratio = statistics.median(ratios)
        print(f"ratio {ratio:.3f} (must {LEAST_RATIO}); of the rounds: "
              + " ".join(f"{value:.3f}" for value in ratios), flush=True)
        return ratio >= LEAST_RATIO


def main() -> int:
    if "ESPALIER_GUEST" not in os.environ:
        return start_guest()
    program = pathlib.Path(os.environ["ESPALIER_BIN_DIR"], "xfrm_install_rate")
    rate = subprocess.run([program], stderr=subprocess.DEVNULL).returncode
    return 0 if throughput() and rate == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
