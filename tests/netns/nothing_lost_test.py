"""Rekeys, and an agent that dies, is upgraded or stays away, lose no packet
(DESIGN 1.3): 1,000 packets a second from and to a pod, in both families, each
numbered and looked for at the receiver. With ESP in UDP and as protocol 50."""

import os
import time

import pytest

from lab import wait_until
from lab.scene import Scene

# Each so short that a peer gives an absent agent up long before it is back. With
# the defaults the ESP that goes on is a sign of life to it.
IMPATIENT = {"liveness": "1s", "grace": "1s", "drain": "1s", "retransmitFirst": "100ms",
             "retransmitMax": "500ms", "retransmitTries": 5}
# The real three minutes with the default timers, for who has them:
# ESPALIER_AGENT_AWAY=180.
AWAY_SECONDS = float(os.environ.get("ESPALIER_AGENT_AWAY", 8))
TIMERS = IMPATIENT if AWAY_SECONDS < 180 else {}
EACH_SECOND = {"child": {"rekeyAfter": "1s", "expireAfter": "20m"},
               "ike": {"rekeyAfter": "2s", "expireAfter": "20m"}}


@pytest.fixture(params=[True, False], ids=["udp", "protocol50"])
def udp(request):
    return request.param


def make(lab, udp, **common):
    return Scene(lab, {"node-a": {}}, udp=udp, tick=1000, control=False,
                 common={"timers": TIMERS, **common}).up()


def assert_nothing_lost(scene, at_least):
    counts = scene.traffic.pause()
    judge(scene, counts, at_least)
    scene.traffic.resume()


def judge(scene, counts, at_least):
    for name, count in counts.items():
        print(f"{name}: {count.sent} sent, {count.missing} lost, {count.doubled} doubled")
    assert all(count.received >= at_least for count in counts.values()), counts
    assert {name: (count.missing, count.doubled, count.gaps)
            for name, count in counts.items()} == dict.fromkeys(counts, (0, 0, []))
    seen = scene.witness.seen()
    assert seen.get("plaintext") == 0 and seen.esp >= 4 * at_least


def rekeys(node, kind):
    return node.metrics()[f'espalier_rekeys_total{{kind="{kind}"}}']


def test_rekeys_every_second_under_load(lab, udp):
    scene = make(lab, udp, lifetimes=EACH_SECOND)
    def enough():
        return all(rekeys(node, "child") >= 6 and rekeys(node, "ike") >= 2
                   for node in scene.nodes)
    wait_until(enough, 40, "six CHILD_SA rekeys and two of the IKE_SA")
    assert_nothing_lost(scene, at_least=1000)


def outbound(node, peer):
    return {sa["spi"] for sa in node.show(peer)["esp_sas"] if sa["direction"] == "out"}


def wait_for_switch(scene, node, before):
    """Until the tunnel is the new agent's own, both ways."""
    peer = "node-b" if node is not scene.peer else "node-a"
    def switched():
        tunnel = node.show(peer)
        spis = {sa["spi"] for sa in tunnel["esp_sas"]}
        return tunnel["state"] == "up" and spis and not spis & before
    wait_until(switched, 30, f"new SAs alone on {node.name}")


def test_an_agent_that_goes_and_comes_loses_nothing(lab, udp):
    """kill -9 at either end, an upgrade at either end."""
    scene = make(lab, udp)
    victim = scene.victims[0]
    for node in scene.nodes:
        before = outbound(node, "node-b" if node is victim else "node-a")
        scene.kill_agent(node)
        time.sleep(0.5)
        node.start_agent()
        wait_for_switch(scene, node, before)
        assert_nothing_lost(scene, at_least=200)
    for node in scene.nodes:
        before = outbound(node, "node-b" if node is victim else "node-a")
        scene.upgrade_agent(node)
        wait_for_switch(scene, node, before)
        assert_nothing_lost(scene, at_least=400)


def test_an_agent_that_is_away_loses_nothing(lab, udp):
    """For longer than its peer waits for it."""
    scene = make(lab, udp)
    victim = scene.victims[0]
    before = outbound(victim, "node-b")
    scene.kill_agent(victim)
    time.sleep(AWAY_SECONDS)
    # The peer knows by now, and keeps what carries the packets.
    assert scene.peer.tunnels()[0]["state"] != "down"
    if TIMERS:
        wait_until(lambda: "established" not in {
            sa["state"] for sa in scene.peer.show("node-a")["ike_sas"]}, 20,
            "the peer gives it up")
    victim.start_agent()
    wait_for_switch(scene, victim, before)
    assert_nothing_lost(scene, at_least=1000)


