"""The other container runtime and the other kube-proxy: containerd 2.4 calls
CNI 1.1.0, STATUS included; and how clusters of the lab end."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT

from lab import wait_until
from lab.kube import Cluster, KubeNode, command, espalier
from lab.kube.machine import processes_below
from lab.kube.pods import pod_object, run_pods
from lab.session import CGROUPS, start_time, sweep_stale

# Several times what the runtime lets pass between two STATUS.
AWAY_SECONDS = 15
TOLERATED_SECONDS = 120  # base::kHeartbeatLifetime


@pytest.fixture(scope="module")
def newer(kube_lab, image) -> Cluster:
    cluster = Cluster(kube_lab, nodes=2, proxy_mode="iptables", runtime="2.4")
    cluster.up()
    cluster.load_image(image)
    espalier.install(cluster)
    cluster.wait_for_nodes()
    return cluster


def test_pods_and_services_with_containerd_2_and_iptables(newer):
    a, b = newer.nodes
    versions = {node["status"]["nodeInfo"]["containerRuntimeVersion"]
                for node in newer.get("nodes")["items"]}
    assert versions == {"containerd://2.4.2"}
    lists = (a.cni_lists / "00-espalier.conflist").read_text()
    assert '"1.1.0"' in lists
    pods = run_pods(newer, pod_object("default", "a", a), pod_object(
        "default", "b", b, labels={"app": "b"},
        command=["httpd", "-f", "-p", "8080", "-h", "/etc"]))
    for address in (pods[1].ipv4, pods[1].ipv6):
        assert pods[0].ping(address) == 3
    newer.apply({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"app": "b"}, "ipFamilyPolicy": "RequireDualStack",
                 "type": "NodePort", "ports": [{"port": 80, "targetPort": 8080}]}})
    service = newer.get("service", "b")["spec"]
    for address in service["clusterIPs"]:
        host = f"[{address}]" if ":" in address else address
        assert pods[0].exec("curl", "-sS", "--max-time", "5", "--retry", "5",
                            "--retry-all-errors", "--retry-delay", "1",
                            f"http://{host}/hostname").stdout.strip() == "b"
    # From outside by node-1's port to the pod on node-2.
    port = service["ports"][0]["nodePort"]
    assert newer.outside.namespace.run(
        ["curl", "-sS", "--max-time", "5", "--retry", "3", "--retry-all-errors",
         f"http://{a.uplink.ipv4}:{port}/hostname"]).stdout.strip() == "b"


def test_an_agent_that_is_away_leaves_its_node_ready(newer):
    """This runtime asks STATUS every few seconds, and the kubelet says what it
    answers."""
    ready = newer.ready_conditions()
    newer.kubectl("-n", espalier.NAMESPACE, "rollout", "restart", "daemonset/espalier-agent")
    newer.kubectl("-n", espalier.NAMESPACE, "rollout", "status", "daemonset/espalier-agent",
                  "--timeout=120s", timeout=130)
    choose_agents(newer, {"no": "node"})
    wait_until(lambda: not [node for node in newer.nodes
                            if processes_below(node.pid, "/usr/bin/espalier-agent")], 60,
               "no agent is left")
    time.sleep(AWAY_SECONDS)
    newer.assert_ready_since(ready)
    # As if that had been long enough: it was STATUS that kept the node Ready.
    node = newer.nodes[0]
    age_heartbeat(node, TOLERATED_SECONDS + 1)
    newer.kubectl("wait", "--for=condition=Ready=false", f"node/{node.name}", "--timeout=60s",
                  timeout=70)
    condition = newer.ready_conditions()[node.name]
    assert "espalier" in condition["message"], condition
    choose_agents(newer, {"no": None})
    newer.kubectl("-n", espalier.NAMESPACE, "rollout", "status", "daemonset/espalier-agent",
                  "--timeout=120s", timeout=130)
    newer.wait_for_nodes()


def choose_agents(cluster: Cluster, labels: dict) -> None:
    """Of the nodes that shall have one; merged into what the chart chooses."""
    cluster.kubectl("-n", espalier.NAMESPACE, "patch", "daemonset", "espalier-agent",
                    "--type=merge", "-p", json.dumps(
                        {"spec": {"template": {"spec": {"nodeSelector": labels}}}}))


def age_heartbeat(node: KubeNode, seconds: int) -> None:
    """The file has the boot's id and the time since boot in nanoseconds."""
    file = "/run/espalier/heartbeat"
    boot, beat = node.run(["cat", file]).stdout.split()
    node.run(["tee", file], input=f"{boot} {int(beat) - seconds * 10**9}\n")


