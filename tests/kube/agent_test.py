"""The agent's Kubernetes mode against a real API server, kubelets and
containerd. The programs run as they are built, with a kubeconfig; the chart has
tests of its own."""

import json
import os
import re
import pathlib
import signal
import subprocess
import time

import pytest

from lab import Lab
from lab.kube import Cluster
from lab.kube.images import NAME
from lab.kube.machine import children
from lab.kube.pods import ClusterPod
from lab.kube.settings import POD_CIDRS
from lab.session import binary, wait_until

CRDS = pathlib.Path(__file__).resolve().parents[2] / "charts/espalier/templates/crds"
RUN = "/run/espalier"


def show(step: str, seconds: float) -> None:
    print(f"{seconds:6.1f} s  {step}", flush=True)


class Mesh:
    """espd and agent on each node, the controller beside the API server."""

    def __init__(self, lab: Lab, cluster: Cluster):
        self.lab = lab
        self.cluster = cluster
        self.config = lab.folder / "agent.yaml"
        self.config.write_text(
            "cluster: {source: kubernetes, plaintextPath: direct,\n"
            f"  podCIDRs: {json.dumps(POD_CIDRS)}}}\n"
            f"kubernetes: {{kubeconfig: {lab.folder}/pki/admin.conf}}\n"
            "guard: {bpf: auto}\n")
        cluster.kubectl("apply", "-f", "-", input="---\n".join(
            path.read_text() for path in sorted(CRDS.glob("*.yaml"))))
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all",
                        "--timeout=30s")
        cluster.kubectl("create", "namespace", "espalier-system")
        for node in cluster.nodes:
            node.run(["mkdir", "-p", RUN])
            node.start("espd", [binary("espalier-espd"), f"--socket={RUN}/espd.sock"])
            self.start_agent(node)

    def start_controller(self) -> None:
        self.cluster.control.start("controller", [
            binary("espalier-controller"), "--identity=one", "--namespace=espalier-system",
            f"--cluster-pod-cidr={','.join(POD_CIDRS)}",
            f"--kubeconfig={self.lab.folder}/pki/admin.conf"])

    def start_agent(self, node) -> None:
        node.start("agent", [
            "env", f"NODE_NAME={node.name}", binary("espalier-agent"),
            "--config", self.config, "--install-cni", "--cni-binary",
            binary("espalier-cni")])

    def log(self, node) -> str:
        return node.processes["agent"].log_path.read_text()

    def ask(self, node, *words) -> dict:
        return json.loads(node.run([binary("kubectl-espalier"), "--socket",
                                    f"{RUN}/agent.sock", "-o", "json", *words]).stdout)

    def up(self, node) -> bool:
        result = node.run([binary("kubectl-espalier"), "--socket", f"{RUN}/agent.sock",
                           "tunnels"], check=False)
        return result.returncode == 0 and " up " in result.stdout


def pod(name: str, node: str, namespace: str = "default", **annotations) -> dict:
    return {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "annotations": {
                f"espalier.dev/{key}": value for key, value in annotations.items()}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [
                {"name": "c", "image": NAME, "imagePullPolicy": "Never"}]}}


@pytest.fixture(scope="module")
def mesh(request):
    if os.geteuid() != 0:
        pytest.skip("the cluster's nodes are network namespaces: needs root")
    failed = request.session.testsfailed
    with Lab("kagent") as lab:
        cluster = Cluster(lab, nodes=2, progress=show)
        cluster.up()
        mesh = Mesh(lab, cluster)
        yield mesh
        lab.failed = request.session.testsfailed > failed
        for machine in (cluster.control, *cluster.nodes) if lab.failed else ():
            for name in ("agent", "espd", "controller"):
                if name in machine.processes:
                    log = machine.processes[name].log_path.read_text()
                    print(f"--- {machine.name} {name}\n{log[-3000:]}")


def wait_ready(cluster: Cluster, *names: str, namespace: str = "default") -> None:
    cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready",
                    *(f"pod/{name}" for name in names), "--timeout=60s", timeout=70)


def address(cluster: Cluster, name: str, family: int = 0, namespace: str = "default") -> str:
    status = cluster.get("-n", namespace, "pod", name)["status"]
    return status["podIPs"][family]["ip"]


def test_waits_for_the_controller_and_says_so(mesh: Mesh):
    node = mesh.cluster.nodes[0]
    wait_until(lambda: "espalier-controller" in mesh.log(node), 30, "the agent's log")
    assert not (node.cni_lists / "00-espalier.conflist").exists()
    assert mesh.cluster.get("espaliernode", node.name)["spec"]["publicKeys"]


