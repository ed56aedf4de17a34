"""From nothing to the first ESP ping and back, as users do it: helm and kubectl.
The tests of this file follow one another on one cluster."""

import datetime
import os
import signal
import time
from collections.abc import Iterator

import pytest

from lab import LabError, wait_until
from lab.kube import KubeNode, espalier
from lab.kube.captured import Captured
from lab.kube.cluster import Cluster
from lab.kube.machine import processes_below
from lab.kube.pods import ClusterPod, pod_object, run_pods
from lab.leftovers import leftovers
from lab.traffic import Traffic

MOST_SECONDS_TO_THE_FIRST_PING = 60  # of issue 5, with the images present


@pytest.fixture(scope="module")
def installed(cluster, image) -> Cluster:
    ready = cluster.get("nodes")["items"][0]["status"]["conditions"]
    assert next(c for c in ready if c["type"] == "Ready")["status"] == "False"
    cluster.load_image(image)
    cluster.install_began = time.time()
    notes = espalier.install(cluster)
    print(f"helm install --wait: {time.time() - cluster.install_began:.1f} s")
    assert "kubectl espalier status" in notes
    cluster.wait_for_nodes()
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
        seconds = time.time() - installed.install_began
        assert a.ping(b.ipv6) == 3
        assert b.ping(a.ipv4) == 3
    assert seen.packets.esp >= 14
    print_where_the_time_went(installed, seconds)
    assert seconds < MOST_SECONDS_TO_THE_FIRST_PING


def print_where_the_time_went(cluster: Cluster, first_ping: float) -> None:
    """After helm install began, of the later node each. The API server's times
    are whole seconds, cut off."""
    def after(text: str) -> float:
        when = datetime.datetime.fromisoformat(text)
        return when.timestamp() - cluster.install_began

    def true_since(item: dict, kind: str) -> float:
        return after(next(c for c in item["status"]["conditions"]
                          if c["type"] == kind)["lastTransitionTime"])

    steps = {"first ping": first_ping}
    for component in ("espd", "agent"):
        found = cluster.get("pods", "-n", espalier.NAMESPACE, "-l",
                            f"app.kubernetes.io/component={component}")["items"]
        steps[f"{component} started"] = max(
            after(pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"])
            for pod in found)
    for what, kind, collection in (
            ("EspalierNodes verified", "Verified", ("espaliernodes",)),
            ("nodes Ready", "Ready", ("nodes",)),
            ("pods a and b Ready", "Ready", ("pods", "-n", "default"))):
        steps[what] = max(true_since(item, kind) for item in cluster.get(*collection)["items"])
    for what, seconds in sorted(steps.items(), key=lambda step: step[1]):
        print(f"{seconds:6.1f} s  {what}")


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


@pytest.fixture(scope="module")
def traffic(installed, pods) -> Traffic:
    """1,000 packets a second."""
    traffic = Traffic(installed.lab)
    traffic.both_ways("upgrade", *pods, rate=250)
    return traffic


@pytest.fixture
def nothing_lost(request, installed, pods, traffic) -> Iterator[None]:
    """While the test runs."""
    traffic.resume()
    traffic.wait_for_flow()
    before = traffic.counts()
    with Captured(installed, request.function.__name__, *pods):
        yield
        # What is done may take less than a second.
        traffic.wait_for_flow(packets=1000)
    for name, count in traffic.pause().items():
        assert count.received > before[name].received + 1000, (name, count)
        assert (count.missing, count.doubled) == (0, 0), (name, count)


def test_agent_killed_without_a_lost_packet(installed, pods, nothing_lost):
    node = pods[0].node
    before = restarts(installed, "agent", node)
    (agent,) = processes_below(node.pid, "/usr/bin/espalier-agent")
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: restarts(installed, "agent", node) > before, 60,
               "the agent was started again")
    wait_until(lambda: espalier.metric(node, "espalier_tunnels_up") == 1, 60,
               "it has taken the tunnel over")


def test_upgraded_without_a_lost_packet_or_a_node_not_ready(installed, pods, nothing_lost):
    """Another image, by its name, and another configuration: every pod of the
    release is replaced."""
    for node in installed.nodes:
        node.ctr("-n", "k8s.io", "images", "tag", "localhost/espalier:0.1.0",
                 "localhost/espalier:next")
    ready = installed.ready_conditions()
    assert {condition["status"] for condition in ready.values()} == {"True"}
    before = {(node.name, component): espalier.component_pod(installed, component, node.name)
              for node in installed.nodes for component in ("agent", "espd")}
    began = time.monotonic()
    espalier.install(installed, command="upgrade", image={"tag": "next"},
                     agent={"config": {"lifetimes": {"child": {"rekeyAfter": "5s"}}}})
    print(f"helm upgrade --wait: {time.monotonic() - began:.1f} s")
    for (node, component), old in before.items():
        pod = espalier.component_pod(installed, component, node)
        assert pod["metadata"]["uid"] != old["metadata"]["uid"]
        assert pod["spec"]["containers"][0]["image"] == "localhost/espalier:next"
        if component == "espd":
            log = installed.kubectl("logs", "-n", espalier.NAMESPACE,
                                    pod["metadata"]["name"]).stdout
            assert '"taken_over":true' in log, log
    for node in installed.nodes:
        wait_until(lambda: espalier.metric(node, 'espalier_rekeys_total{kind="child"}') > 0, 60,
                   f"{node.name} has the new configuration")
    installed.assert_ready_since(ready)


