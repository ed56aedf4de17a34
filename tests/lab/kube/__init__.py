"""A real Kubernetes in namespaces of this machine:

    with Lab("kube") as lab:
        cluster = Cluster(lab, nodes=2)
        cluster.up()
        cluster.plain_network()
        cluster.wait_for_nodes()
        print(cluster.kubectl("get", "nodes").stdout)

etcd, API server, controller manager and scheduler run on a machine of their
own, containerd, kubelet and kube-proxy on each node. No registry, no virtual
machine, nothing of the machine's own network."""

from lab.kube.cluster import Cluster
from lab.kube.node import KubeNode

__all__ = ["Cluster", "KubeNode"]
