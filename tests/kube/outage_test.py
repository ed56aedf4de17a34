"""The API server goes away, comes back with an older state, and has much to say
at once. What carries packets does not care. The tests of this file follow one
another on one cluster.

CI's times are short. The figures of docs/benchmarks.md:
ESPALIER_API_AWAY=125 ESPALIER_PODS_AT_ONCE=100 ESPALIER_ANNOTATIONS=50"""

import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import time

import pytest

from lab import wait_until
from lab.kube import KubeNode, espalier
from lab.kube.cluster import Cluster
from lab.kube.machine import children, processes_below
from lab.kube.pods import ClusterPod, pod_object, run_pods
from lab.session import binary
from lab.traffic import Traffic

AWAY_SECONDS = float(os.environ.get("ESPALIER_API_AWAY", 30))
PODS_AT_ONCE = int(os.environ.get("ESPALIER_PODS_AT_ONCE", 30))
ANNOTATIONS = int(os.environ.get("ESPALIER_ANNOTATIONS", 10))
# Many rekeys fall into the outage.
CONFIG = {"lifetimes": {"child": {"rekeyAfter": "5s", "expireAfter": "20m"},
                        "ike": {"rekeyAfter": "15s", "expireAfter": "20m"}}}


@pytest.fixture(scope="module")
def installed(cluster, image) -> Cluster:
    cluster.load_image(image)
    espalier.install(cluster, agent={"config": CONFIG})
    cluster.wait_for_nodes()
    return cluster


@pytest.fixture(scope="module")
def pods(installed) -> list[ClusterPod]:
    a, b = installed.nodes
    shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": "shop", "annotations": {"espalier.dev/encryption": "preferred"}}}
    return run_pods(installed, shop, pod_object("shop", "a", a), pod_object("shop", "b", b))


@pytest.fixture(scope="module")
def traffic(installed, pods) -> Traffic:
    """1,000 packets a second; each test looks at what was lost so far."""
    traffic = Traffic(installed.lab)
    wait_until(lambda: pods[0].ping(pods[1].ipv6, count=1) == 1, 30, "the tunnel is up")
    traffic.both_ways("outage", *pods, rate=250)
    traffic.wait_for_flow()
    return traffic


def assert_nothing_lost(traffic: Traffic) -> None:
    for name, count in traffic.pause().items():
        print(f"{name}: {count.sent} sent, {count.missing} lost, {count.doubled} doubled")
        assert (count.missing, count.doubled) == (0, 0), (name, count)
    traffic.resume()


def metric(node: KubeNode, name: str) -> float:
    """0 while no agent answers."""
    text = node.namespace.run(["curl", "-s", "-m", "2", "http://127.0.0.1:9469/metrics"],
                              check=False).stdout
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines()
               if line.startswith(name))


def ask(node: KubeNode, *words: str) -> subprocess.CompletedProcess:
    """The agent of that node by its socket: it answers also when no API server
    does."""
    return subprocess.run(
        [binary("kubectl-espalier"), "--socket",
         f"/proc/{node.pid}/root/run/espalier/agent.sock", "-o", "json", *words],
        capture_output=True, text=True, timeout=20)


def mode(node: KubeNode, name: str) -> str:
    result = ask(node, "pods")
    if result.returncode != 0:
        return ""
    return next((pod["mode"] for pod in json.loads(result.stdout)["pods"]
                 if (pod["namespace"], pod["name"]) == ("shop", name)), "")


def test_without_an_api_server_tunnels_rekey_and_agents_restart(installed, pods, traffic):
    node = pods[0].node
    installed.control.kill("apiserver")
    begin = time.monotonic()
    before = metric(node, 'espalier_rekeys_total{kind="child"}')
    wait_until(lambda: metric(node, 'espalier_rekeys_total{kind="child"}') >= before + 3, 60,
               "three rekeys without an API server")
    (agent,) = processes_below(node.pid, "/usr/bin/espalier-agent")
    os.kill(agent, signal.SIGKILL)
    # The kubelet starts it again by itself; it has what it last knew.
    wait_until(lambda: processes_below(node.pid, "/usr/bin/espalier-agent") not in ([], [agent]), 60,
               "the agent was started again")
    wait_until(lambda: metric(node, 'espalier_rekeys_total{kind="child"}') >= 2, 90,
               "the new agent has taken over and rekeyed")
    time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - begin)))
    assert "apiserver" not in installed.control.processes
    print(f"without an API server for {time.monotonic() - begin:.0f} s")
    traffic.wait_for_flow()
    installed.start_apiserver()
    installed.wait_for_apiserver()
    installed.wait_for_nodes()
    assert_nothing_lost(traffic)