def restarts(cluster: Cluster, component: str, node: KubeNode) -> int:
    pod = espalier.component_pod(cluster, component, node.name)
    return pod["status"]["containerStatuses"][0]["restartCount"]


def leftovers_on(node: KubeNode) -> list[str]:
    # The folders themselves are mounted into the Pod that cleans.
    return leftovers(node.run, "/etc/cni/net.d/*espalier*", "/opt/cni/bin/espalier-cni",
                     "/sys/fs/bpf/espalier/*/*", "/var/lib/espalier/*", "/run/espalier/*")


def uninstall(cluster: Cluster, *flags: str):
    """From the nodes; helm's is another."""
    return cluster.kubectl("espalier", "uninstall", *flags, check=False, timeout=240)


def test_uninstall_is_refused_while_pods_are_attached(installed, pods):
    refused = uninstall(installed)
    assert refused.returncode == 1, (refused.stdout, refused.stderr)
    for words in ("default/a on node-1", "shop/b on node-2", "--force"):
        assert words in refused.stderr
    assert installed.get("daemonset", "espalier-agent", "-n",
                         espalier.NAMESPACE)["status"]["numberReady"] == 2
    assert pods[0].ping(pods[1].ipv4, count=1) == 1


def test_helm_uninstall_leaves_the_guards_standing(installed):
    pods = [ClusterPod(installed, "shop", name) for name in ("a", "b")]
    with Captured(installed, "uninstall", *pods):
        out = installed.helm("uninstall", "espalier", "-n", espalier.NAMESPACE, "--wait",
                             timeout=120).stdout
        assert "espaliernodes.espalier.dev" in out  # the CRDs stay
        assert "nodes-keep-their-guards-until-kubectl-espalier-uninstall" in out
        wait_until(lambda: not installed.get("pods", "-n", espalier.NAMESPACE)["items"], 60,
                   "the pods are gone")
        # espd went with its keys: ESP or nothing is nothing now.
        assert pods[0].ping(pods[1].ipv4, count=2, wait=1) == 0
        assert pods[0].ping(pods[1].ipv6, count=2, wait=1) == 0
    for node in installed.nodes:
        found = leftovers_on(node)
        assert "table inet espalier_guard" in found, found
        assert any("/sys/fs/bpf/espalier/" in line for line in found), found
    # Same-node traffic never needed them.
    assert pods[0].node.run(["ping", "-c", "1", pods[0].ipv4]).returncode == 0


def test_uninstall_after_helm_cleans_the_nodes(installed):
    # There is no agent to ask: each node refuses for itself, and nothing is touched.
    before = [leftovers_on(node) for node in installed.nodes]
    refused = uninstall(installed)
    assert refused.returncode == 4, (refused.stdout, refused.stderr)
    assert "shop/a" in refused.stderr and "their guards stand" in refused.stderr
    assert [leftovers_on(node) for node in installed.nodes] == before
    begin = time.monotonic()
    forced = uninstall(installed, "--force")
    print(forced.stdout, f"{time.monotonic() - begin:.1f} s")
    assert forced.returncode == 0, (forced.stdout, forced.stderr)
    assert "2 of 2 nodes are clean" in forced.stdout
    for node in installed.nodes:
        assert leftovers_on(node) == []
    assert installed.get("espaliernodes")["items"] == []
    again = uninstall(installed)
    assert again.returncode == 0 and "No node has anything" in again.stdout


def test_installed_again_and_uninstalled_in_order(installed):
    espalier.install(installed)
    installed.wait_for_nodes()
    # Those that were forced off have no network to lose.
    for namespace in ("default", "shop"):
        installed.kubectl("delete", "pods", "--all", "-n", namespace, timeout=90)
    done = uninstall(installed)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert f"helm uninstall espalier -n {espalier.NAMESPACE}" in done.stdout
    for node in installed.nodes:
        assert leftovers_on(node) == []
    assert installed.get("daemonsets", "-n", espalier.NAMESPACE)["items"] == []
    installed.helm("uninstall", "espalier", "-n", espalier.NAMESPACE, "--wait", timeout=120)
    assert installed.get("configmaps", "-n", espalier.NAMESPACE, "-l",
                         "app.kubernetes.io/name=espalier")["items"] == []
