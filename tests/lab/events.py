"""The events that `required` must survive (DESIGN 1.2, issue 4 item 5), each a
row: what is done, how it is undone, and what the packets do meanwhile. The same
for every datapath; lab/drivers.py has what differs."""

import time

from lab.capture import send_plaintext
from lab.forged_esp import send_forged
from lab.matrix import CONTINUES, EITHER, STOPS, Event, check_names
from lab.session import wait_until


# --- the agent ---

def start_agents(scene):
    for node in scene.nodes:
        if not node.agent.running():
            node.start_agent()


def kill_agent_and_datapath(scene):
    for node in scene.victims:
        node.agent.kill()
        scene.driver.stop_carrying(node)


def start_both(scene):
    for node in scene.victims:
        scene.driver.lose_everything(node)
        node.start_agent()


# --- what is removed by hand ---

def flush_sas(scene):
    for node in scene.victims:
        node.flushed = {sa["spi"] for sa in node.show("node-b")["esp_sas"]}
        scene.driver.flush_sas(node)


def assert_negotiated_anew(scene):
    """A key is installed once, ever: what was flushed never comes back."""
    for node in scene.victims:
        wait_until(lambda: "SA vanished" in node.agent.log(), 15, "it is reported")
        assert node.flushed
        assert not node.flushed & {sa["spi"] for sa in node.show("node-b")["esp_sas"]}


def assert_policy_reported(scene):
    for node in scene.victims:
        assert "policy vanished; it is put back" in node.agent.log()


# --- the peer and the wire ---

def peer_gone(scene):
    scene.wire.cut(scene.peer.number)
    scene.peer.agent.kill()
    scene.driver.stop_carrying(scene.peer)


def peer_back(scene):
    scene.wire.join(scene.peer.number)
    scene.driver.lose_everything(scene.peer)
    scene.peer.start_agent()


def wrong_key(scene):
    """The peer comes back with another pre-shared key, and no SA of before."""
    right, scene.psk = scene.psk, "not the key of the others, not at all"
    scene.configure(scene.peer)
    scene.psk = right
    scene.peer.agent.kill()
    scene.driver.lose_everything(scene.peer)
    scene.each(scene.driver.lose_everything)
    scene.peer.start_agent()


def right_key(scene):
    scene.configure(scene.peer)
    scene.peer.agent.kill()
    scene.peer.start_agent()


def block_ike(scene):
    """On the wire itself; then the SAs are lost, so that IKE is needed."""
    scene.wire.namespace.run(["nft", "-f", "-"], input="""
        table bridge blocked {
            chain forward {
                type filter hook forward priority 0;
                udp dport 500 drop
                udp dport 4500 @th,64,32 0 drop
            }
        }""")
    scene.each(scene.driver.lose_everything)


def unblock_ike(scene):
    scene.wire.namespace.run(["nft", "delete", "table", "bridge", "blocked"])


# --- pods ---

def add_pod_early(scene):
    """A pod that comes before its agent has any tunnel, and talks at once."""
    block_ike(scene)
    for node in scene.victims:
        scene.stop_agent(node)
        node.start_agent()
        pod = node.add_pod("early")
        scene.traffic.both_ways(f"{node.name}-early", pod, scene.peer.pods["pod"],
                                rate=scene.rate)


def remove_early(scene):
    unblock_ike(scene)
    scene.traffic.wait_for_flow()
    for node in scene.victims:
        for way in ("out4", "out6", "in4", "in6"):
            scene.traffic.remove(f"{node.name}-early-{way}")
        node.delete_pod(node.pods["early"])


def delete_pods(scene):
    """Their addresses stay where the peer sends to, and what comes out of ESP
    for them is routed back to the wire."""
    for node in scene.victims:
        node.delete_pod(node.pods["pod"])
        for name in scene.flows(node, ["out"]):
            scene.traffic.remove(name)
        scene.divert(node, own=True)


def replace_pods(scene):
    for node in scene.victims:
        scene.mend(node)
        for name in scene.flows(node, ["in"]):
            scene.traffic.remove(name)
        node.add_pod("pod")
        scene.start_flows(node)


# --- somebody who lies ---

def foreign(scene):
    counts = scene.traffic.counts()
    return {name: counts[name].foreign for name in scene.all_flows()}