def test_an_upgraded_espd_loses_nothing(lab, udp):
    """Twice at either end; the agents stay, and know their SAs again."""
    scene = make(lab, udp)
    for node in scene.nodes * 2:
        peer = "node-b" if node is not scene.peer else "node-a"
        before = outbound(node, peer)
        node.upgrade_espd()
        node.agent.wait_for(lambda: node.agent.log().count('"event":"espd connected"') ==
                            node.agent.log().count('"event":"espd connection lost"') + 1,
                            20, "its new connection to espd")
        assert_nothing_lost(scene, at_least=200)
        assert outbound(node, peer) == before
        assert node.show(peer)["state"] == "up"
        assert '"restarted":true' not in node.agent.log()
    # And what the agents do next reaches the new ones.
    assert_rekey_works(scene)


def assert_rekey_works(scene):
    victim = scene.victims[0]
    before = outbound(victim, "node-b")
    scene.kill_agent(victim)
    victim.start_agent()
    wait_for_switch(scene, victim, before)
    assert_nothing_lost(scene, at_least=200)


def test_one_lost_packet_would_be_named(lab):
    """The control of the tests above."""
    scene = make(lab, True)
    scene.wire.namespace.run(["nft", "-f", "-"], input="""
        table bridge lossy {
            chain forward {
                type filter hook forward priority 0;
                udp dport 4500 limit rate 20/second burst 1 packets drop
            }
        }""")
    time.sleep(1)
    scene.wire.namespace.run(["nft", "delete", "table", "bridge", "lossy"])
    counts = scene.traffic.pause()
    assert sum(count.missing for count in counts.values()) >= 10
    assert all(count.gaps[0][1] <= 3 for count in counts.values() if count.missing)


FOREIGN = [
    ["ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.254", "proto", "99"],
    ["ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.254", "table", "4500",
     "proto", "static"],
    ["ip", "route", "add", "10.244.77.0/24", "via", "192.0.2.254"],
    ["ip", "-6", "route", "add", "fd00:244:77::/64", "via", "2001:db8::fe"],
    ["ip", "rule", "add", "pref", "4400", "from", "203.0.113.9", "lookup", "main"],
    ["ip", "rule", "add", "pref", "4500", "from", "203.0.113.8", "lookup", "main"],
    ["nft", "add", "table", "inet", "somebody"],
    ["nft", "add", "chain", "inet", "somebody", "c",
     "{ type filter hook forward priority 5 ; }"],
    ["nft", "add", "rule", "inet", "somebody", "c", "ip", "saddr", "203.0.113.9",
     "counter", "drop"],
    ["tc", "qdisc", "add", "dev", "eth0", "clsact"],
    ["tc", "filter", "add", "dev", "eth0", "ingress", "pref", "77", "protocol", "ip",
     "u32", "match", "ip", "src", "203.0.113.9/32", "action", "drop"],
]
LOOKS = (["ip", "route", "show", "table", "all"], ["ip", "-6", "route", "show", "table", "all"],
         ["ip", "rule"], ["ip", "-6", "rule"], ["ip", "-o", "address"],
         ["nft", "list", "table", "inet", "somebody"],
         ["tc", "filter", "show", "dev", "eth0", "ingress"])


def test_a_restarted_agent_leaves_alone_what_is_not_its_own(lab):
    scene = make(lab, True)
    node = scene.victims[0]
    for command in FOREIGN:
        node.namespace.run(command, check=command[0] != "tc")
    def look():
        return [line.strip() for command in LOOKS
                for line in node.namespace.run(command).stdout.splitlines()
                # What the kernel learns and forgets by itself.
                if "cache" not in line and "expires" not in line]
    # The kernel stops a device's sending while it gets a clsact qdisc: what that
    # cost is not the agent's doing.
    scene.traffic.pause()
    for name in scene.flows(node):
        scene.traffic.remove(name)
    scene.start_flows(node)
    scene.traffic.wait_for_flow()
    before = look()
    assert sum("203.0.113" in line or "77" in line for line in before) >= 8
    spis = outbound(node, "node-b")
    scene.kill_agent(node)
    node.start_agent()
    wait_for_switch(scene, node, spis)
    assert look() == before
    assert_nothing_lost(scene, at_least=200)
