"""Agents over the kernel datapath, on a real kernel with ESP: what only that
datapath has. The lab's other tests run over it too (docs/development.md)."""

import platform

import pytest

from lab import wait_until
from lab.mesh import Mesh, outbound_spis, wait_for_new_spi
from lab.stream import PingStream

FOREIGN_SPI = "0x00000099"


def xfrm(node, *words: str) -> str:
    return node.namespace.run(["ip", "xfrm", *words]).stdout


def reqids(node) -> set[str]:
    words = xfrm(node, "state").split()
    return {after for word, after in zip(words, words[1:]) if word == "reqid"}


def add_foreign(node) -> None:
    """What another daemon has on the same node."""
    xfrm(node, "state", "add", "src", "192.0.2.99", "dst", node.uplink.ipv4, "proto", "esp",
         "spi", FOREIGN_SPI, "reqid", "42", "mode", "tunnel",
         "aead", "rfc4106(gcm(aes))", "0x" + "ab" * 20, "128")
    xfrm(node, "policy", "add", "src", "10.9.0.0/16", "dst", "10.8.0.0/16", "dir", "out",
         "tmpl", "src", node.uplink.ipv4, "dst", "192.0.2.99", "proto", "esp", "reqid", "42",
         "mode", "tunnel")


def assert_foreign_is_there(node) -> None:
    assert f"spi {FOREIGN_SPI}" in xfrm(node, "state")
    assert "src 10.9.0.0/16 dst 10.8.0.0/16" in xfrm(node, "policy")


@pytest.mark.parametrize("child", ["aes256gcm16-x25519", "chacha20poly1305-x25519",
                                   "aes256-sha256-x25519-noesn"])
def test_a_kernel_node_and_a_user_node(lab, child):
    """In UDP, because the user node asks for it."""
    mesh = Mesh(lab, driver={"node-a": "kernel", "node-b": "user"},
                extra={"proposals": {"child": [child]}}).up()
    mesh.assert_reachable()
    packets = mesh.finish()
    assert packets.count("esp") == 0
    assert packets.count("esp-udp") >= 8


@pytest.mark.parametrize("encapsulation", [False, True])
def test_over_ipv6(lab, encapsulation):
    """Both inner families in outer IPv6, as protocol 50 and in UDP."""
    mesh = Mesh(lab, driver="kernel")
    for node in mesh.nodes:
        node.write_config(mesh.peers_of(node), mesh.psk, peer_fields={
            peer.name: {"addresses": [peer.uplink.ipv6], "forceEncapsulation": encapsulation}
            for peer in mesh.peers_of(node)})
    mesh.up()
    mesh.assert_reachable()
    packets = mesh.finish()
    esp = [p for p in packets.packets if p.kind in ("esp", "esp-udp")]
    assert {p.kind for p in esp} == {"esp-udp" if encapsulation else "esp"}
    assert all(":" in p.source for p in esp)


def test_what_an_older_kernel_lacks_is_done_otherwise(lab):
    """6.1 stores no direction of an SA, and has no tcx."""
    mesh = Mesh(lab, driver="kernel").up()
    version = tuple(int(number) for number in platform.release().split(".")[:2])
    a = mesh.nodes[0]
    has_direction = str(version >= (6, 10)).lower()
    assert f'"sa_direction":{has_direction}' in a.agent.log()
    filters = a.namespace.run(["tc", "filter", "show", "dev", a.uplink.device, "ingress"]).stdout
    assert ("bpf" in filters) == (version < (6, 6)), filters
    mesh.assert_reachable()
    mesh.finish()


def test_an_agent_that_is_killed_is_succeeded_without_loss(lab):
    mesh = Mesh(lab, driver="kernel").up()
    a, b = mesh.nodes
    add_foreign(a)
    ours = reqids(a) - {"42"}
    first = PingStream(a.pods["pod1"].namespace, b.pods["pod1"].ipv4)
    second = PingStream(b.pods["pod1"].namespace, a.pods["pod1"].ipv6)
    with first, second:
        first.wait_for_more()
        before = outbound_spis(a, b)
        a.agent.kill()
        first.wait_for_more()
        a.start_agent()
        wait_until(lambda: outbound_spis(a, b) and not outbound_spis(a, b) & before, 40,
                   "the earlier agent's SAs are gone")
        a.wait_for_tunnels(1)
        first.wait_for_more()
    assert (first.lost, second.lost) == (set(), set())
    assert "SAs adopted" in a.agent.log()
    assert reqids(a) - {"42"} == ours
    assert_foreign_is_there(a)
    mesh.finish()


def test_the_ports_holder_may_die(lab):
    """The kernel decapsulates on behalf of its socket, of which the agent has a
    duplicate: the next holder goes on with that."""
    mesh = Mesh(lab, driver="kernel", peer_fields={"forceEncapsulation": True}).up()
    a, b = mesh.nodes
    first = PingStream(a.pods["pod1"].namespace, b.pods["pod1"].ipv4)
    second = PingStream(b.pods["pod1"].namespace, a.pods["pod1"].ipv6)
    with first, second:
        for node in mesh.nodes:
            first.wait_for_more()
            node.espd.kill()
            node.espd_socket.unlink()
            first.wait_for_more(50)
            node.start_espd()
            node.espd.wait_for_log("sockets taken over from the agent", 20)
            # And now an agent dies, of which the new holder is the memory.
            node.agent.kill()
            first.wait_for_more(50)
            node.start_agent()
            mesh.wait_for_tunnels()
        second.wait_for_more()
    assert (first.lost, second.lost) == (set(), set())
    packets = mesh.finish()
    assert packets.count("esp") == 0


def test_limits_of_the_kernel_become_rekeys_that_lose_nothing(lab):
    """Packets, because the kernel alone counts them."""
    mesh = Mesh(lab, driver="kernel", extra={"lifetimes": {"child": {
        "rekeyAfterPackets": 40, "expireAfterPackets": 1_000_000}}}).up()
    a, b = mesh.pods
    first, second = PingStream(a.namespace, b.ipv4), PingStream(b.namespace, a.ipv6)
    with first, second:
        for _ in range(3):
            wait_for_new_spi(*mesh.nodes, outbound_spis(*mesh.nodes), 30)
        first.wait_for_more()
    assert (first.lost, second.lost) == (set(), set())
    mesh.finish()


def test_what_hands_remove_is_made_good(lab):
    mesh = Mesh(lab, driver="kernel").up()
    a, b = mesh.nodes
    used = outbound_spis(a, b)
    # An SA is negotiated anew: its key was used, and must not be again.
    xfrm(a, "state", "flush")
    mesh.wait_until_reachable()
    assert not outbound_spis(a, b) & used
    used |= outbound_spis(a, b)
    xfrm(a, "policy", "flush")
    mesh.wait_until_reachable()
    a.namespace.run(["ip", "link", "delete", "espalier0"])
    mesh.wait_until_reachable()
    assert a.agent.log().count('"somebody removed the tunnel\'s interface') >= 1
    mesh.finish()
