"""Nodes come and go: added, drained, with another address, crashed, deleted, with
their pod CIDR taken over by another, restored from an old image. The tests follow
one another on one cluster."""

import json
import re
import shutil
import time

import pytest

from conftest import show
from kinds import namespace
from lab import binary, wait_until
from lab.kube import Cluster, KubeNode, espalier
from lab.kube.captured import Captured
from lab.kube.pods import ClusterPod, pod_object, run_pods

STATE = "var/lib/espalier"
# From a node's first boot, or its next one, to the first ping.
JOINED_SECONDS = 60
REMOVED_AFTER = 30  # a peer whose EspalierNode was deleted


class Scene:
    """A required namespace with pod a on node-1 and b on node-2; c and d come with
    their nodes."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.first, self.second = cluster.nodes
        self.third: KubeNode | None = None
        self.a, _, _ = run_pods(cluster, namespace("shop", encryption="required"),
                                pod_object("shop", "a", self.first),
                                pod_object("shop", "b", self.second),
                                pod_object("shop", "old", self.second))

    def answers(self, name: str) -> bool:
        """The pod of that name, by the addresses that it has now, in both families."""
        status = self.cluster.get("pod", "-n", "shop", name)["status"]
        addresses = [entry["ip"] for entry in status.get("podIPs", [])]
        return len(addresses) == 2 and all(
            self.a.ping(address, count=1, wait=1) for address in addresses)

    def wait_for_answers(self, name: str) -> ClusterPod:
        wait_until(lambda: self.answers(name), JOINED_SECONDS, f"{name} answers a")
        return ClusterPod(self.cluster, "shop", name)

    def wanted(self) -> float:
        """Tunnels of node-1."""
        text = self.first.namespace.run(
            ["curl", "-s", "-m", "2", "http://127.0.0.1:9469/metrics"], check=False).stdout
        found = re.search(r"^espalier_tunnels_wanted (\S+)$", text, re.M)
        return float(found[1]) if found else -1

    def keys(self, node: KubeNode) -> list[str]:
        return self.cluster.get("espaliernode", node.name)["spec"]["publicKeys"]

    def status(self, node: KubeNode) -> dict:
        result = self.cluster.kubectl("get", "espaliernode", node.name, "-o", "json",
                                      check=False)
        return json.loads(result.stdout).get("status", {}) if result.returncode == 0 else {}

    def verified(self, node: KubeNode) -> dict:
        return next((c for c in self.status(node).get("conditions", [])
                     if c["type"] == "Verified"), {})


@pytest.fixture(scope="module")
def scene(cluster, image) -> Scene:
    cluster.load_image(image)
    espalier.install(cluster)
    cluster.wait_for_nodes()
    scene = Scene(cluster)
    scene.wait_for_answers("b")
    return scene


@pytest.fixture(scope="module")
def added(scene) -> KubeNode:
    """node-3, and what was seen of its coming."""
    begin = time.monotonic()
    scene.third = scene.cluster.add_node()
    scene.cluster.wait_for_nodes(JOINED_SECONDS)
    show(f"{scene.third.name} is Ready", time.monotonic() - begin)
    return scene.third


@pytest.fixture(scope="module")
def old_image(scene, added):
    """What a back-up of node-2 would hold, of when three nodes were there; node-2
    moves on: another key, other pods."""
    cluster, node = scene.cluster, scene.second
    folder = cluster.lab.folder / "old-image"
    shutil.copytree(node.folder / STATE, folder)
    before = scene.keys(node)
    cluster.kubectl("espalier", "rotate", node.name)
    cluster.kubectl("delete", "pod", "-n", "shop", "old", "--wait", "--timeout=30s")
    run_pods(cluster, *(pod_object("shop", f"new-{number}", node) for number in range(3)))
    return folder, before


def test_an_added_node_is_in_the_mesh(scene, added):
    begin = time.monotonic()
    c, = run_pods(scene.cluster, pod_object("shop", "c", added))
    with Captured(scene.cluster, "added", scene.a, c) as seen:
        scene.wait_for_answers("c")
        show("its pod answers", time.monotonic() - begin)
        for address in (scene.a.ipv4, scene.a.ipv6):
            assert c.ping(address) == 3
    assert seen.packets.esp >= 16
    assert scene.wanted() == 2


def test_a_drained_node_keeps_its_tunnels_and_takes_pods_again(scene, added, old_image):
    cluster = scene.cluster
    cluster.kubectl("drain", added.name, "--ignore-daemonsets", "--force", "--timeout=30s")
    assert "not found" in cluster.kubectl("get", "pod", "-n", "shop", "c", check=False).stderr
    assert scene.wanted() == 2
    espalier.component_pod(cluster, "agent", added.name)
    cluster.kubectl("uncordon", added.name)
    run_pods(cluster, pod_object("shop", "c", added))
    scene.wait_for_answers("c")


def test_a_node_with_other_addresses(scene, added):
    c = ClusterPod(scene.cluster, "shop", "c")
    before = scene.status(added)["addresses"]
    with Captured(scene.cluster, "readdressed", scene.a, c) as seen:
        added.readdress(33)
        wait_until(lambda: set(scene.status(added).get("addresses", [])) ==
                   set(added.addresses), 60, "the controller has verified the new ones")
        assert not set(before) & set(added.addresses)
        scene.wait_for_answers("c")
        for address in (scene.a.ipv4, scene.a.ipv6):
            assert c.ping(address) == 3
    ends = {p.source for p in seen.packets.packets if p.kind in ("esp", "esp-udp")}
    assert ends & set(added.addresses)
    known = {address for tunnel in espalier.ask_agent(
        scene.cluster, scene.first.name, "tunnels")["tunnels"]
        for address in tunnel["addresses"]}
    assert set(added.addresses) <= known and not set(before) & known


def test_a_node_that_crashed_comes_back(scene, added):
    c = ClusterPod(scene.cluster, "shop", "c")
    with Captured(scene.cluster, "crashed", scene.a, c) as seen:
        added.power_off()
        for address in (c.ipv4, c.ipv6):
            assert scene.a.ping(address, count=2, wait=1) == 0
        begin = time.monotonic()
        added.boot()
        c = scene.wait_for_answers("c")
        show("answers after its boot", time.monotonic() - begin)
        for address in (scene.a.ipv4, scene.a.ipv6):
            assert c.ping(address) == 3
    assert seen.packets.esp >= 16


def test_a_deleted_node_and_one_without_pod_cidrs(scene, added):
    """The peer goes after thirty seconds. The next node comes to a controller
    manager that gives out no pod CIDRs, and is then given those of the deleted."""
    cluster = scene.cluster
    cidrs = cluster.pod_cidrs(added)
    cluster.control.kill("controller-manager")
    cluster.start_controller_manager(allocate_node_cidrs=False)
    added.power_off()
    cluster.remove_node(added)
    cluster.kubectl("delete", "pod", "-n", "shop", "c", "--force", "--grace-period=0")
    wait_until(lambda: cluster.kubectl("get", "espaliernode", added.name,
                                       check=False).returncode != 0, 60,
               "its EspalierNode is collected")
    begin = time.monotonic()
    assert scene.wanted() == 2
    fourth = cluster.add_node()
    wait_until(lambda: scene.verified(fourth).get("reason") == "NoPodCIDRs", 60,
               "the condition")
    assert "--allocate-node-cidrs" in scene.verified(fourth)["message"]
    refused_without_pod_cidrs(scene, fourth)
    wait_until(lambda: scene.wanted() == 1, REMOVED_AFTER + 30, "the peer is removed")
    passed = time.monotonic() - begin
    show("the peer is removed", passed)
    # The API server collected it some time before it was seen here.
    assert passed > REMOVED_AFTER - 5

    cluster.kubectl("patch", "node", fourth.name, "-p", json.dumps(
        {"spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}}))
    cluster.wait_for_nodes(JOINED_SECONDS)
    assert scene.status(fourth)["podCIDRs"] == cidrs
    d, = run_pods(cluster, pod_object("shop", "d", fourth))
    with Captured(cluster, "taken-over", scene.a, d) as seen:
        scene.wait_for_answers("d")
    assert seen.packets.esp >= 4
    assert {p.destination for p in seen.packets.packets if p.kind in ("esp", "esp-udp")
            } <= {*fourth.addresses, *scene.first.addresses, *scene.second.addresses}


def refused_without_pod_cidrs(scene: Scene, node: KubeNode) -> None:
    ready = next(c for c in scene.cluster.get("node", node.name)["status"]["conditions"]
                 if c["type"] == "Ready")
    assert ready["status"] == "False", ready
    assert not (node.cni_lists / "00-espalier.conflist").exists()
    status = node.run(
        ["env", "CNI_COMMAND=STATUS", "CNI_PATH=/opt/cni/bin", binary("espalier-cni")],
        check=False, input=json.dumps({"cniVersion": "1.1.0", "name": "espalier",
                                       "type": "espalier-cni",
                                       "runDirectory": "/run/espalier"}))
    assert status.returncode != 0
    assert json.loads(status.stdout)["code"] == 50, status.stdout


def test_a_node_restored_from_an_old_image(scene, old_image):
    """It has the key of then, the leases of then, and knows the nodes of then."""
    cluster, node = scene.cluster, scene.second
    folder, then = old_image
    wait_until(lambda: len(scene.keys(node)) == 1 and scene.keys(node) != then, 150,
               "node-2 has another key")
    now = scene.keys(node)
    node.power_off()
    shutil.rmtree(node.folder / STATE)
    shutil.copytree(folder, node.folder / STATE)
    d = ClusterPod(cluster, "shop", "d")
    with Captured(cluster, "restored", scene.a, d):
        begin = time.monotonic()
        node.boot()
        wait_until(lambda: then[0] in scene.keys(node), 60, "the old key is published")
        b = scene.wait_for_answers("b")
        show("answers after its boot", time.monotonic() - begin)
        for pod in (scene.a, d):
            for address in (pod.ipv4, pod.ipv6):
                wait_until(lambda: b.ping(address, count=1) == 1, 30, f"{pod.name} answers b")
    # The rotation was asked for after the image was made: it is carried out again.
    wait_until(lambda: len(scene.keys(node)) == 2, 30, "another key is published beside")
    assert not set(scene.keys(node)) & set(now)
    for number in range(3):
        scene.wait_for_answers(f"new-{number}")
    told = [entry["ip"] for pod in cluster.get("pods", "-n", "shop")["items"]
            for entry in pod["status"]["podIPs"]]
    assert len(told) == len(set(told))
    def known() -> list[dict]:
        return [pod for pod in espalier.ask_agent(cluster, node.name, "pods")["pods"]
                if pod["namespace"] == "shop"]
    wait_until(lambda: sorted(pod["name"] for pod in known()) ==
               ["b", "new-0", "new-1", "new-2"], 30, "what ran then is let go")
    addresses = [address for pod in known() for address in pod["addresses"]]
    assert len(addresses) == len(set(addresses)) == 8
    assert set(addresses) <= set(told)
