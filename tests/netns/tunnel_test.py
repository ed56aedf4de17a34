"""Up means that packets pass: probes in the tunnel, and what an agent says and
does when they are not answered."""

import json
import re

import pytest

from lab import binary, wait_until
from lab.mesh import Mesh, outbound_spis
from lab.stream import PingStream

# ESP in either form, and not IKE: in UDP it is told by the SPI, where IKE has
# the four zero octets of the non-ESP marker (RFC 3948 2.2).
DROP_ESP = """
table bridge lab {
    chain forward {
        type filter hook forward priority 0
        ether type ip ip protocol esp counter drop
        ether type ip udp dport 4500 @th,64,32 != 0 counter drop
    }
}"""


DROP_PROTOCOL_50 = """
table bridge lab {
    chain forward {
        type filter hook forward priority 0
        ip protocol esp counter drop
        ip6 nexthdr esp counter drop
    }
}"""


def drop(mesh, rules):
    mesh.wire.namespace.run(["nft", "-f", "-"], input=rules)


def dropped(mesh):
    """How many packets the wire has dropped."""
    text = mesh.wire.namespace.run(["nft", "list", "table", "bridge", "lab"]).stdout
    return sum(int(n) for n in re.findall(r"counter packets (\d+)", text))


def pass_again(mesh):
    mesh.wire.namespace.run(["nft", "delete", "table", "bridge", "lab"])


def wait_for_state(node, peer, state, seconds=40):
    last = {}

    def there():
        last.update(node.show(peer.name))
        return last["state"] == state
    wait_until(there, seconds, f"{node.name}: {peer.name} {state}, last {last.get('state')}")
    return last


def tunnel_metric(node, name, peer):
    return node.metrics()[f'{name}{{peer="{peer.name}"}}']


def test_the_probe_tells_whether_esp_passes(lab):
    mesh = Mesh(lab).up()
    a, b = mesh.nodes
    tunnel = a.show(b.name)
    assert tunnel["probe"] == "passing"
    # One for each family.
    assert int(tunnel["probes_answered"]) >= 2
    assert tunnel_metric(a, "espalier_tunnel_up", b) == 1

    drop(mesh, DROP_ESP)
    tunnel = wait_for_state(a, b, "no-packets")
    # IKE answers all the while: that alone is not "up".
    assert [ike["state"] for ike in tunnel["ike_sas"]] == ["established"]
    assert "10.244.2.1 and fd00:244:2::1" in tunnel["problem"]
    assert tunnel_metric(a, "espalier_tunnel_up", b) == 0
    assert tunnel_metric(a, "espalier_tunnel_no_packets", b) == 1
    assert mesh.pods[0].ping(mesh.pods[1].ipv4, wait=1) == 0
    pass_again(mesh)
    wait_for_state(a, b, "up")
    wait_for_state(b, a, "up")
    mesh.assert_reachable()
    mesh.finish()


def test_an_agent_that_is_away_is_no_broken_tunnel(lab):
    """Its kernel answers in its place: port unreachable, through the tunnel."""
    mesh = Mesh(lab).up()
    a, b = mesh.nodes
    b.agent.kill()
    before = int(a.show(b.name)["probes_sent"])
    wait_until(lambda: int(a.show(b.name)["probes_sent"]) >= before + 4, 60, "two more rounds")
    wait_until(lambda: a.show(b.name)["probe_answered_by_node"], 5, "the node's answer")
    assert a.show(b.name)["state"] == "up"
    assert "packets do not pass" not in a.agent.log()
    b.start_agent()
    mesh.wait_for_tunnels()
    mesh.finish()


@pytest.mark.parametrize("where", ["pod of the peer", "pod of the node", "uplink"])
def test_only_what_comes_out_of_the_tunnel_is_answered(lab, where):
    """A probe that anybody else sends gets no answer. The peer's own, sent by
    hand from its tunnel's address, is the control."""
    # The guards would not let it get that far.
    mesh = Mesh(lab, extra={"guard": {"bpf": "off", "nftables": "off"}}).up()
    a, b = mesh.nodes
    # The answer goes to the port of the probe alone, which b's agent holds.
    b.agent.kill()
    script = ("import socket, sys\n"
              "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1)\n"
              "s.setsockopt(0, 15, 1)\n"  # IP_FREEBIND
              "s.bind((sys.argv[1], 9470))\n"
              "s.sendto(bytes.fromhex('45535050010100000123456789abcdef'),"
              " ('10.244.1.1', 9470))\n"
              "for i in range(9):\n"
              "  try: answer = s.recv(100).hex()\n"
              "  except OSError as e: print('none', e); break\n"
              # a's own probes come here too.
              "  if answer.endswith('0123456789abcdef'): print('answer', answer); break\n")

    def ask(namespace, source):
        return namespace.run(["/usr/bin/python3", "-c", script, source]).stdout
    if where == "pod of the peer":
        assert ask(mesh.pods[1].namespace, mesh.pods[1].ipv4).startswith("none")
    elif where == "pod of the node":
        assert ask(mesh.pods[0].namespace, mesh.pods[0].ipv4).startswith("none")
    else:
        for name in ("all", "eth0"):
            a.namespace.sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
        b.namespace.run(["ip", "route", "add", "10.244.1.1/32", "via", a.uplink.ipv4,
                         "table", "99"])
        b.namespace.run(["ip", "rule", "add", "pref", "99", "to", "10.244.1.1", "lookup", "99"])
        assert "dev eth0" in b.namespace.run(["ip", "route", "get", "10.244.1.1"]).stdout
        assert ask(b.namespace, "10.244.2.1").startswith("none")
        b.namespace.run(["ip", "rule", "del", "pref", "99"])
    assert ask(b.namespace, "10.244.2.1") == "answer 45535050010200000123456789abcdef\n"


