"""kubectl espalier on a cluster with agents, as people run it. The tests follow
one another on one cluster."""

import json
import pathlib

import pytest

from lab import wait_until
from lab.kube import espalier
from lab.kube.cluster import Cluster
from lab.kube.pods import ClusterPod, pod_object, run_pods

NODES = ("node-1", "node-2")


@pytest.fixture(scope="module")
def installed(cluster, image) -> Cluster:
    cluster.load_image(image)
    before = cluster.kubectl("espalier", "status", check=False)
    assert before.returncode == 3
    assert "not installed" in before.stderr and "helm install" in before.stderr
    espalier.install(cluster)
    cluster.wait_for_nodes()
    return cluster


@pytest.fixture(scope="module")
def pods(installed) -> list[ClusterPod]:
    installed.kubectl("create", "namespace", "shop")
    installed.kubectl("annotate", "namespace", "shop", "espalier.dev/encryption=required")
    wait_until(lambda: installed.kubectl("get", "serviceaccount", "default", "-n", "shop",
                                         check=False).returncode == 0, 30, "its account")
    a, b = installed.nodes
    return run_pods(installed, pod_object("shop", "web", a), pod_object("shop", "db", b))


def ask(cluster: Cluster, *words: str, code: int = 0) -> str:
    result = cluster.kubectl("espalier", *words, check=False, timeout=180)
    assert result.returncode == code, (words, result.stdout, result.stderr)
    return result.stdout


def test_status_waits_until_all_is_well(installed):
    text = ask(installed, "status", "--wait", "--timeout", "150s")
    for words in (*NODES, "agent: 2 of 2 ready", "controller: 2 of 2 ready",
                  "tunnel ends: 2 of 2 up"):
        assert words in text
    assert json.loads(ask(installed, "status", "-o", "json"))["healthy"]
    assert "True" in installed.kubectl("get", "espaliernodes").stdout


def test_tunnels_and_show(installed, pods):
    a, b = pods
    assert a.ping(b.ipv4, count=2, wait=10) == 2
    lines = [line.split()[:3] for line in ask(installed, "tunnels").splitlines()]
    assert ["node-1", "node-2", "up"] in lines and ["node-2", "node-1", "up"] in lines
    shown = ask(installed, "show", *NODES)
    assert "As node-1 sees it" in shown and "As node-2 sees it" in shown
    assert "IKE_SA" in shown
    one = json.loads(ask(installed, "tunnels", "node-2", "-o", "json"))
    assert [node["node"] for node in one["nodes"]] == ["node-2"]


def test_pods_and_their_proof(installed, pods):
    text = ask(installed, "pods", "-n", "shop")
    assert text.count("required") == 2 and "kube-system" not in text
    proof = installed.kubectl("espalier", "verify", check=False, timeout=120)
    print(proof.stdout, proof.stderr)
    assert "shop/web" in proof.stdout and "shop/db" in proof.stdout
    # Not every machine can hold the eBPF guard: then it is not proven, and says so.
    assert proof.returncode == (0 if "Proven:" in proof.stdout else 5)
    pair = installed.kubectl("espalier", "verify", "--from", "shop/web", "--to", "shop/db",
                             check=False, timeout=120)
    assert pair.returncode == proof.returncode
    assert "Drops" not in ask(installed, "drops", "-n", "shop")


def test_rekey(installed, pods):
    def spis() -> set[str]:
        shown = json.loads(ask(installed, "show", *NODES, "-o", "json"))
        return {sa["spi"] for sa in shown["nodes"][0]["esp_sas"]}
    before = spis()
    ask(installed, "rekey", *NODES)
    wait_until(lambda: not spis() <= before, 20, "other SAs")
    a, b = pods
    assert a.ping(b.ipv4, count=3) == 3


def test_rotate(installed, pods):
    def keys() -> list[str]:
        return installed.get("espaliernode", "node-1")["spec"]["publicKeys"]
    before = keys()
    ask(installed, "rotate", "node-1")
    wait_until(lambda: any(key not in before for key in keys()), 30, "a new key is published")
    a, b = pods
    assert a.ping(b.ipv4, count=3) == 3


def test_an_agent_that_is_away_is_named(installed):
    """And everything else is shown."""
    pod = espalier.component_pod(installed, "agent", "node-2")["metadata"]["name"]
    installed.kubectl("patch", "daemonset", "espalier-agent", "-n", espalier.NAMESPACE,
                      "--type=merge", "-p", json.dumps({"spec": {"template": {"spec": {
                          "nodeSelector": {"kubernetes.io/hostname": "node-1"}}}}}))
    wait_until(lambda: installed.kubectl("get", "pod", pod, "-n", espalier.NAMESPACE,
                                         check=False).returncode != 0, 60, "it is away")
    text = ask(installed, "status", code=4)
    assert "its agent: missing" in text
    result = installed.kubectl("espalier", "show", *NODES, check=False)
    assert result.returncode == 3 and "no agent runs on a node 'node-2'" in result.stderr


def test_sysdump(installed, kube_lab):
    # The test before changed what the agents' pods are made of: node-1's is replaced, too.
    installed.kubectl("rollout", "status", "daemonset/espalier-agent", "-n",
                      espalier.NAMESPACE, "--timeout=120s", timeout=150)
    folder = kube_lab.folder / "dump"
    result = installed.kubectl("espalier", "sysdump", folder, check=False, timeout=180)
    assert result.returncode == 0, result.stderr
    files = {path.name for path in pathlib.Path(folder).iterdir()}
    assert {"espaliernodes.yaml", "nodes.yaml", "node-node-1.tunnels.json"} <= files
    assert not any("PRIVATE KEY" in path.read_text() for path in folder.iterdir())
