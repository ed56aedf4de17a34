"""Engines of NetworkPolicy beside Espalier. None can be had here, so these stand
in for the two ways that they work: rules on pods' addresses in the forward path,
and packets of new connections judged by a program (NFQUEUE). Both see pods'
addresses in plaintext, between the tunnel's interface and the pod's."""

import pathlib

import pytest

from kinds import namespace
from lab import wait_until
from lab.kube import espalier, queue_engine
from lab.kube.captured import Captured
from lab.kube.pods import pod_object, run_pods
from lab.kube.reach import PORT, Answerer, Question, ask
from lab.process import Process

OTHER_PORT = 7001
LARGE = 4000
QUEUE = 100


class Scene:
    """Of a required namespace: client and friend on the first node, server on
    the second. Policies let the client alone reach the server, on one port."""

    def __init__(self, cluster, image):
        self.cluster = cluster
        cluster.load_image(image)
        espalier.install(cluster)
        cluster.wait_for_nodes()
        self.first, self.second = cluster.nodes
        self.client, self.friend, self.server = run_pods(
            cluster, namespace("shop", encryption="required"),
            pod_object("shop", "client", self.first),
            pod_object("shop", "friend", self.first),
            pod_object("shop", "server", self.second))
        self.answerers = {
            (pod.name, port): Answerer(cluster.lab, pod.name, pod.namespace.path,
                                       [pod.ipv4, pod.ipv6], port)
            for pod in (self.client, self.friend, self.server)
            for port in (PORT, OTHER_PORT)}
        wait_until(lambda: all(self.reach(self.client, self.server)), 60, "tunnels are up")

    def reach(self, source, target, port: int = PORT, size: int = 64) -> list[bool]:
        """UDP and TCP, IPv4 and IPv6."""
        seen = ask(source.namespace.path, [
            Question(kind, address, port, size) for address in (target.ipv4, target.ipv6)
            for kind in ("udp", "tcp")])
        assert set(seen) <= {source.ipv4, source.ipv6, None}, seen
        return [answer is not None for answer in seen]

    def asked(self, pod, port: int = PORT) -> int:
        return self.answerers[pod.name, port].asked


@pytest.fixture(scope="module")
def scene(cluster, image) -> Scene:
    return Scene(cluster, image)


ALL, NONE = [True] * 4, [False] * 4


def test_without_a_policy_all_reach_all(scene):
    """What the other cases refuse would else arrive."""
    assert scene.reach(scene.client, scene.server, OTHER_PORT) == ALL
    assert scene.reach(scene.friend, scene.server) == ALL
    assert scene.reach(scene.server, scene.client) == ALL
    assert scene.reach(scene.server, scene.friend) == ALL


def rules(source, target) -> str:
    """To and from `target` only what `source` asks of it, on one port."""
    return f"""
table inet stand_in {{
  counter refused {{ }}
  chain pod {{
    ip saddr {source.ipv4} ip daddr {target.ipv4} meta l4proto {{ tcp, udp }} th dport {PORT} accept
    ip6 saddr {source.ipv6} ip6 daddr {target.ipv6} meta l4proto {{ tcp, udp }} th dport {PORT} accept
    counter name refused drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    ip daddr {target.ipv4} jump pod
    ip saddr {target.ipv4} jump pod
    ip6 daddr {target.ipv6} jump pod
    ip6 saddr {target.ipv6} jump pod
  }}
}}
"""


@pytest.mark.parametrize("way", ["to", "from"])
@pytest.mark.parametrize("where", ["source", "target"])
def test_rules_in_the_forward_path(scene, way, where):
    """On either node: of the pod that asks, where packets go into the tunnel, and
    of the pod that is asked, where they come out."""
    source, target = ((scene.client, scene.server) if way == "to"
                      else (scene.server, scene.client))
    # With a policy of the pod on that node.
    node = source.node if where == "source" else target.node
    node.run(["nft", "-f", "-"], input=rules(source, target))
    before = scene.asked(target, OTHER_PORT), scene.asked(source)
    try:
        with Captured(scene.cluster, f"rules-{way}-{where}", scene.client,
                      scene.server) as seen:
            assert scene.reach(source, target) == ALL
            assert scene.reach(source, target, size=LARGE) == ALL
            assert scene.reach(source, target, OTHER_PORT) == NONE
            assert scene.reach(target, source) == NONE
        assert seen.packets.esp > 0
        assert (scene.asked(target, OTHER_PORT), scene.asked(source)) == before
        assert " packets 0 " not in node.run(
            ["nft", "list", "counter", "inet", "stand_in", "refused"]).stdout
    finally:
        node.run(["nft", "delete", "table", "inet", "stand_in"])
    assert scene.reach(target, source) == ALL


def nfqueue(node, action: str) -> None:
    for program in ("iptables", "ip6tables"):
        words = [] if action == "-D" else ["1"]
        node.run([program, "-w", action, "FORWARD", *words, "-m", "conntrack", "--ctstate",
                  "NEW", "-j", "NFQUEUE", "--queue-num", QUEUE])


@pytest.mark.parametrize("way", ["to", "from"])
def test_judged_by_a_program(scene, way):
    source, target = ((scene.client, scene.server) if way == "to"
                      else (scene.server, scene.client))
    node = scene.server.node
    engine = Process(scene.cluster.lab, f"engine-{way}", node.namespace.command(
        ["/usr/bin/python3", pathlib.Path(queue_engine.__file__), QUEUE,
         source.ipv4, target.ipv4, source.ipv6, target.ipv6]))
    engine.wait_for_log("judging", 10)
    nfqueue(node, "-I")
    before = scene.asked(source)
    try:
        with Captured(scene.cluster, f"queue-{way}", scene.client, scene.server) as seen:
            assert scene.reach(source, target) == ALL
            assert scene.reach(source, target, size=LARGE) == ALL
            assert scene.reach(target, source) == NONE
        assert seen.packets.esp > 0
        assert scene.asked(source) == before
        for family in ("ipv4", "ipv6"):
            there, back = getattr(source, family), getattr(target, family)
            assert f"accepted {there} {back}" in engine.log()
            assert f"refused {back} {there}" in engine.log()
    finally:
        nfqueue(node, "-D")
        engine.stop()
    assert scene.reach(target, source) == ALL
