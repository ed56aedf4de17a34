"""What a running mesh must survive: each test breaks or changes one thing while
pods talk, and looks at the wire for plaintext. agent_test.py has what concerns
one agent."""

import time

import pytest

from lab import CLUSTER_CIDRS, Capture, Namespace, Node, Wire, wait_until
from lab.mesh import Mesh, outbound_spis, wait_for_new_spi
from lab.stream import PingStream


@pytest.fixture
def mesh(lab):
    return Mesh(lab).up()


@pytest.mark.parametrize("child", [
    {"rekeyAfter": "2s", "expireAfter": "20m"},
    {"rekeyAfterPackets": 40},
    {"rekeyAfterBytes": "20KiB"},
], ids=["seconds", "packets", "bytes"])
def test_short_lifetimes_rekey_by_themselves(lab, child):
    mesh = Mesh(lab, extra={"lifetimes": {
        "child": child,
        "ike": {"rekeyAfter": "3s", "expireAfter": "20m"}}}).up()
    a, b = mesh.pods
    first, second = PingStream(a.namespace, b.ipv4), PingStream(b.namespace, a.ipv6)
    with first, second:
        for _ in range(3):
            old = outbound_spis(*mesh.nodes)
            wait_for_new_spi(*mesh.nodes, old)
        first.wait_for_more()
    assert (first.lost, second.lost) == (set(), set())
    mesh.finish()


def test_without_espd_nothing_leaves_in_plaintext(mesh):
    a, b = mesh.nodes
    a.espd.kill()
    assert a.pods["pod1"].ping(b.pods["pod1"].ipv4, wait=1) == 0
    assert a.pods["pod1"].ping(b.pods["pod1"].ipv6, wait=1) == 0
    a.start_espd()
    mesh.wait_until_reachable()
    mesh.finish()


def test_without_agent_and_espd_nothing_leaves_in_plaintext(mesh):
    a, b = mesh.nodes
    a.agent.kill()
    a.espd.kill()
    assert a.pods["pod1"].ping(b.pods["pod1"].ipv4, wait=1) == 0
    assert b.pods["pod1"].ping(a.pods["pod1"].ipv6, wait=1) == 0
    # As after a reboot: both begin anew, and the peer has old SAs.
    a.start_espd()
    a.start_agent()
    mesh.wait_until_reachable()
    mesh.finish()


def test_a_cut_wire_heals(mesh):
    mesh.wire.cut(2)
    time.sleep(3)
    mesh.wire.join(2)
    mesh.wait_until_reachable()
    mesh.finish()


def test_pods_mtu_is_what_fits(mesh):
    a, b = mesh.pods
    link = a.run(["ip", "-o", "link", "show", "dev", "eth0"]).stdout
    mtu = int(link.split(" mtu ")[1].split()[0])
    assert 1380 <= mtu < 1500
    for address, headers in ((b.ipv4, 28), (b.ipv6, 48)):
        assert a.ping(address, size=mtu - headers) == 1
    packets = mesh.finish()
    # Not one fragment: each ESP packet is whole, and the full ones nearly fill
    # the wire.
    assert all(p.length <= 1500 for p in packets.packets)
    assert max(p.length for p in packets.packets) > 1460


def test_through_a_nat(lab):
    """node-a is behind a router that masquerades: node-b sees the router."""
    outside = Wire(lab)
    inside = Wire(lab, suffix="inside", ipv4_net="198.51.100")
    router = Namespace(lab, "router")
    outer = outside.attach(router, 254, device="eth0", ipv6=False)
    inner = inside.attach(router, 253, device="eth1", ipv6=False)
    router.sysctl("net.ipv4.ip_forward", 1)
    router.run(["nft", "-f", "-"], input="""
        table ip nat {
        chain out {
            type nat hook postrouting priority srcnat;
            oifname "eth0" masquerade random
        }
        }""")
    a = Node(lab, inside, "node-a", 1)
    b = Node(lab, outside, "node-b", 2)
    a.namespace.run(["ip", "route", "add", "default", "via", inner.ipv4])
    psk = "a secret for this one test only"
    a.write_config([b], psk, peer_fields={b.name: {"addresses": [b.uplink.ipv4]}},
                   extra={"timers": {"natKeepalive": "1s"}})
    b.write_config([a], psk, peer_fields={
        a.name: {"addresses": [outer.ipv4], "initiate": "never"}})
    capture = Capture(outside, lab.folder / "outside.pcap", CLUSTER_CIDRS)
    for node in (b, a):
        node.start_espd()
        node.start_agent()
        node.add_pod("pod1")
    for node in (a, b):
        node.wait_for_tunnels(1)
    for source, target in ((a, b), (b, a)):
        pod = target.pods["pod1"]
        assert source.pods["pod1"].ping(pod.ipv4) == 1
        assert source.pods["pod1"].ping(pod.ipv6) == 1
    assert a.show(b.name)["ike_sas"][0]["nat_local"]
    assert b.show(a.name)["ike_sas"][0]["nat_remote"]
    # By the kernel's SA where it can (Linux 6.11), else by the agent.
    def keepalives():
        return {p.source for p in capture.read().packets if p.kind == "keepalive"}
    wait_until(lambda: keepalives() == {outer.ipv4}, 20, "node-a's NAT keepalives")
    packets = capture.stop()
    assert (packets.plaintext, packets.count("esp")) == (0, 0)
    assert packets.count("esp-udp") >= 8


def test_nodes_with_public_keys(lab):
    """Each node makes its key at its first start; the peers get the public half."""
    mesh = Mesh(lab)
    own_key = {"auth": {"privateKeyFile": "node.key", "generatePrivateKey": True}}
    for node in mesh.nodes:
        node.write_config([], mesh.psk, extra=own_key)
        node.start_espd()
        node.start_agent()
        node.add_pod("pod1")
    assert (mesh.nodes[0].folder / "node.key").stat().st_mode & 0o777 == 0o600
    for node in mesh.nodes:
        node.write_config(mesh.peers_of(node), mesh.psk, extra=own_key, peer_fields={
            peer.name: {"auth": {"publicKeyFiles": [str(peer.folder / "node.key.pub")]}}
            for peer in mesh.peers_of(node)})
    mesh.wait_for_tunnels()
    mesh.assert_reachable()
    mesh.finish()


def test_auto_is_the_kernels_esp_where_there_is_some(lab):
    """As in ./dev guest, where this test runs too."""
    added = Namespace(lab, "asked").run(
        ["ip", "xfrm", "state", "add", "src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp",
         "spi", "0x1000", "mode", "tunnel", "aead", "rfc4106(gcm(aes))", "0x" + "ab" * 20, "128"],
        check=False)
    expected = "kernel" if added.returncode == 0 else "user"
    mesh = Mesh(lab, driver="auto")
    for node in mesh.nodes:
        node.driver = expected  # espd's flag is for its owner to choose
    mesh.up()
    for node in mesh.nodes:
        assert f'"event":"datapath chosen","driver":"{expected}"' in node.agent.log()
    mesh.assert_reachable()
    mesh.finish()
