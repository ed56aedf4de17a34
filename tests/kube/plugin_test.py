"""kubectl espalier on a cluster with agents, as people run it. The tests follow
one another on one cluster."""

import json
import os
import pathlib
import subprocess
import time

import pytest

from api_server import Client
from lab import Process, wait_until
from lab.capture import control_frame, put_on_wire
from lab.kube import espalier
from lab.kube.cluster import Cluster
from lab.kube.pods import ClusterPod, pod_object, run_pods

NODES = ("node-1", "node-2")
WRONG_SOURCE = "its source address is not the pod's"


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
    # Not every machine can hold the eBPF guard: then it is not proven, and says so.
    stand = guards_that_stand(installed) == {"bpf", "nftables"}
    for words in ((), ("--from", "shop/web", "--to", "shop/db")):
        proof = ask(installed, "verify", *words, code=0 if stand else 5)
        assert "shop/web" in proof and "shop/db" in proof
        assert ("Proven:" in proof) == stand
        assert ("bpf guard does not stand" in proof) == (not stand)


def guards_that_stand(cluster: Cluster) -> set[str]:
    """On every node, by the agents' own word."""
    return set.intersection(*(
        {guard["name"] for guard in espalier.ask_agent(cluster, node, "status")["guards"]
         if guard.get("stands")} for node in NODES))


def forge(pod: ClusterPod, target: ClusterPod, port: int) -> None:
    """Packets of both families with a source that is another's."""
    node = pod.node
    shown = espalier.ask_agent(pod.cluster, node.name, "pods")["pods"]
    host = next(p["host_interface"] for p in shown
                if (p["namespace"], p["name"]) == (pod.kube_namespace, pod.name))
    def mac(where, device: str) -> str:
        return json.loads(where.run(["ip", "-j", "link", "show", device]).stdout)[0]["address"]
    put_on_wire(pod.namespace, "eth0", [
        control_frame(source, to, mac(pod.namespace, "eth0"), mac(node.namespace, host), port)
        for _ in range(10)
        for source, to in (("10.244.77.7", target.ipv4), ("fd00:244:0:77::7", target.ipv6))])


def test_a_drop_is_told(installed, pods):
    """By the commands, while it happens and later, and once by an event of the pod."""
    if "bpf" not in guards_that_stand(installed):
        pytest.skip("the eBPF guard, which alone tells a pod's own source, cannot be loaded")
    web, db = pods
    before = ask(installed, "drops", "-n", "shop")
    assert WRONG_SOURCE not in before
    forge(web, db, 4001)
    wait_until(lambda: WRONG_SOURCE in ask(installed, "drops", "-n", "shop"), 20, "the drops")
    told = [line for line in ask(installed, "drops", "-n", "shop").splitlines()
            if WRONG_SOURCE in line]
    assert all("shop/web" in line for line in told), told
    assert any("10.244.77.7" in line and " 4001 " in line for line in told)
    assert any("fd00:244:0:77::7" in line for line in told)
    assert WRONG_SOURCE not in ask(installed, "drops", "-n", "default")

    follow = Process(installed.lab, "drops-follow", [
        installed.folder_of_commands / "kubectl", "espalier", "drops", "-f", "-n", "shop"],
        env={"PATH": f"{installed.folder_of_commands}:{os.environ['PATH']}"})
    follow.wait_for_log(" 4001 ", 30)
    assert " 4002 " not in follow.log()
    forge(web, db, 4002)
    follow.wait_for_log(" 4002 ", 30)
    line = next(line for line in follow.log().splitlines() if " 4002 " in line)
    assert "shop/web" in line and WRONG_SOURCE in line
    follow.stop()

    def events() -> list[dict]:
        return [event for event in installed.get("events", "-n", "shop")["items"]
                if event["reason"] == "EspalierDropped"]
    wait_until(events, 20, "the event")
    time.sleep(3)  # the agent looks each second
    (event,) = events()  # forty drops; another of this reason only after ten minutes
    assert event["involvedObject"]["name"] == "web" and event["type"] == "Warning"
    assert WRONG_SOURCE in event["message"]


def test_who_may_only_view(installed, pods):
    installed.kubectl("create", "serviceaccount", "viewer", "-n", "default")
    installed.kubectl("create", "clusterrolebinding", "viewer", "--clusterrole=view",
                      "--serviceaccount=default:viewer")
    token = installed.kubectl("create", "token", "viewer", "-n", "default").stdout.strip()
    config = Client(installed, token=token).config

    def as_viewer(*words: str):
        return installed.kubectl("espalier", *words, "--kubeconfig", config, check=False,
                                 timeout=120)
    wait_until(lambda: "agent: 2 of 2 ready" in as_viewer("status").stdout, 60,
               "the binding is known")
    for words in (("tunnels",), ("pods",), ("drops",), ("show", *NODES), ("rekey", *NODES)):
        result = as_viewer(*words)
        assert result.returncode == 1, (words, result.stderr)
        assert "you lack a right" in result.stderr and "pods/exec" in result.stderr
    result = as_viewer("rotate", "node-1")
    assert result.returncode == 1 and "espalier-rotate" in result.stderr
    result = as_viewer("verify")
    assert result.returncode == 5 and "you lack a right" in result.stdout