def cheat(scene):
    """The peer sends under its own SA, with ICVs that are right, what is not its
    to send: a third node's pod, the victim's own pod, the victim's node, a
    stranger. One packet that is honest shows that the others would have arrived."""
    scene.foreign_before = foreign(scene)
    for node in scene.victims:
        pod, theirs = node.pods["pod"], scene.peer.pods["pod"]
        ports = scene.traffic.ports
        inner = []
        for family, honest, own, at_node, third, stranger in (
                (4, theirs.ipv4, pod.ipv4, node.uplink.ipv4, "10.244.77.7", "203.0.113.7"),
                (6, theirs.ipv6, pod.ipv6, node.uplink.ipv6, "fd00:244:77::7",
                 "2001:db8:7::7")):
            to, port = getattr(pod, f"ipv{family}"), ports[f"{node.name}-in{family}"]
            inner += [(source, to, port) for source in (third, own, at_node, stranger)]
            inner.append((honest, to, port))
        send_forged(scene.peer, node, inner)


def assert_only_the_honest_arrived(scene):
    inward = scene.all_flows(["in"])

    def arrived():
        now = foreign(scene)
        return {name: now[name] - scene.foreign_before[name] for name in inward}
    # It was sent last: with it, the others have been judged.
    wait_until(lambda: min(arrived().values()) >= 1, 10, "the honest packets arrive")
    assert set(arrived().values()) == {1}, arrived()


def forge_plaintext(scene):
    """From the wire, in plaintext: as the peer's pod, as another pod of the same
    node, as the victim's node itself, as its peer's node."""
    scene.foreign_before = foreign(scene)
    for node in (*scene.victims, scene.unguarded):
        pod, theirs = node.pods["pod"], scene.peer.pods["pod"]
        pairs = []
        for family in (4, 6):
            name = (f"{node.name}-in{family}" if node is not scene.unguarded
                    else f"control-in{family}")
            to, port = getattr(pod, f"ipv{family}"), scene.traffic.ports[name]
            sources = [getattr(theirs, f"ipv{family}"),
                       "10.244.77.7" if family == 4 else "fd00:244:77::7",
                       node.addresses[family == 6], scene.peer.addresses[family == 6]]
            pairs += [(source, to, port) for source in sources]
        send_plaintext(scene.attacker, scene.attacker_uplink.device,
                       scene.attacker_uplink.mac, node.uplink.mac, pairs)


def assert_no_forged_arrived(scene):
    assert foreign(scene) == scene.foreign_before
    # Where nothing guards, the same packets came through; but the kernel itself
    # refuses IPv4 packets that claim to come from this very node.
    counts = scene.traffic.counts()
    assert counts["control-in4"].foreign >= 3 and counts["control-in6"].foreign >= 4, counts


# --- broken routing: the guard alone is left ---

def mend_all(scene):
    scene.each(scene.mend)


def divert_by_second_uplink(scene):
    for node in (scene.peer, *scene.victims):
        if node.name not in scene.second_uplinks:
            scene.second_uplinks.add(node.name)
            scene.wire.second_uplink(node.namespace, node.number)
    for node in scene.victims:
        scene.divert(node, "eth1")


def diverted(do, undo=lambda scene: None):
    """The event, and broken routing on top of it."""
    def do_both(scene):
        scene.each(scene.divert)
        do(scene)
    def undo_both(scene):
        undo(scene)
        mend_all(scene)
    return do_both, undo_both


def repairs(scene, guard):
    return {node.name: node.metrics()[f'espalier_guard_repairs_total{{guard="{guard}"}}']
            for node in with_both(scene)}


def with_both(scene):
    """Where one guard goes, the other has to stand."""
    return [node for node in scene.victims
            if scene.has_guard(node, "bpf") and scene.has_guard(node, "nftables")]


def assert_repaired(guard):
    def check(scene):
        def all_repaired():
            now = repairs(scene, guard)
            return all(now[name] > before for name, before in scene.repairs_before.items())
        assert scene.repairs_before
        wait_until(all_repaired, 35, f"the {guard} guard is made good and reported")
    return check


def delete_nftables(scene):
    scene.repairs_before = repairs(scene, "nftables")
    scene.each(scene.divert)
    for node in with_both(scene):
        tables = node.namespace.run(["nft", "list", "tables"]).stdout.splitlines()
        ours = [line.split()[1:] for line in tables if "espalier" in line]
        assert ours, tables
        for family, name in ours:
            node.namespace.run(["nft", "delete", "table", family, name])


def detach_bpf(scene):
    scene.repairs_before = repairs(scene, "bpf")
    scene.each(scene.divert)
    for node in with_both(scene):
        scene.detach_bpf(node)


# --- modes ---

def strengthen(scene):
    """Pods that were `disabled` and speak in plaintext become `required`."""
    before = scene.witness.seen()
    scene.traffic.wait_for_flow(scene.plain_flows())
    seen = scene.witness.seen().since(before)
    assert min(seen.get("disabled", 4), seen.get("disabled", 6)) >= 50, seen.counts
    scene.set_plain_mode("required")
    time.sleep(1)  # a node enforces within a second
    scene.witness.seen()
    scene.witness.forbid_plaintext(*scene.plain_addresses())


