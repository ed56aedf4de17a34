"""encryptNodeTraffic: what nodes themselves send to each other, in its stages,
and what must stay outside of the tunnels at all times."""

import pytest

from lab import wait_until
from lab.capture import control_frame, put_on_wire
from lab.drivers import datapath_of
from lab.mesh import Mesh
from lab.transfer import tcp_transfer

# Octets of a ping's payload that nothing else on the wire has.
ODD_SIZE = 777


def pings_seen(packets, size: int) -> int:
    """Plaintext pings between the nodes."""
    return sum(p.kind == "other" and p.length in (size + 28, size + 48)
               for p in packets.packets)


def ping(source, target, *, size: int = ODD_SIZE, **options) -> list[int]:
    return [source.namespace.ping(address, size=size, **options)
            for address in (target.uplink.ipv4, target.uplink.ipv6)]


def test_off_is_plaintext(lab):
    """The default, and the control: the capture sees such packets."""
    mesh = Mesh(lab).up()
    assert ping(*mesh.nodes) == [1, 1]
    assert pings_seen(mesh.finish(), ODD_SIZE) == 4


@pytest.mark.parametrize("udp", [True, False], ids=["udp", "protocol50"])
def test_require_sends_nothing_in_plaintext(lab, udp):
    mesh = Mesh(lab, extra={"encryptNodeTraffic": "require"},
                peer_fields={"forceEncapsulation": udp})
    # Agents that start with all of it in place still find each other.
    mesh.up()
    a, b = mesh.nodes
    assert ping(a, b) == [1, 1] and ping(b, a) == [1, 1]
    for address in b.addresses:
        tcp_transfer(a.namespace, b.namespace, address, megabytes=2)
    mesh.assert_reachable()
    for source, target in ((mesh.pods[0], b), (mesh.pods[1], a)):
        assert [source.ping(address, size=ODD_SIZE) for address in target.addresses] == [1, 1]
    # IKE goes on outside: a new IKE_SA while the tunnel is there.
    a.kubectl("rekey", b.name, "--ike")
    wait_until(lambda: a.metrics()['espalier_rekeys_total{kind="ike"}'] >= 1, 15, "a rekey")
    # Without a datapath nothing leaves, and the way back is found.
    b.agent.kill()
    datapath_of(b).stop_carrying(b)
    assert ping(a, b, wait=1) == [0, 0]
    if not b.espd.running():
        b.start_espd()
    b.start_agent()
    wait_until(lambda: ping(a, b, wait=1) == [1, 1], 60, "node-b again")
    packets = mesh.finish()
    assert pings_seen(packets, ODD_SIZE) == 0
    # Nor one of TCP's full packets. An ICMP error about IKE, from before the
    # agent on the other end was there, may be.
    assert all(p.length < 600 for p in packets.packets if p.kind == "other")


def test_send_uses_the_tunnel_when_there_is_one(lab):
    """Step one of the rollout: one end has it, the other not yet."""
    mesh = Mesh(lab)
    a, b = mesh.nodes
    a.write_config([b], mesh.psk, extra={"encryptNodeTraffic": "send"})
    for node in mesh.nodes:
        node.start_espd()
    a.start_agent()
    # Before there is a tunnel: in plaintext, both answered.
    assert ping(a, b, size=ODD_SIZE - 100) == [1, 1]
    b.start_agent()
    for node in mesh.nodes:
        node.add_pod("pod1")
    mesh.wait_for_tunnels()
    wait_until(lambda: "esp" in a.namespace.run(
        ["ip", "route", "get", b.uplink.ipv4]).stdout.replace("espalier", "esp"), 10, "a route")
    assert ping(a, b) == [1, 1]
    packets = mesh.finish()
    assert pings_seen(packets, ODD_SIZE - 100) == 4
    # Of each ping the request is encrypted; b's answers are not yet.
    assert pings_seen(packets, ODD_SIZE) == 2


