"""Every kind of traffic of a cluster, as questions with the addresses that may be
seen to ask them. Used with each mode of kube-proxy."""

import dataclasses
import json
import pathlib

from lab import wait_until
from lab.kube import KubeNode, espalier
from lab.kube.cluster import API_PORT, Cluster
from lab.kube.pods import ClusterPod, pod_object, run_pods
from lab.kube.reach import PORT, Answerer, Question, ask
from lab.kube.settings import API_SERVICE

HOST_PORTS = {"plain": 9001, "shop": 9002}
# With room for the headers of either family.
LARGE = 8000
STREAM = 300_000


@dataclasses.dataclass
class Row:
    name: str
    source: pathlib.Path
    question: Question
    seen_as: set


class Scene:
    """Namespaces plain (the default mode) and shop (required), in each a pod a
    on the first node and b on the second, b behind a Service of every kind."""

    def __init__(self, cluster: Cluster, image: pathlib.Path):
        self.cluster = cluster
        cluster.load_image(image)
        espalier.install(cluster)
        cluster.wait_for_nodes()
        self.first, self.second = cluster.nodes
        self.pods: dict[str, tuple[ClusterPod, ClusterPod]] = {}
        self.answerers: dict[str, Answerer] = {}
        self._run_pods()
        for machine in (*cluster.nodes, cluster.outside):
            self._answer(machine.namespace.suffix, machine.namespace.path,
                         machine.addresses)
        for a, b in self.pods.values():
            wait_until(lambda: None not in ask(a.namespace.path, [
                Question("udp", b.ipv4), Question("udp", b.ipv6)]), 60, "tunnels are up")

    def _answer(self, name: str, path: pathlib.Path, addresses: list[str]) -> None:
        self.answerers[name] = Answerer(self.cluster.lab, name, path, addresses)

    def add_pods(self, *objects: dict) -> list[ClusterPod]:
        pods = run_pods(self.cluster, *objects)
        for pod in pods:
            self._answer(f"{pod.kube_namespace}-{pod.name}", pod.namespace.path,
                         [pod.ipv4, pod.ipv6])
        return pods

    def _run_pods(self) -> None:
        objects = [namespace("plain"), namespace("shop", encryption="required")]
        for name, host_port in HOST_PORTS.items():
            b = pod_object(name, "b", self.second, labels={"app": "b"})
            b["spec"]["containers"][0]["ports"] = [
                {"containerPort": PORT, "hostPort": host_port, "protocol": protocol}
                for protocol in ("TCP", "UDP")]
            objects += [pod_object(name, "a", self.first), b, {
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "b", "namespace": name},
                "spec": {"type": "NodePort", "selector": {"app": "b"},
                         "ipFamilyPolicy": "RequireDualStack",
                         "ports": [{"name": p.lower(), "port": PORT, "protocol": p}
                                   for p in ("TCP", "UDP")]}}]
        pods = self.add_pods(*objects)
        for name in HOST_PORTS:
            self.pods[name] = tuple(p for p in pods if p.kube_namespace == name)

    def node_addresses(self, node: KubeNode) -> set[str]:
        """The uplink's and those of the tunnel's interface."""
        links = json.loads(node.run(["ip", "-j", "address"]).stdout)
        return {entry["local"] for link in links for entry in link["addr_info"]}

    def mtu(self, pod: ClusterPod) -> int:
        return json.loads(pod.namespace.run(["ip", "-j", "link", "show", "eth0"]).stdout)[0]["mtu"]

    def rows(self, mode: str) -> list[Row]:
        a, b = self.pods[mode]
        service = self.cluster.get("service", "-n", mode, "b")["spec"]
        node_ports = {p["name"]: p["nodePort"] for p in service["ports"]}
        outside = self.cluster.outside
        of_first, of_second = map(self.node_addresses, self.cluster.nodes)
        rows = []
        for family in (4, 6):
            def get(thing):
                return getattr(thing, f"ipv{family}")
            cluster_ip = next(x for x in service["clusterIPs"] if (":" in x) == (family == 6))
            n1, n2 = get(self.first.uplink), get(self.second.uplink)
            here, there = self.first.namespace.path, self.second.namespace.path
            from_a, from_outside = a.namespace.path, outside.namespace.path
            for kind in ("udp", "tcp"):
                node_port = node_ports[kind]
                # Where kube-proxy may keep the asker's address or put the node's.
                table = [
                    ("pod to pod", from_a, get(b), PORT, {get(a)}),
                    ("pod to Service", from_a, cluster_ip, PORT, {get(a)}),
                    ("node to Service", here, cluster_ip, PORT, of_first),
                    ("NodePort from outside, pod on the other node", from_outside, n1,
                     node_port, of_first),
                    ("NodePort from outside, pod on this node", from_outside, n2,
                     node_port, of_second),
                    ("NodePort of this node", here, n1, node_port, of_first),
                    ("pod to NodePort of the other node", from_a, n2, node_port,
                     of_second | {get(a)}),
                    ("hostPort from outside", from_outside, n2, HOST_PORTS[mode],
                     {get(outside.uplink)}),
                    ("hostPort from a pod of another node", from_a, n2, HOST_PORTS[mode],
                     {get(a)}),
                    ("pod to hostNetwork", from_a, n2, PORT, {get(a)}),
                    ("hostNetwork to pod", there, get(a), PORT, of_second),
                    ("node to pod", here, get(b), PORT, of_first),
                    ("node to its own pod", here, get(a), PORT, of_first),
                    ("pod to its own node", from_a, n1, PORT, {get(a)}),
                    ("pod to outside", from_a, get(outside.uplink), PORT, {n1}),
                ]
                if mode == "shop":  # a node's way to another node is plaintext
                    table.append(("NodePort of the other node", there, n1, node_port,
                                  {None}))
                rows += [Row(f"{name} ({kind}, IPv{family})", source,
                             Question(kind, address, port), set(seen))
                         for name, source, address, port, seen in table]
            rows += self._large(family, from_a, {
                "pod": (get(b), PORT, {get(a)}), "Service": (cluster_ip, PORT, {get(a)}),
                "hostNetwork": (n2, PORT, {get(a)}),
                "outside": (get(outside.uplink), PORT, {n1})}, self.mtu(a))
            rows += self._large(family, from_outside, {
                "NodePort": (n1, node_ports, of_first)}, self.cluster.wire.mtu)
        return rows

    def _large(self, family: int, source: pathlib.Path, targets: dict, mtu: int) -> list[Row]:
        whole = mtu - (28 if family == 4 else 48)
        rows = []
        for name, (address, port, seen) in targets.items():
            for kind, size in (("udp", whole), ("udp", whole + 1), ("udp", LARGE),
                               ("tcp", STREAM)):
                number = port[kind] if isinstance(port, dict) else port
                rows.append(Row(f"{size} octets to {name} ({kind}, IPv{family})", source,
                                Question(kind, address, number, size), set(seen)))
        return rows

    def curl_api_server(self, mode: str) -> None:
        """Through its Service, which has one family, and at its address."""
        a, _ = self.pods[mode]
        for host in (API_SERVICE, f"{self.cluster.control.uplink.ipv4}:{API_PORT}",
                     f"[{self.cluster.control.uplink.ipv6}]:{API_PORT}"):
            text = a.exec("curl", "-sSk", "--max-time", "5", f"https://{host}/version").stdout
            assert "gitVersion" in text, (host, text)


def namespace(name: str, **annotations: str) -> dict:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": name, "annotations": {f"espalier.dev/{key.replace('_', '-')}": value
                                      for key, value in annotations.items()}}}


def wrong(rows: list[Row]) -> dict[str, str | None]:
    """Row's name to what was seen, of the rows where that is not as it must be."""
    found = {}
    for source in {row.source for row in rows}:
        mine = [row for row in rows if row.source == source]
        for row, seen in zip(mine, ask(source, [row.question for row in mine])):
            if seen not in row.seen_as:
                found[row.name] = seen
    return found