def weaken(scene):
    """And back, with pods made anew (a running pod keeps what it has): their
    plaintext is on the wire again, and nobody else's."""
    scene.traffic.wait_for_flow(scene.plain_flows())
    scene.end_plain()
    scene.set_plain_mode("disabled")
    scene.start_plain()
    scene.set_plain_mode("disabled")  # with the blocks of their new addresses
    before = scene.witness.seen()
    scene.traffic.wait_for_flow(scene.plain_flows())
    seen = scene.witness.seen().since(before)
    assert min(seen.get("disabled", 4), seen.get("disabled", 6)) >= 50, seen.counts


def add_unknown(scene):
    """A pod of which nobody says what it is: the runtime names neither pod nor
    namespace."""
    for node in scene.victims:
        pod = node.add_pod("unknown", namespace=None)
        scene.traffic.both_ways(f"{node.name}-unknown", pod, scene.peer.pods["pod"],
                                rate=scene.rate)
        scene.divert(node)


def remove_unknown(scene):
    mend_all(scene)
    scene.traffic.wait_for_flow()
    for node in scene.victims:
        for way in ("out4", "out6", "in4", "in6"):
            scene.traffic.remove(f"{node.name}-unknown-{way}")
        node.delete_pod(node.pods["unknown"])


EVENTS = check_names([
    Event("agent killed", lambda s: s.each(s.kill_agent), start_agents,
          out=CONTINUES, back=CONTINUES),
    Event("agent stopped", lambda s: s.each(s.stop_agent), start_agents,
          out=CONTINUES, back=CONTINUES),
    Event("agent upgraded", lambda s: s.each(s.upgrade_agent),
          out=CONTINUES, back=CONTINUES),
    Event("SAs flushed by hand", flush_sas, out=EITHER, back=EITHER,
          after=assert_negotiated_anew),
    Event("policies flushed by hand", lambda s: s.each(s.driver.flush_policies),
          out=EITHER, back=EITHER, after=assert_policy_reported),
    Event("SAs and policies lost", lambda s: s.each(s.driver.lose_everything),
          out=EITHER, back=EITHER),
    Event("tunnel interface deleted", lambda s: s.each(s.driver.delete_interface),
          lambda s: s.each(s.driver.mend_interface), out=EITHER, back=EITHER),
    Event("agent and datapath killed", kill_agent_and_datapath, start_both),
    Event("peer gone", peer_gone, peer_back),
    Event("peer's key wrong", wrong_key, right_key),
    Event("IKE blocked on the wire", block_ike, unblock_ike),
    Event("peer unknown yet",
          lambda s: s.each(lambda n: s.reload(n, without_peers=True)),
          lambda s: s.each(s.reload), out=STOPS, back=EITHER),
    Event("pod created before its agent is in sync", add_pod_early, remove_early),
    Event("peer sends inner sources not its own", cheat, out=CONTINUES, back=CONTINUES,
          check=assert_only_the_honest_arrived),
])

# With broken routing only a guard holds: each of these leaks without one.
GUARD_EVENTS = check_names([
    Event("routing broken", *diverted(lambda s: None), out=STOPS, back=CONTINUES),
    Event("routing broken, agent killed",
          *diverted(lambda s: s.each(s.kill_agent), start_agents),
          out=STOPS, back=CONTINUES),
    Event("routing broken, agent upgraded", *diverted(lambda s: s.each(s.upgrade_agent)),
          out=STOPS, back=CONTINUES),
    Event("routing broken, no tunnel", *diverted(kill_agent_and_datapath, start_both)),
    Event("routing broken by a second uplink", divert_by_second_uplink, mend_all,
          out=STOPS, back=CONTINUES),
    Event("routed back out of ESP", lambda s: s.each(lambda n: s.divert(n, own=True)),
          # The strict reverse-path filter of the pod's interface may judge what it
          # sends by the same broken route.
          mend_all, out=EITHER, back=STOPS),
    Event("pod deleted while ESP comes for it", delete_pods, replace_pods,
          out=STOPS, back=STOPS),
    Event("plaintext forged on the wire", forge_plaintext, out=CONTINUES, back=CONTINUES,
          check=assert_no_forged_arrived),
    Event("mode changed both ways", strengthen, weaken, out=CONTINUES, back=CONTINUES),
    Event("mode unknown yet", add_unknown, remove_unknown, out=STOPS, back=CONTINUES),
    Event("nftables table deleted by hand", delete_nftables, mend_all,
          out=STOPS, back=CONTINUES, after=assert_repaired("nftables")),
    Event("BPF detached by hand", detach_bpf, mend_all,
          out=STOPS, back=CONTINUES, after=assert_repaired("bpf")),
])
