"""The wire of a cluster saw ESP and no plaintext of pods."""

from lab.capture import Capture, send_plaintext
from lab.kube.cluster import Cluster
from lab.kube.pods import ClusterPod
from lab.kube.settings import POD_CIDRS


class Captured:
    """with Captured(...) as seen: ... The wire saw no plaintext of pods, which
    the one plaintext packet a family, put there on purpose, shows it would have
    seen. a and b are pods on different nodes."""

    def __init__(self, cluster: Cluster, name: str, a: ClusterPod, b: ClusterPod):
        self.pods = (a, b)
        self.capture = Capture(cluster.wire, cluster.lab.folder / f"{name}.pcap",
                               list(POD_CIDRS))
        self.packets = None

    def __enter__(self) -> "Captured":
        return self

    def __exit__(self, kind, value, traceback) -> None:
        a, b = self.pods
        sent = send_plaintext(a.node.namespace, "eth0", a.node.uplink.mac, b.node.uplink.mac,
                              [(a.ipv4, b.ipv4), (a.ipv6, b.ipv6)])
        self.packets = self.capture.stop()
        if kind is None:
            assert self.packets.controls == sent == 2
            plain = [p for p in self.packets.packets if p.kind == "plaintext"]
            assert not plain, plain[:20]