def encapsulated(node, peer):
    return node.show(peer.name)["encapsulated"]


@pytest.mark.parametrize("outer", [4, 6], ids=["ipv4", "ipv6"])
def test_falls_back_where_the_wire_drops_protocol_50(lab, outer):
    mesh = Mesh(lab, peer_fields={"forceEncapsulation": False})
    for node in mesh.nodes:
        node.write_config(mesh.peers_of(node), mesh.psk, peer_fields={
            peer.name: {"forceEncapsulation": False,
                        "addresses": [peer.addresses[0 if outer == 4 else 1]]}
            for peer in mesh.peers_of(node)})
    drop(mesh, DROP_PROTOCOL_50)
    mesh.up()
    a, b = mesh.nodes
    assert encapsulated(a, b) and encapsulated(b, a)
    # The lower identity did it, and says so everywhere.
    tunnel = a.show(b.name)
    assert tunnel["fell_back"] and not b.show(a.name)["fell_back"]
    assert tunnel_metric(a, "espalier_tunnel_fell_back", b) == 1
    assert a.metrics()["espalier_tunnel_fallbacks_total"] == 1
    assert "fell back to UDP 4500" in a.kubectl("tunnels")
    assert "falling back to UDP 4500" in a.agent.log()
    mesh.assert_reachable()
    assert dropped(mesh) >= 5  # or protocol 50 was never tried
    # In a pod's own stream nothing is lost on the way back.
    pass_again(mesh)
    assert a.kubectl("rekey", b.name, "--protocol50")
    wait_until(lambda: not encapsulated(a, b) and not encapsulated(b, a), 20, "protocol 50")
    mesh.wait_for_tunnels()
    mesh.assert_reachable()
    assert not a.show(b.name)["fell_back"]
    refused = b.namespace.run(
        [binary("kubectl-espalier"), "--socket", b.agent_socket, "rekey", a.name,
         "--protocol50"], check=False)
    assert refused.returncode == 1 and "did not fall back" in refused.stderr
    packets = mesh.finish()
    assert packets.count("esp") > 0 and packets.count("esp-udp") > 0


def test_protocol_50_stays_where_it_passes(lab):
    """The control of the test above."""
    mesh = Mesh(lab, peer_fields={"forceEncapsulation": False}).up()
    mesh.assert_reachable()
    for node in mesh.nodes:
        assert node.metrics()["espalier_tunnel_fallbacks_total"] == 0
        assert not node.tunnels()[0]["fell_back"]
    packets = mesh.finish()
    assert packets.count("esp-udp") == 0


def test_a_tunnel_on_demand_comes_with_the_first_packet_and_goes(lab):
    mesh = Mesh(lab, extra={"mesh": "on-demand", "timers": {"idle": "1s"}})
    for node in mesh.nodes:
        node.start_espd()
        node.start_agent()
        node.add_pod("pod1")
    a, b = mesh.nodes
    assert [t["state"] for node in mesh.nodes for t in node.tunnels()] == ["idle", "idle"]
    status = json.loads(a.kubectl("status", "-o", "json"))
    assert status["tunnels_wanted"] == 0
    assert a.metrics()["espalier_tunnels_wanted"] == 0
    assert a.metrics()['espalier_ike_datagrams_total{direction="out"}'] == 0
    for source, address in ((mesh.pods[0], mesh.pods[1].ipv4),
                            (mesh.pods[1], mesh.pods[0].ipv6)):
        wait_until(lambda s=source, t=address: s.ping(t, wait=1) == 1, 20, "a ping")
        wait_for_state(a, b, "up")
        for node, peer in ((a, b), (b, a)):
            wait_for_state(node, peer, "idle")
            wait_until(lambda n=node, p=peer: n.show(p.name)["esp_sas"] == [], 10,
                       f"no SA on {node.name}")
    assert "idle tunnel is closed" in a.agent.log() + b.agent.log()
    # Traffic keeps it.
    with PingStream(mesh.pods[0].namespace, mesh.pods[1].ipv4, interval=0.2) as stream:
        stream.wait_for_more(1)
        spi = outbound_spis(a, b)
        stream.wait_for_more(125, 60)
        assert outbound_spis(a, b) == spi
    assert stream.lost <= set(range(1, 10))  # before there was a tunnel
    # Also over a restart of the agent.
    a.agent.kill()
    a.start_agent()
    assert mesh.pods[0].ping(mesh.pods[1].ipv4) == 1
    wait_for_state(a, b, "idle")
    mesh.finish()