def test_deleted_pods_leave_nothing(newer):
    node = newer.nodes[0]
    run_pods(newer, pod_object("default", "gone", node))
    assert "esp" in node.run(["ip", "-o", "link"]).stdout
    newer.kubectl("delete", "pods", "--all", "--wait", "--timeout=60s", timeout=70)
    wait_until(lambda: not [line for line in node.run(["ip", "-o", "link"]).stdout.splitlines()
                            if "@if" in line and ": esp" in line and "espalier0" not in line],
               20, "no pod's interface is left")
    assert espalier.ask_agent(newer, node.name, "pods").get("pods", []) == []


def nothing_is_left(state: dict) -> None:
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for name in (*state["nodes"].values(), state["wire"]):
        assert name not in names
        assert not list(CGROUPS.glob(f"*/{name}"))
    assert not os.path.exists(state["folder"])
    assert subprocess.run([sys.executable, "-m", "lab.kube.command", "status"],
                          capture_output=True).returncode == 1


def processes_in(namespace: str) -> dict[int, str]:
    inside = subprocess.run(["ip", "netns", "pids", namespace],
                            capture_output=True, text=True).stdout.split()
    return {int(pid): start_time(int(pid)) for pid in inside}


def alive(processes: dict[int, str]) -> list[int]:
    return [pid for pid, when in processes.items() if when and start_time(pid) == when]


def test_dev_cluster_as_the_readme_has_it(image):
    if command.read_state():
        pytest.skip("./dev cluster is up")
    form = "./dev cluster up --network espalier"
    assert form in (ROOT / "README.md").read_text()
    try:
        up = subprocess.run(form.split(), cwd=ROOT, capture_output=True, text=True,
                            timeout=300)
        assert up.returncode == 0, up.stdout + up.stderr
        state = command.read_state()
        assert len(state["nodes"]) == 2
        processes = processes_in(state["nodes"]["node-1"])
        # What it prints is what one types.
        env = re.search(r"^ +(\. \S+/env)\b", up.stdout, re.M)[1]
        status = subprocess.run(
            ["bash", "-c", f"{env} && kubectl espalier status --wait --timeout 150s"],
            capture_output=True, text=True, timeout=180)
        assert status.returncode == 0, status.stdout + status.stderr
        assert "tunnel ends: 2 of 2 up" in status.stdout
    finally:
        down = subprocess.run(["./dev", "cluster", "down"], cwd=ROOT, capture_output=True,
                              text=True, timeout=150)
    assert down.returncode == 0 and "the cluster is gone" in down.stdout, down.stdout
    assert len(processes) > 2 and not alive(processes)
    nothing_is_left(state)


def test_a_killed_cluster_leaves_nothing():
    """As ./dev cluster, whose keeper is killed."""
    if command.read_state():
        pytest.skip("./dev cluster is up")
    up = subprocess.run([sys.executable, "-m", "lab.kube.command", "up", "--nodes=1"],
                        capture_output=True, text=True, timeout=120)
    assert up.returncode == 0, up.stdout + up.stderr
    state = command.read_state()
    processes = processes_in(state["nodes"]["node-1"])
    assert len(processes) > 2
    os.kill(state["pid"], signal.SIGKILL)
    wait_until(lambda: not alive(processes), 30, "all processes of the node are gone")
    sweep_stale()
    nothing_is_left(state)