def test_a_namespace_that_is_strengthened_is_so_at_once(installed, pods, traffic):
    """The time is from before kubectl starts, so it holds kubectl's own."""
    seconds = []
    for number in range(ANNOTATIONS):
        wanted = ("required", "preferred")[number % 2]
        begin = time.monotonic()
        installed.kubectl("annotate", "--overwrite", "namespace", "shop",
                          f"espalier.dev/encryption={wanted}")
        for pod in pods:
            wait_until(lambda: mode(pod.node, pod.name) == wanted, 30,
                       f"{pod.name} is {wanted}")
        seconds.append(time.monotonic() - begin)
    seconds.sort()
    print(f"annotation to both nodes, of {ANNOTATIONS}: median "
          f"{statistics.median(seconds):.2f} s, 99% "
          f"{seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))]:.2f} s")
    installed.kubectl("annotate", "--overwrite", "namespace", "shop",
                      "espalier.dev/encryption=preferred")
    assert_nothing_lost(traffic)


def test_a_state_set_back_tears_nothing_down(installed, pods, traffic):
    control = installed.control
    etcd, old = control.folder / "etcd", control.folder / "etcd.old"
    (pid,) = children(control.processes["etcd"].pid)
    command = pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]

    def restart(meanwhile) -> None:
        control.kill("apiserver")
        control.kill("etcd")
        meanwhile()
        control.start("etcd", command)
        installed.start_apiserver()
        installed.wait_for_apiserver()

    restart(lambda: shutil.copytree(etcd, old))
    for number in range(20):
        installed.kubectl("annotate", "--overwrite", "namespace", "kube-public",
                          f"some/value=v{number}")
    seen = {node.name: metric(node, "espalier_tunnels_up") for node in installed.nodes}
    assert set(seen.values()) == {1}, seen

    def set_back():
        shutil.rmtree(etcd)
        old.rename(etcd)
    restart(set_back)
    # Longer than a removed peer would stay.
    end = time.monotonic() + 40
    while time.monotonic() < end:
        for node in installed.nodes:
            assert metric(node, "espalier_tunnels_up") == 1, node.name
        time.sleep(2)
    assert_nothing_lost(traffic)
    assert pods[0].ping(pods[1].ipv4) == 3


def counted(node: KubeNode) -> dict[str, int]:
    links = node.namespace.run(["ip", "-o", "link", "show", "type", "veth"]).stdout
    return {"veths": len(links.splitlines()),
            "network namespaces": len(node.run(["ls", "/run/netns"]).stdout.split()),
            "pods": len(json.loads(ask(node, "pods").stdout)["pods"])}


def words_of(node: KubeNode) -> set[str]:
    """Whatever could name an address: routes, rules, neighbours, the second guard's
    sets, the agent's checkpoint."""
    network = node.namespace
    text = "".join(network.run(command).stdout for command in (
        ["ip", "route", "show", "table", "all"], ["ip", "-6", "route", "show", "table", "all"],
        ["ip", "neighbour"], ["nft", "list", "ruleset"]))
    text += node.run(["sh", "-c", "cat /var/lib/espalier/*.json"]).stdout
    return set(re.split(r"[^0-9a-fA-F.:]+", text))


def test_many_pods_at_once_leave_nothing(installed, pods, traffic):
    before = [counted(node) for node in installed.nodes]
    names = [(f"many-{number}", installed.nodes[number % 2]) for number in range(PODS_AT_ONCE)]
    begin = time.monotonic()
    installed.kubectl("create", "-f", "-", timeout=180, input=json.dumps(
        {"apiVersion": "v1", "kind": "List",
         "items": [pod_object("shop", name, node) for name, node in names]}))
    installed.kubectl("wait", "-n", "shop", "--for=condition=Ready", "--timeout=180s",
                      *(f"pod/{name}" for name, _ in names), timeout=190)
    print(f"{PODS_AT_ONCE} pods ready after {time.monotonic() - begin:.1f} s")
    addresses = [entry["ip"] for pod in installed.get("pods", "-n", "shop")["items"]
                 if pod["metadata"]["name"].startswith("many-")
                 for entry in pod["status"]["podIPs"]]
    assert len(set(addresses)) == 2 * PODS_AT_ONCE
    # What is looked for afterwards would be found.
    assert all(words_of(node) & set(addresses) for node in installed.nodes)
    assert counted(installed.nodes[0])["veths"] >= before[0]["veths"] + PODS_AT_ONCE // 2
    begin = time.monotonic()
    installed.kubectl("delete", "pod", "-n", "shop", "--wait=true", "--timeout=120s",
                      *(name for name, _ in names), timeout=130)
    for node, was in zip(installed.nodes, before):
        wait_until(lambda: counted(node) == was, 60, f"{node.name} is as before")
    print(f"and gone without a trace after {time.monotonic() - begin:.1f} s")
    assert_nothing_lost(traffic)
