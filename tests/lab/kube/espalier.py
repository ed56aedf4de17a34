"""Espalier on a cluster, as users install and ask it."""

import json
import pathlib

from lab.kube.cluster import Cluster
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