def place(node, name: str, plugins: list[dict], version: str = "1.0.0") -> None:
    """A network configuration, by a rename as installers do."""
    node.run(["sh", "-c", f"cat > /etc/cni/net.d/.new && mv /etc/cni/net.d/.new /etc/cni/net.d/{name}"],
             input=json.dumps({"cniVersion": version, "name": "other", "plugins": plugins}))


def remove(node, name: str) -> None:
    node.run(["rm", f"/etc/cni/net.d/{name}"])


PTP = {"type": "ptp", "ipMasq": False, "ipam": {
    "type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24"}]],
    "routes": [{"dst": "0.0.0.0/0"}]}}


def test_a_pod_that_another_plugin_attached_is_not_proven(installed, pods):
    """In a required namespace. The report's word comes with a later test: it is
    written once a minute."""
    def verify() -> subprocess.CompletedProcess:
        return installed.kubectl("espalier", "verify", check=False, timeout=120)
    assert "00-a.conflist" not in verify().stdout
    a = installed.nodes[0]
    place(a, "00-a.conflist", [PTP])
    wait_until(lambda: "takes 00-a.conflist before" in verify().stdout, 20, "it is noticed")
    installed.apply(pod_object("shop", "legacy", a))
    installed.kubectl("wait", "-n", "shop", "pod/legacy", "--for=condition=Ready",
                      "--timeout=60s", timeout=70)
    assert installed.get("pod", "-n", "shop", "legacy")["status"]["podIP"].startswith("10.99.")
    remove(a, "00-a.conflist")
    wait_until(lambda: "shop/legacy" in verify().stdout, 60, "the pod is found")
    result = verify()
    assert result.returncode == 5, result.stdout
    assert "another CNI plugin attached it (10.99." in result.stdout
    assert "00-a.conflist" not in result.stdout
    one = installed.kubectl("espalier", "verify", "--from", "shop/legacy", check=False)
    assert one.returncode == 5 and "another CNI plugin attached it" in one.stdout
    problems = espalier.ask_agent(installed, a.name, "status")["problems"]
    assert any("shop/legacy (required)" in problem for problem in problems)


def test_our_list_is_put_back_and_one_with_bandwidth_is_refused(installed):
    b = installed.nodes[1]
    lists = b.cni_lists / "00-espalier.conflist"
    text = lists.read_text()
    remove(b, "00-espalier.conflist")
    wait_until(lambda: lists.exists() and lists.read_text() == text, 20, "it is back")

    def status() -> tuple[int, str]:
        result = b.run(["sh", "-c", "CNI_COMMAND=STATUS /opt/cni/bin/espalier-cni"], check=False,
                       input=json.dumps({"cniVersion": "1.1.0", "name": "espalier"}))
        return result.returncode, result.stdout
    assert status() == (0, "")
    place(b, "05-shaped.conflist", [
        {"type": "espalier-cni"}, {"type": "bandwidth", "capabilities": {"bandwidth": True}}])
    wait_until(lambda: status()[0] == 1, 20, "STATUS is refused")
    answer = json.loads(status()[1])
    assert answer["code"] == 50 and "05-shaped.conflist chains" in answer["details"]
    remove(b, "05-shaped.conflist")
    wait_until(lambda: status() == (0, ""), 20, "all is well again")


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


def test_the_report_names_what_others_do(installed):
    def condition(name: str) -> dict:
        report = installed.get("espaliernodereport", "node-1")["status"]
        return next(c for c in report["conditions"] if c["type"] == name)
    wait_until(lambda: condition("PodsProtected")["status"] == "False", 90, "it is reported")
    assert "shop/legacy (required)" in condition("PodsProtected")["message"]
    assert condition("KubeProxySupported")["reason"] == "Nftables"
    assert condition("FamiliesMatch")["status"] == "True"
    text = ask(installed, "status", code=4)
    assert "shop/legacy (required)" in text
    installed.kubectl("delete", "pod", "-n", "shop", "legacy")
    wait_until(lambda: "legacy" not in installed.kubectl("espalier", "verify",
                                                         check=False, timeout=120).stdout,
               20, "it is gone")


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


def test_helm_test_fails_where_a_tunnel_is_down(installed):
    """Last: nothing is up after it. That it passes else, install_test.py shows."""
    agent = espalier.component_pod(installed, "agent", "node-1")["metadata"]["name"]
    # The pod of the test goes where an agent answers.
    installed.kubectl("cordon", "node-2")
    installed.kubectl("patch", "daemonset", "espalier-espd", "-n", espalier.NAMESPACE,
                      "--type=merge", "-p", json.dumps({"spec": {"template": {"spec": {
                          "nodeSelector": {"kubernetes.io/hostname": "nowhere"}}}}}))
    wait_until(lambda: installed.kubectl(
        "exec", "-n", espalier.NAMESPACE, agent, "-c", "agent", "--",
        "/usr/bin/kubectl-espalier", "status", check=False).returncode == 4, 60,
        "its tunnel is down")
    result = installed.helm("test", "espalier", "-n", espalier.NAMESPACE, "--timeout", "60s",
                            check=False, timeout=90)
    assert result.returncode != 0
    ended = installed.get("pod", "espalier-test", "-n", espalier.NAMESPACE)["status"]
    assert ended["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 4
