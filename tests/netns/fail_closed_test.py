"""What is `required` never leaves in plaintext: each event happens while packets
flow from and to the victims' pods in both families, and the witness on the wire
sees none outside ESP (DESIGN 1.2). tests/lab/matrix.py has what is asserted, the
control of each event included."""

import pytest

from lab import Lab, wait_until
from lab.espd import Control
from lab.matrix import CONTINUES, EITHER, STOPS, Event, check_names, run_event
from lab.scene import Scene


def flush_sas(node):
    """By hand, behind the agent's back."""
    node.flushed = {sa["spi"] for sa in node.show("node-b")["esp_sas"]}
    control = Control(node.espd_socket, subscribe=False)
    for sa in control.sas():
        direction, destination, spi = sa.key
        control.remove_key(direction, destination, spi)
    control.close()


def flush_policies(node):
    control = Control(node.espd_socket, subscribe=False)
    for reqid in control.policies():
        control.remove_policy(reqid)
    control.close()


def assert_negotiated_anew(node):
    """A key is installed once, ever: what was flushed never comes back."""
    wait_until(lambda: "SA vanished" in node.agent.log(), 15, "it is reported")
    assert node.flushed
    assert not node.flushed & {sa["spi"] for sa in node.show("node-b")["esp_sas"]}


def assert_policy_reported(node):
    assert "policy vanished; it is put back" in node.agent.log()


def start_agents(scene):
    for node in scene.nodes:
        if not node.agent.running():
            node.start_agent()


def peer_gone(scene):
    scene.wire.cut(scene.peer.number)
    scene.peer.agent.kill()
    scene.peer.espd.kill()


def peer_back(scene):
    scene.wire.join(scene.peer.number)
    scene.restart_espd(scene.peer)
    scene.peer.start_agent()


def wrong_key(scene):
    """The peer comes back with another pre-shared key, and no SA of before."""
    right, scene.psk = scene.psk, "not the key of the others, not at all"
    scene.configure(scene.peer)
    scene.psk = right
    scene.peer.agent.kill()
    scene.restart_espd(scene.peer)
    scene.each(scene.restart_espd)
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
    scene.each(scene.restart_espd)


def unblock_ike(scene):
    scene.wire.namespace.run(["nft", "delete", "table", "bridge", "blocked"])


def delete_tunnel_interface(node):
    node.namespace.run(["ip", "link", "delete", "espalier0"])


def await_espd(node):
    """Its supervisor starts it again once it has ended by itself."""
    assert node.espd.wait(10) == 1
    assert "the TUN was deleted" in node.espd.log()
    node.start_espd()


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


def delete_pod(node):
    """Its addresses stay where the peer sends to."""
    node.delete_pod(node.pods["pod"])


def replace_pods(scene):
    for node in scene.victims:
        scene.stop_flows(node)
        node.add_pod("pod")
        scene.start_flows(node)


EVENTS = check_names([
    Event("agent killed", lambda s: s.each(s.kill_agent), start_agents,
          out=CONTINUES, back=CONTINUES),
    Event("agent stopped", lambda s: s.each(s.stop_agent), start_agents,
          out=CONTINUES, back=CONTINUES),
    Event("agent upgraded", lambda s: s.each(s.upgrade_agent),
          out=CONTINUES, back=CONTINUES),
    Event("SAs flushed by hand", lambda s: s.each(flush_sas), out=EITHER, back=EITHER,
          after=lambda s: s.each(assert_negotiated_anew)),
    Event("policies flushed by hand", lambda s: s.each(flush_policies),
          out=EITHER, back=EITHER, after=lambda s: s.each(assert_policy_reported)),
    Event("espd restarted", lambda s: s.each(s.restart_espd), out=EITHER, back=EITHER),
    Event("tunnel interface deleted", lambda s: s.each(delete_tunnel_interface),
          lambda s: s.each(await_espd)),
    Event("espd and agent killed",
          lambda s: s.each(lambda n: (n.agent.kill(), n.espd.kill())),
          lambda s: s.each(lambda n: (s.restart_espd(n), n.start_agent()))),
    Event("peer gone", peer_gone, peer_back),
    Event("peer's key wrong", wrong_key, right_key),
    Event("IKE blocked on the wire", block_ike, unblock_ike),
    Event("peer unknown yet",
          lambda s: s.each(lambda n: s.reload(n, without_peers=True)),
          lambda s: s.each(s.reload), out=STOPS, back=EITHER),
    Event("pod created before its agent is in sync", add_pod_early, remove_early),
])


@pytest.fixture(scope="module")
def scenes():
    """One scene for all events; after a failed one, a new one."""
    holder = {}
    yield holder
    if "lab" in holder:
        holder["lab"].__exit__(None, None, None)


@pytest.fixture
def scene(scenes, request):
    if "scene" not in scenes:
        scenes["lab"] = Lab("fail-closed")
        scenes["lab"].__enter__()
        try:
            scenes["scene"] = Scene(scenes["lab"], {"node-a": {}}).up()
        except BaseException:
            scenes["lab"].failed = True
            scenes.pop("lab").__exit__(None, None, None)
            raise
    yield scenes["scene"]
    if any(report.failed for report in request.node.lab_reports):
        scenes["lab"].failed = True
        scenes.pop("scene")
        scenes.pop("lab").__exit__(None, None, None)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_no_plaintext(scene, event):
    run_event(scene, event)