def test_from_nothing_to_a_ping(mesh: Mesh):
    mesh.start_controller()
    mesh.cluster.wait_for_nodes(60)
    mesh.cluster.apply(pod("a", "node-1"), pod("b", "node-2"))
    wait_ready(mesh.cluster, "a", "b")
    for family in (0, 1):
        mesh.cluster.kubectl("exec", "a", "--", "ping", "-c", "3", "-i", "0.2", "-W", "5",
                             address(mesh.cluster, "b", family))
    for node in mesh.cluster.nodes:
        wait_until(lambda: mesh.up(node), 20, f"the tunnel of {node.name}")


def mode(mesh: Mesh, node, name: str) -> str:
    for line in mesh.ask(node, "pods").get("pods", []):
        if line.get("podName", line.get("name")) == name:
            text = json.dumps(line)
            return re.search(r"required|preferred|disabled", text, re.I)[0].lower()
    return ""


def test_an_annotation_is_in_force_within_a_second(mesh: Mesh):
    node = mesh.cluster.nodes[0]
    assert mode(mesh, node, "a") == "preferred"
    times = []
    for word in ("required", "preferred") * 5:
        mesh.cluster.kubectl("annotate", "--overwrite", "namespace", "default",
                             f"espalier.dev/encryption={word}")
        begin = time.monotonic()
        wait_until(lambda: mode(mesh, node, "a") == word, 10, word)
        times.append(time.monotonic() - begin)
    print("annotation to enforcement:", sorted(round(t, 3) for t in times))


def test_namespace_and_pod_in_one_file(mesh: Mesh):
    mesh.cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace",
         "metadata": {"name": "shop", "annotations": {"espalier.dev/encryption": "required"}}})
    mesh.cluster.apply(pod("s", "node-1", "shop"))
    wait_ready(mesh.cluster, "s", namespace="shop")
    assert mode(mesh, mesh.cluster.nodes[0], "s") == "required"


def ping_while(mesh: Mesh, seconds: int, what) -> str:
    """A hundred packets a second from a to b while `what` runs."""
    path = ClusterPod(mesh.cluster, "default", "a").namespace.path
    with subprocess.Popen(
            ["nsenter", f"--net={path}", "ping", "-q", "-i", "0.01", "-W", "5", "-c",
             str(seconds * 100), address(mesh.cluster, "b")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        what()
        # Its count, not the time, ends it: it is told once all is over.
        process.send_signal(signal.SIGINT)
        out = process.communicate(timeout=60)[0]
    return next(line for line in out.splitlines() if "packets transmitted" in line)


def test_a_key_is_rotated_without_a_lost_packet(mesh: Mesh):
    cluster = mesh.cluster
    before = cluster.get("espaliernode", "node-1")["spec"]["publicKeys"]

    def rotate():
        cluster.kubectl("annotate", "--overwrite", "espaliernode", "node-1",
                        "espalier.dev/rotate=one")
        wait_until(lambda: len(cluster.get("espaliernode", "node-1")["spec"]["publicKeys"]) == 2,
                   20, "both keys are published")
        wait_until(lambda: len(cluster.get("espaliernode", "node-1")["spec"]["publicKeys"]) == 1,
                   150, "the old one is withdrawn")
        time.sleep(3)  # what the peer does on that
    line = ping_while(mesh, 300, rotate)
    after = cluster.get("espaliernode", "node-1")["spec"]["publicKeys"]
    assert after != before
    assert " 0% packet loss" in line, line
    print(line)


def test_the_api_server_is_away_and_the_agent_restarts(mesh: Mesh):
    cluster = mesh.cluster
    target = address(cluster, "b")
    node = cluster.nodes[0]
    tunnels = json.dumps(mesh.ask(node, "tunnels"))
    assert "node-2" in tunnels
    cluster.control.kill("apiserver")
    node.kill("agent")
    mesh.start_agent(node)
    wait_until(lambda: mesh.up(node), 40, "the tunnel comes again without the API server")
    assert "last known" in mesh.log(node)
    assert mode(mesh, node, "a") in ("preferred", "required")
    cluster.start_apiserver()
    cluster.wait_for_apiserver()
    cluster.kubectl("exec", "a", "--", "ping", "-c", "3", "-W", "5", target)


def test_reports_are_written(mesh: Mesh):
    report = mesh.cluster.get("espaliernodereport", "node-2")
    assert report["status"]["tunnels"]["wanted"] == 1
    assert report["status"]["datapath"] == "user"


def test_ends_on_sigterm_and_leaves_its_tunnels(mesh: Mesh):
    node = mesh.cluster.nodes[1]
    process = node.processes["agent"]
    for pid in children(process.pid):
        os.kill(pid, signal.SIGTERM)
    process.wait(10)
    mesh.cluster.kubectl("exec", "a", "--", "ping", "-c", "3", "-W", "5",
                         address(mesh.cluster, "b"))
    mesh.start_agent(node)
    wait_until(lambda: mesh.up(node), 30, "the tunnel of the next agent")