FORGED_PORT, OPEN_PORT = 4444, 5353
JUDGE = """
table inet judge {
  counter forged { }
  counter open { }
  chain input {
    type filter hook input priority 100; policy accept;
    udp dport 4444 counter name forged
    udp dport 5353 counter name open
  }
}
"""


def arrived(node, counter: str) -> int:
    words = node.namespace.run(["nft", "list", "counter", "inet", "judge", counter]).stdout
    return int(words.split("packets")[1].split()[0])


def forge(mesh, source, target) -> None:
    """Plaintext that claims to be of `source`'s node, in both families."""
    put_on_wire(mesh.wire.namespace, f"port{target.number}", [
        control_frame(sender, receiver, source.uplink.mac, target.uplink.mac, port)
        for sender, receiver in zip(source.addresses, target.addresses)
        for port in (FORGED_PORT, OPEN_PORT)])


def test_forged_plaintext_of_a_node_is_refused(lab):
    """Accepted until the peer has confirmed that it uses the tunnel, or always
    with `require`."""
    exceptions = {"nodeTrafficExceptions": [f"udp/{OPEN_PORT}"]}
    mesh = Mesh(lab, extra={"encryptNodeTraffic": "confirm", **exceptions})
    a, b = mesh.nodes
    b.write_config([a], mesh.psk, extra={"encryptNodeTraffic": "off"})
    mesh.up()
    for node in mesh.nodes:
        node.namespace.run(["nft", "-f", "-"], input=JUDGE)
    wait_until(lambda: b.show(a.name).get("node_traffic_confirmed"), 20, "a's word")
    # The control: b has not confirmed, so a accepts both.
    forge(mesh, b, a)
    wait_until(lambda: arrived(a, "forged") == 2, 10, "forged packets")
    assert ping(b, a) == [1, 1]
    b.write_config([a], mesh.psk, extra={"encryptNodeTraffic": "send"})
    wait_until(lambda: a.show(b.name).get("node_traffic_required"), 30, "b's word")
    forge(mesh, b, a)
    wait_until(lambda: arrived(a, "open") == 4, 10, "the exception's packets")
    assert arrived(a, "forged") == 2
    assert "node_plaintext" in a.kubectl("drops", "-o", "json")
    assert "of a node that uses ESP" in a.kubectl("drops")
    # b does not require it: what is forged still arrives there.
    forge(mesh, a, b)
    wait_until(lambda: arrived(b, "forged") == 2, 10, "forged packets")
    assert ping(a, b) == [1, 1] and ping(b, a) == [1, 1]
    b.write_config([a], mesh.psk, extra={"encryptNodeTraffic": "require", **exceptions})
    wait_until(lambda: b.show(a.name).get("node_traffic_required"), 30, "require")
    forge(mesh, a, b)
    wait_until(lambda: arrived(b, "open") == 4, 10, "the exception's packets")
    assert arrived(b, "forged") == 2
    assert ping(a, b) == [1, 1] and ping(b, a) == [1, 1]
    # Neighbour discovery is not taken for forged.
    for node in mesh.nodes:
        node.namespace.run(["ip", "neigh", "flush", "dev", node.uplink.device])
    assert ping(a, b) == [1, 1] and ping(b, a) == [1, 1]
    mesh.assert_reachable()


def test_exceptions_stay_reachable_without_a_tunnel(lab):
    """The API server and DNS, in both directions."""
    mesh = Mesh(lab, extra={"encryptNodeTraffic": "require",
                            "nodeTrafficExceptions": ["tcp/6443", "tcp/5353"]})
    a, b = mesh.nodes
    a.start_espd()
    a.start_agent()
    assert ping(a, b, wait=1) == [0, 0]
    for address in b.addresses:
        for port in (6443, 5353):
            tcp_transfer(a.namespace, b.namespace, address, megabytes=1, port=port)
    for address in a.addresses:
        tcp_transfer(b.namespace, a.namespace, address, megabytes=1, port=6443)
