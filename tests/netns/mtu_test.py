"""A path whose MTU is 1400 between links of 1500: two routers and a narrow wire.
Large TCP and UDP get through in both families, and the sizes are exact."""

import dataclasses
import time

import pytest

from lab import CLUSTER_CIDRS, Capture, Namespace, Node, Wire
from lab.transfer import tcp_transfer

NARROW = 1400
PSK = "a pre-shared key for these tests alone"
GCM, CHACHA, CBC = "aes256gcm16-x25519", "chacha20poly1305-x25519", "aes256-sha256-x25519-noesn"
# The outer IP header, UDP if there is any, ESP's 8, the IV, the ICV's 16; then
# padding with 2 octets of trailer (RFC 4303 2.4). Of GCM and ChaCha20 the IV has 8
# octets and the padding goes to 4 (RFC 4106, RFC 7634), of CBC both are 16.
INNER_MTU = {(GCM, 4, True): 1338, (GCM, 4, False): 1346, (GCM, 6, True): 1318,
             (GCM, 6, False): 1326, (CHACHA, 4, True): 1338, (CBC, 6, False): 1310}

RECEIVER = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 5300))
print("listening", flush=True)
while True:
    data = s.recv(65535)
    print("got", len(data), len(set(data)), flush=True)
"""
SENDER = """
import socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
# The first ones may only teach the path's MTU.
for number in range(int(sys.argv[2])):
    try: s.sendto(bytes([number]) * 8000, (sys.argv[1], 5300))
    except OSError as error: print(error)
    time.sleep(0.2)
"""


@dataclasses.dataclass
class Narrow:
    nodes: list
    middle: Wire
    capture: Capture


def build(lab, child: str, outer: int, udp: bool) -> Narrow:
    wires = [Wire(lab),
             Wire(lab, suffix="wire-b", ipv4_net="198.51.100", ipv6_net="2001:db8:1:")]
    middle = Wire(lab, suffix="middle", mtu=NARROW, ipv4_net="203.0.113",
                  ipv6_net="2001:db8:3:")
    nets = (("192.0.2.0/24", "2001:db8::/64"), ("198.51.100.0/24", "2001:db8:1::/64"))
    nodes = []
    for number, (wire, far) in enumerate(zip(wires, reversed(nets)), 1):
        router = Namespace(lab, f"router{number}")
        router.sysctl("net.ipv4.ip_forward", 1)
        router.sysctl("net.ipv6.conf.all.forwarding", 1)
        near_end = wire.attach(router, 254)
        middle.attach(router, number, device="eth1")
        other = 3 - number
        for net, via in zip(far, (f"203.0.113.{other}", f"2001:db8:3::{other}")):
            router.run(["ip", "route", "add", net, "via", via])
        node = Node(lab, wire, ("node-a", "node-b")[number - 1], number)
        for net, via in zip(far, (near_end.ipv4, near_end.ipv6)):
            node.namespace.run(["ip", "route", "add", net, "via", via])
        nodes.append(node)
    capture = Capture(middle, lab.folder / "middle.pcap", CLUSTER_CIDRS)
    for node, peer in zip(nodes, reversed(nodes)):
        node.write_config([peer], PSK, extra={"proposals": {"child": [child]}}, peer_fields={
            peer.name: {"forceEncapsulation": udp,
                        "addresses": [peer.addresses[0 if outer == 4 else 1]]}})
        node.start_espd()
        node.start_agent()
        node.add_pod("pod1")
    for node in nodes:
        node.wait_for_tunnels(1)
    return Narrow(nodes, middle, capture)


def datagrams_that_arrive(source, target, address: str, count: int) -> int:
    receiver = target.namespace.start(
        f"udp-{source.full_name.replace('/', '-')}-{time.monotonic_ns()}",
        ["/usr/bin/python3", "-c", RECEIVER, address])
    receiver.wait_for_log("listening", 10)
    source.run(["/usr/bin/python3", "-c", SENDER, address, count])
    time.sleep(0.5)
    log = receiver.log()
    receiver.kill()
    assert log.count("got") == log.count("got 8000 1")
    return log.count("got")


def name_of(case) -> str:
    child, outer, udp = case
    return f"{child.partition('-x25519')[0]}-outer{outer}-{'udp' if udp else 'protocol50'}"


@pytest.mark.parametrize("case", INNER_MTU, ids=name_of)
def test_a_narrow_path_is_no_black_hole(lab, case):
    narrow = build(lab, *case)
    pods = [node.pods["pod1"] for node in narrow.nodes]
    for source, target in (pods, reversed(pods)):
        for address in (target.ipv4, target.ipv6):
            tcp_transfer(source.namespace, target.namespace, address, megabytes=2)
            # Of ten, two may teach: one the tunnel's end, one the pod.
            assert datagrams_that_arrive(source, target, address, 10) >= 8
    # The path's MTU is known by now, and is told to the octet: what may not be
    # fragmented passes up to it.
    mtu = INNER_MTU[case]
    for address, headers in ((pods[1].ipv4, 28), (pods[1].ipv6, 48)):
        fits = pods[0].run(["ping", "-n", "-c", 3, "-W", 2, "-M", "do", "-s",
                            mtu - headers, address], check=False)
        assert "3 received" in fits.stdout, (address, fits.stdout)
        over = pods[0].run(["ping", "-n", "-c", 2, "-W", 1, "-M", "do", "-s",
                            mtu - headers + 1, address], check=False)
        assert " 0 received" in over.stdout, (address, over.stdout)
        # It is told so, not left to wonder.
        assert f"mtu={mtu}" in (over.stdout + over.stderr).replace(" = ", "=").replace(
            "mtu: ", "mtu="), (over.stdout, over.stderr)
    packets = narrow.capture.stop()
    assert packets.plaintext == 0 and packets.esp > 1000
    assert max(p.length for p in packets.packets if p.kind.startswith("esp")) <= NARROW
    assert (packets.count("esp") == 0) == case[-1]
