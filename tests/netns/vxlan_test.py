"""The plaintext path by VXLAN: `disabled` pods take it, in both families, and nobody
else; what comes out of it is judged as what comes off the wire."""

import ipaddress
import json
import struct

import pytest

from lab.capture import VXLAN_PORT
from lab.mesh import Mesh
from lab.session import wait_until

DEVICE = "espalier-vxlan"
VXLAN_ID = 69
MODES = {"default": "required", "namespaces": {"legacy": {"encryption": "disabled"}}}
GUARDS = {"both-guards": {}, "bpf-alone": {"nftables": "off"}, "nftables-alone": {"bpf": "off"}}


def blocks(node) -> list[str]:
    """Where its `disabled` pods get their addresses."""
    return [f"10.244.{node.number}.240/28",
            f"fd00:244:{node.number:x}::ffff:ffff:ffff:fff0/124"]


class VxlanMesh(Mesh):
    guard: dict = {}

    def configure(self) -> None:
        for node in self.nodes:
            peers = self.peers_of(node)
            node.write_config(
                peers, self.psk,
                peer_fields={peer.name: {"plaintextBlocks": blocks(peer)} for peer in peers},
                extra={"modes": MODES, "guard": self.guard,
                       "cluster": {"podCIDRs": ["10.244.0.0/16", "fd00:244::/32"],
                                   "plaintextPath": "vxlan"}})

    def up(self) -> "VxlanMesh":
        super().up()
        self.plain = [node.add_pod("old", "legacy") for node in self.nodes]
        for node, pod in zip(self.nodes, self.plain):
            for address, block in zip((pod.ipv4, pod.ipv6), blocks(node)):
                assert ipaddress.ip_address(address) in ipaddress.ip_network(block)
        wait_until(lambda: self.plain[0].ping(self.plain[1].ipv4) == 1, 10, "the first ping")
        return self


@pytest.fixture
def mesh(lab, request):
    VxlanMesh.guard = getattr(request, "param", {})
    return VxlanMesh(lab)


def drops(node) -> int:
    return sum(value for key, value in node.metrics().items()
               if key.startswith("espalier_guard_packets_total") and 'result="drop"' in key)


@pytest.mark.parametrize("mesh", GUARDS.values(), ids=GUARDS, indirect=True)
def test_only_disabled_pods_take_it(mesh):
    mesh.up()
    a, b = mesh.plain
    for _ in range(5):
        assert a.ping(b.ipv4) == 1 and b.ping(a.ipv6) == 1
    mesh.assert_reachable()  # the required ones
    # To a disabled pod from a required one: the stronger end decides.
    assert mesh.pods[0].ping(b.ipv4) == 1 and b.ping(mesh.pods[0].ipv6) == 1
    seen = mesh.capture.stop()
    # Five pings each way and family, their answers, and the first one's.
    assert 20 <= seen.count("vxlan") <= 30
    assert seen.esp >= 16 and seen.plaintext == 0


def gpe(inner: bytes) -> bytes:
    """draft-ietf-nvo3-vxlan-gpe: flags I and P, the next protocol, the identifier."""
    return struct.pack("!BHBI", 0x0C, 0, 1 if inner[0] >> 4 == 4 else 2, VXLAN_ID << 8) + inner


def send_forged(mesh, source: str, destination: str) -> None:
    """From node-b's own address to node-a's VXLAN port: IPv4 and UDP inside."""
    inner = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 32, 1, 0, 64, 17, 0,
                        ipaddress.ip_address(source).packed,
                        ipaddress.ip_address(destination).packed)
    total = sum(struct.unpack("!10H", inner))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    inner = inner[:10] + struct.pack("!H", total ^ 0xFFFF) + inner[12:]
    inner += struct.pack("!HHHH", 7777, 7777, 12, 0) + b"leak"
    mesh.nodes[1].namespace.run(["/usr/bin/python3", "-c", f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(bytes.fromhex({gpe(inner).hex()!r}), ({mesh.nodes[0].uplink.ipv4!r}, {VXLAN_PORT}))
"""])


def listen(pod):
    server = pod.namespace.start(f"listen-{pod.name}", ["/usr/bin/python3", "-c", """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 7777))
print("listening", flush=True)
print("got", s.recv(100), flush=True)
"""])
    server.wait_for_log("listening", 10)
    return server


def test_what_is_forged_into_it_reaches_no_required_pod(mesh):
    mesh.up()
    required, plain = mesh.pods[0], mesh.plain[0]
    servers = [listen(pod) for pod in (required, plain)]
    before = drops(mesh.nodes[0])
    for source in (mesh.plain[1].ipv4, mesh.pods[1].ipv4, mesh.nodes[1].uplink.ipv4):
        send_forged(mesh, source, required.ipv4)
    wait_until(lambda: drops(mesh.nodes[0]) >= before + 3, 10, "the drops are counted")
    # The control: to the disabled pod it comes through.
    send_forged(mesh, mesh.plain[1].ipv4, plain.ipv4)
    servers[1].wait_for_log("got b'leak'", 10)
    assert "got" not in servers[0].log()


def test_a_route_into_it_takes_no_required_pod_along(mesh):
    mesh.up()
    a, b = mesh.nodes
    required, target = mesh.pods
    assert required.ping(target.ipv4) == 1
    before = drops(a)
    a.namespace.run(["ip", "route", "replace", f"{target.ipv4}/32", "table", "4502",
                     "encap", "ip", "id", VXLAN_ID, "dst", b.uplink.ipv4, "dev", DEVICE])
    assert required.ping(target.ipv4, wait=1) == 0
    assert drops(a) > before
    seen = mesh.capture.stop()
    # Those of the disabled pods' first pings alone: the capture would see more.
    assert 2 <= seen.count("vxlan") <= 12 and seen.plaintext == 0


def test_its_device_is_made_good_and_foreign_ones_stay(mesh):
    mesh.up()
    node = mesh.nodes[0].namespace
    node.run(["ip", "link", "delete", DEVICE])
    wait_until(lambda: mesh.plain[0].ping(mesh.plain[1].ipv4) == 1
               and node.run(["ip", "link", "show", DEVICE], check=False).returncode == 0,
               10, "it is there again")
    shown = json.loads(node.run(["ip", "-j", "-d", "link", "show", DEVICE]).stdout)[0]
    assert shown["ifalias"] == f"espalier plaintext path, UDP port {VXLAN_PORT}"
    # Without the path its device goes.
    config = mesh.nodes[0].config_path
    text = json.loads(config.read_text())
    text["cluster"]["plaintextPath"] = "none"
    text["modes"] = {"default": "required"}
    config.write_text(json.dumps(text))
    wait_until(lambda: node.run(["ip", "link", "show", DEVICE], check=False).returncode != 0,
               10, "its device is gone")
    # Somebody else's of that name is left alone.
    node.run(["ip", "link", "add", DEVICE, "type", "bridge"])
    text["cluster"]["plaintextPath"] = "vxlan"
    config.write_text(json.dumps(text))
    wait_until(lambda: "that Espalier did not make" in mesh.nodes[0].agent.log(), 10,
               "it says why")
    assert "bridge" in node.run(["ip", "-d", "link", "show", DEVICE]).stdout
