"""Up means that packets pass: probes in the tunnel, and what an agent says and
does when they are not answered."""

import pytest

from lab import wait_until
from lab.mesh import Mesh

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

    mesh.wire.namespace.run(["nft", "-f", "-"], input=DROP_ESP)
    tunnel = wait_for_state(a, b, "no-packets")
    # IKE answers all the while: that alone is not "up".
    assert [ike["state"] for ike in tunnel["ike_sas"]] == ["established"]
    assert "10.244.2.1 and fd00:244:2::1" in tunnel["problem"]
    assert tunnel_metric(a, "espalier_tunnel_up", b) == 0
    assert tunnel_metric(a, "espalier_tunnel_no_packets", b) == 1
    assert mesh.pods[0].ping(mesh.pods[1].ipv4, wait=1) == 0
    mesh.wire.namespace.run(["nft", "delete", "table", "bridge", "lab"])
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
    mesh = Mesh(lab).up()
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
        b.namespace.run(["ip", "route", "add", "10.244.1.1/32", "via", a.uplink.ipv4])
        assert ask(b.namespace, "10.244.2.1").startswith("none")
        b.namespace.run(["ip", "route", "del", "10.244.1.1/32"])
    assert ask(b.namespace, "10.244.2.1") == "answer 45535050010200000123456789abcdef\n"
