"""Pods of a cluster as the lab's other parts see pods: addresses, and a network
that programs of this machine run in."""

import dataclasses
import ipaddress
import pathlib
import subprocess

from lab.errors import LabError
from lab.kube import images
from lab.kube.cluster import Cluster
from lab.kube.node import KubeNode

_FIND = """for path in /run/netns/cni-*; do
  nsenter --net="$path" ip -o address show | grep -qF " $1/" && echo "$path" && exit
done; exit 1"""


@dataclasses.dataclass
class PodNetwork:
    """path: through the root of the node's pid 1, as seen from outside."""
    path: pathlib.Path

    def run(self, words: list, *, timeout: float = 30) -> subprocess.CompletedProcess:
        return subprocess.run(["nsenter", f"--net={self.path}", *map(str, words)],
                              capture_output=True, text=True, timeout=timeout)


class ClusterPod:
    """One that runs."""

    def __init__(self, cluster: Cluster, namespace: str, name: str):
        self.cluster = cluster
        self.name = name
        self.kube_namespace = namespace
        found = cluster.get("pod", "-n", namespace, name)
        self.node: KubeNode = cluster.node(found["spec"]["nodeName"])
        addresses = [entry["ip"] for entry in found["status"]["podIPs"]]
        self.ipv4 = next(a for a in addresses if ipaddress.ip_address(a).version == 4)
        self.ipv6 = next(a for a in addresses if ipaddress.ip_address(a).version == 6)
        inner = self.node.run(["sh", "-c", _FIND, "find", self.ipv4]).stdout.strip()
        self.namespace = PodNetwork(pathlib.Path(f"/proc/{self.node.pid}/root{inner}"))

    def exec(self, *words, check: bool = True, timeout: float = 60):
        return self.cluster.kubectl("exec", "-n", self.kube_namespace, self.name, "--",
                                    *words, check=check, timeout=timeout)

    def ping(self, address: str, *, count: int = 3, wait: int = 2) -> int:
        """How many answers came."""
        result = self.exec("ping", "-c", count, "-W", wait, "-w", count + wait, address,
                           check=False)
        for line in result.stdout.splitlines():
            if " packets received" in line:
                return int(line.split(",")[1].split()[0])
        raise LabError(f"ping {address} in {self.name}: {result.stderr.strip()}")


def pod_object(namespace: str, name: str, node: KubeNode, *, command: list[str] = (),
               annotations: dict | None = None, labels: dict | None = None,
               host_network: bool = False) -> dict:
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {},
                     "annotations": annotations or {}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node.name},
            "hostNetwork": host_network, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": images.NAME, "imagePullPolicy": "Never",
                **({"command": list(command)} if command else {})}]}}


def run_pods(cluster: Cluster, *objects: dict, seconds: int = 60) -> list[ClusterPod]:
    """Applied in one go, namespaces and whatever else included; returns the pods
    once they are ready."""
    cluster.apply(*objects)
    pods = [(o["metadata"]["namespace"], o["metadata"]["name"]) for o in objects
            if o["kind"] == "Pod"]
    for namespace in sorted({namespace for namespace, _ in pods}):
        cluster.kubectl("wait", "-n", namespace, "--for=condition=Ready",
                        f"--timeout={seconds}s",
                        *(f"pod/{name}" for there, name in pods if there == namespace),
                        timeout=seconds + 10)
    return [ClusterPod(cluster, namespace, name) for namespace, name in pods]
