"""Espalier on a cluster, as users install and ask it."""

import json
import pathlib

from lab.kube.cluster import Cluster
from lab.kube.node import KubeNode
from lab.kube.settings import POD_CIDRS

CHART = pathlib.Path(__file__).resolve().parents[3] / "charts/espalier"
NAMESPACE = "espalier-system"
# Values of this machine: it may lack CAP_SYS_RESOURCE.
VALUES = {"clusterPodCIDRs": list(POD_CIDRS), "espd": {"lockMemory": False}}


def helm_words(command: str) -> list[str]:
    return [command, "espalier", str(CHART), "--namespace", NAMESPACE,
            "--create-namespace", "--wait", "--timeout", "2m"]


def install(cluster: Cluster, *, command: str = "install", **values) -> str:
    """command: install or upgrade. Returns what helm says."""
    return cluster.helm(*helm_words(command), "--values", "-", timeout=150,
                        input=json.dumps({**VALUES, **values})).stdout


def component_pod(cluster: Cluster, component: str, node: str) -> dict:
    """The one of that node that is not being deleted."""
    pods = cluster.get("pods", "-n", NAMESPACE, "-l",
                       f"app.kubernetes.io/component={component}")["items"]
    found = [pod for pod in pods if pod["spec"].get("nodeName") == node
             and "deletionTimestamp" not in pod["metadata"]]
    assert len(found) == 1, [pod["metadata"]["name"] for pod in found]
    return found[0]


def ask_agent(cluster: Cluster, node: str, *words: str) -> dict:
    """kubectl-espalier of that node's agent, in JSON."""
    pod = component_pod(cluster, "agent", node)["metadata"]["name"]
    return json.loads(cluster.kubectl(
        "exec", "-n", NAMESPACE, pod, "-c", "agent", "--", "/usr/bin/kubectl-espalier",
        "-o", "json", *words, check=False).stdout)


def metric(node: KubeNode, name: str, label: str = "") -> float:
    """Of its agent, all that begin so, and have that label, summed; 0 while no
    agent answers."""
    text = node.namespace.run(["curl", "-s", "-m", "5", "http://127.0.0.1:9469/metrics"],
                              check=False).stdout
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines()
               if line.startswith(name) and label in line)
