"""From nothing to the first ESP ping and back, as users do it: helm and kubectl.
The tests of this file follow one another on one cluster."""

import os
import signal
import time

import pytest

from lab import LabError, wait_until
from lab.kube import KubeNode, espalier
from lab.kube.captured import Captured
from lab.kube.cluster import Cluster
from lab.kube.machine import processes_below
from lab.kube.pods import ClusterPod, pod_object, run_pods
from lab.traffic import Traffic

@pytest.fixture(scope="module")
def installed(cluster, image) -> Cluster:
    ready = cluster.get("nodes")["items"][0]["status"]["conditions"]
    assert next(c for c in ready if c["type"] == "Ready")["status"] == "False"
    cluster.load_image(image)
    begin = time.monotonic()
    notes = espalier.install(cluster)
    print(f"helm install --wait: {time.monotonic() - begin:.1f} s")
    assert "kubectl espalier status" in notes
    cluster.wait_for_nodes()
    print(f"nodes Ready: {time.monotonic() - begin:.1f} s after helm install began")
    cluster.install_began = begin
    return cluster


@pytest.fixture(scope="module")
def pods(installed) -> list[ClusterPod]:
    a, b = installed.nodes
    return run_pods(installed, pod_object("default", "a", a),
                    pod_object("default", "b", b, labels={"app": "b"},
                               command=["httpd", "-f", "-p", "8080", "-h", "/etc"]))


def test_from_nothing_to_the_first_ping(installed, pods):
    a, b = pods
    with Captured(installed, "first", a, b) as seen:
        assert a.ping(b.ipv4, count=1, wait=10) == 1
        print(f"first ping: {time.monotonic() - installed.install_began:.1f} s after "
              "helm install began")
        assert a.ping(b.ipv6) == 3
        assert b.ping(a.ipv4) == 3
    assert seen.packets.esp >= 14


def test_helm_test_passes(installed):
    # Of whatever node the pod lands on, the tunnels are up by now.
    out = installed.helm("test", "espalier", "-n", espalier.NAMESPACE, timeout=90).stdout
    assert "Succeeded" in out


def test_service_by_kube_proxy(installed, pods):
    a, b = pods
    installed.apply({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"app": "b"}, "ipFamilyPolicy": "RequireDualStack",
                 "ports": [{"port": 80, "targetPort": 8080}]}})
    addresses = installed.get("service", "b")["spec"]["clusterIPs"]
    assert len(addresses) == 2
    with Captured(installed, "service", a, b) as seen:
        for address in addresses:
            host = f"[{address}]" if ":" in address else address
            text = a.exec("curl", "-sS", "--max-time", "5", "--retry", "5",
                          "--retry-all-errors", "--retry-delay", "1",
                          f"http://{host}/hostname").stdout
            assert text.strip() == "b"
    assert seen.packets.esp > 0


def test_required_namespace_is_esp_or_nothing(installed):
    a, b = installed.nodes
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": "shop", "annotations": {"espalier.dev/encryption": "required"}}}
    pods = run_pods(installed, namespace, pod_object("shop", "a", a),
                    pod_object("shop", "b", b))
    for node, pod in zip(installed.nodes, pods):
        shown = espalier.ask_agent(installed, node.name, "pods")["pods"]
        assert [p["mode"] for p in shown if (p["namespace"], p["name"]) ==
                ("shop", pod.name)] == ["required"], shown
    with Captured(installed, "required", *pods) as seen:
        assert pods[0].ping(pods[1].ipv4) == 3
        assert pods[0].ping(pods[1].ipv6) == 3
        # The tunnel's device is gone, and with it espd: it is started again, makes
        # a new one, and the tunnel is negotiated anew. No other way meanwhile.
        a.namespace.run(["ip", "link", "delete", "espalier0"])
        wait_until(lambda: restarts(installed, "espd", a) > 0, 30, "espd was started again")
        wait_until(lambda: pods[0].ping(pods[1].ipv6, count=1) == 1, 90,
                   "the tunnel is back")
    assert seen.packets.esp >= 14


def test_admission_refuses_what_cannot_be_required(installed):
    wrong = installed.kubectl("annotate", "namespace", "default",
                              "espalier.dev/encryption=requird", check=False)
    assert wrong.returncode != 0 and "expected one of" in wrong.stderr
    with pytest.raises(LabError, match="hostNetwork"):
        installed.apply(pod_object("shop", "host", installed.nodes[0], host_network=True))


def test_agent_killed_and_all_rolled_without_a_lost_packet(installed, pods):
    a, b = pods
    traffic = Traffic(installed.lab)
    traffic.both_ways("upgrade", a, b, rate=250)
    traffic.wait_for_flow()
    with Captured(installed, "upgrade", a, b):
        before = restarts(installed, "agent", a.node)
        (agent,) = processes_below(a.node.pid, "/usr/bin/espalier-agent")
        os.kill(agent, signal.SIGKILL)
        wait_until(lambda: restarts(installed, "agent", a.node) > before, 60,
                   "the agent was started again")
        for component in ("agent", "espd"):
            installed.kubectl("-n", espalier.NAMESPACE, "rollout", "restart",
                              f"daemonset/espalier-{component}")
            installed.kubectl("-n", espalier.NAMESPACE, "rollout", "status",
                              f"daemonset/espalier-{component}", "--timeout=120s",
                              timeout=130)
            for node in installed.get("nodes")["items"]:
                ready = next(c for c in node["status"]["conditions"] if c["type"] == "Ready")
                assert ready["status"] == "True", (component, node["metadata"]["name"])
    for name, count in traffic.pause().items():
        assert count.received > 1000, (name, count)
        assert (count.missing, count.doubled) == (0, 0), (name, count)


def restarts(cluster: Cluster, component: str, node: KubeNode) -> int:
    pod = espalier.component_pod(cluster, component, node.name)
    return pod["status"]["containerStatuses"][0]["restartCount"]


def test_uninstall_leaves_the_guards_standing(installed):
    pods = [ClusterPod(installed, "shop", name) for name in ("a", "b")]
    with Captured(installed, "uninstall", *pods):
        out = installed.helm("uninstall", "espalier", "-n", espalier.NAMESPACE, "--wait",
                             timeout=120).stdout
        assert "espaliernodes.espalier.dev" in out  # the CRDs stay
        wait_until(lambda: not installed.get("pods", "-n", espalier.NAMESPACE)["items"], 60,
                   "the pods are gone")
        # espd went with its keys: ESP or nothing is nothing now.
        assert pods[0].ping(pods[1].ipv4, count=2, wait=1) == 0
        assert pods[0].ping(pods[1].ipv6, count=2, wait=1) == 0
    for node in installed.nodes:
        assert "espalier" in node.run(["nft", "list", "tables"]).stdout
    # Same-node traffic never needed them.
    assert pods[0].node.run(["ping", "-c", "1", pods[0].ipv4]).returncode == 0
