"""Every kind of traffic of a cluster, as questions with the addresses that may be
seen to ask them. Used with each mode of kube-proxy."""

import dataclasses
import json
import pathlib

from lab import Capture, LabError, wait_until
from lab.kube import KubeNode, espalier
from lab.kube.captured import Captured
from lab.kube.cluster import API_PORT, Cluster
from lab.kube.dns import PORT as DNS_PORT, UNKNOWN, NameServer, resolve
from lab.kube.pods import ClusterPod, pod_object, run_pods
from lab.kube.reach import PORT, Answerer, Question, ask
from lab.kube.settings import API_SERVICE, CLUSTER_DNS, POD_CIDRS

MODES = ("plain", "shop")
HOST_PORTS = {"plain": 9001, "shop": 9002}
WEB_PORT = 8090
WEB = ["httpd", "-f", "-p", str(WEB_PORT), "-h", "/etc"]
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
    on the first node and b on the second, b behind a Service of every kind; and
    on the first node pods whose readiness the kubelet asks for, by HTTP and TCP."""

    def __init__(self, cluster: Cluster, image: pathlib.Path):
        self.cluster = cluster
        cluster.load_image(image)
        espalier.install(cluster)
        cluster.wait_for_nodes()
        self.first, self.second = cluster.nodes
        self.pods: dict[str, tuple[ClusterPod, ClusterPod]] = {}
        self.near: dict[str, ClusterPod] = {}  # on a's node
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
            objects += [pod_object(name, "a", self.first), b, *self._probed(name), {
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "b", "namespace": name},
                "spec": {"type": "NodePort", "selector": {"app": "b"},
                         "ipFamilyPolicy": "RequireDualStack",
                         "ports": [{"name": p.lower(), "port": PORT, "protocol": p}
                                   for p in ("TCP", "UDP")]}}]
        pods = self.add_pods(*objects)
        for name in MODES:
            mine = {p.name: p for p in pods if p.kube_namespace == name}
            self.pods[name] = mine["a"], mine["b"]
            self.near[name] = mine["by-http"]

    def _probed(self, name: str) -> list[dict]:
        """They are ready when the kubelet's probes arrive."""
        pods = []
        for kind, probe in (
                ("http", {"httpGet": {"path": "/hostname", "port": WEB_PORT}}),
                ("tcp", {"tcpSocket": {"port": WEB_PORT}})):
            pod = pod_object(name, f"by-{kind}", self.first, command=WEB)
            pod["spec"]["containers"][0]["readinessProbe"] = {**probe, "periodSeconds": 1}
            pods.append(pod)
        return pods

    def node_addresses(self, node: KubeNode) -> set[str]:
        """The uplink's and those of the tunnel's interface."""
        links = json.loads(node.run(["ip", "-j", "address"]).stdout)
        return {entry["local"] for link in links for entry in link["addr_info"]}

    def mtu(self, pod: ClusterPod) -> int:
        return json.loads(pod.namespace.run(["ip", "-j", "link", "show", "eth0"]).stdout)[0]["mtu"]

    def rows(self, mode: str) -> list[Row]:
        (a, b), near = self.pods[mode], self.near[mode]
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
                    ("pod to a pod of its node", from_a, get(near), PORT, {get(a)}),
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


def questions(pod) -> list[Question]:
    return [Question(kind, address, PORT) for address in (pod.ipv4, pod.ipv6)
            for kind in ("udp", "tcp")]


def url(address: str) -> str:
    return f"http://{f'[{address}]' if ':' in address else address}:{WEB_PORT}/hostname"


def errors_between_nodes(scene: Scene, name: str) -> str:
    """ICMP errors from node to node in plaintext: unreachable, too big."""
    nodes = " or ".join(address for node in scene.cluster.nodes for address in node.addresses)
    return scene.cluster.wire.namespace.run([
        "tcpdump", "-nr", scene.cluster.lab.folder / f"{name}.pcap",
        f"src host ({nodes}) and dst host ({nodes}) and "
        "(icmp[icmptype] == icmp-unreach or (icmp6 and ip6[40] < 128))"]).stdout


def check_rows(scene: Scene, *modes: str) -> None:
    """Every row arrives, the API server's answers too, and none is plaintext."""
    rows = [row for mode in modes for row in scene.rows(mode)]
    name = f"kinds-{'-'.join(modes)}"
    with Captured(scene.cluster, name, *scene.pods[modes[-1]]) as seen:
        found = wrong(rows)
        for mode in modes:
            scene.curl_api_server(mode)
    assert not found, "\n".join(f"{name}: {seen}" for name, seen in found.items())
    assert seen.packets.esp > len(rows)
    # Errors about pods' packets quote them.
    assert not errors_between_nodes(scene, name)


# Kinds of their own, each with its capture.


def modes_mixed(scene: Scene) -> None:
    a, b = scene.pods["plain"][0], scene.pods["shop"][1]
    with Captured(scene.cluster, "mixed", a, b) as seen:
        for one, other in ((a, b), (b, a)):
            assert ask(one.namespace.path, [
                Question(kind, address, size=size) for address in (other.ipv4, other.ipv6)
                for kind in ("udp", "tcp") for size in (64, LARGE)]
            ) == [one.ipv4] * 4 + [one.ipv6] * 4
    assert seen.packets.esp >= 16


def hostnetwork_pod(scene: Scene) -> None:
    """At its node's addresses, as an API server, and behind a Service."""
    host = pod_object("plain", "host", scene.second, host_network=True, command=WEB,
                      labels={"app": "host"})
    scene.cluster.apply(host, {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "host", "namespace": "plain"},
        "spec": {"selector": {"app": "host"}, "ipFamilyPolicy": "RequireDualStack",
                 "ports": [{"port": WEB_PORT}]}})
    scene.cluster.kubectl("wait", "-n", "plain", "--for=condition=Ready", "pod/host",
                          "--timeout=60s", timeout=70)
    service = scene.cluster.get("service", "-n", "plain", "host")["spec"]["clusterIPs"]
    assert len(service) == 2
    web = scene.near["shop"]
    with Captured(scene.cluster, "host", web, scene.pods["shop"][1]) as seen:
        for address in (*scene.second.addresses, *service):
            # kube-proxy learns of the Service's pod a moment later.
            assert web.exec("curl", "-sS", "--max-time", "5", "--globoff", "--retry", "5",
                            "--retry-all-errors", "--retry-delay", "1",
                            url(address)).stdout.strip() == "node-2"
        for address in (web.ipv4, web.ipv6):
            assert scene.cluster.kubectl(
                "exec", "-n", "plain", "host", "--", "curl", "-sS", "--max-time", "5",
                "--globoff", url(address)).stdout.strip() == web.name
    assert seen.packets.esp >= 24


def kubelet_probes(scene: Scene) -> None:
    """Pods by-http and by-tcp are ready since the scene stands; one that does not
    answer is not."""
    unheard = pod_object("shop", "unheard", scene.first)
    unheard["spec"]["containers"][0]["readinessProbe"] = {
        "tcpSocket": {"port": WEB_PORT}, "periodSeconds": 1}
    scene.cluster.apply(unheard)
    wait_until(lambda: scene.cluster.get(
        "events", "-n", "shop", "--field-selector",
        "involvedObject.name=unheard,reason=Unhealthy")["items"], 60, "a failed probe")
    ready = {pod["metadata"]["name"]: condition["status"]
             for pod in scene.cluster.get("pods", "-n", "shop")["items"]
             for condition in pod["status"]["conditions"] if condition["type"] == "Ready"}
    assert (ready["by-http"], ready["by-tcp"], ready["unheard"]) == ("True", "True", "False")
    scene.cluster.kubectl("delete", "pod", "-n", "shop", "unheard")


def dns(scene: Scene) -> None:
    """The cluster's DNS pod is on the second node, who asks on the first."""
    cluster = scene.cluster
    pod, = run_pods(cluster, pod_object("kube-system", "dns", scene.second,
                                        labels={"k8s-app": "kube-dns"}), {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"selector": {"k8s-app": "kube-dns"}, "clusterIP": CLUSTER_DNS[0],
                 "clusterIPs": list(CLUSTER_DNS), "ipFamilyPolicy": "RequireDualStack",
                 "ports": [{"name": p.lower(), "port": DNS_PORT, "protocol": p}
                           for p in ("UDP", "TCP")]}})
    name = "by-http.shop.svc.cluster.local"
    known = [scene.near["shop"].ipv4, scene.near["shop"].ipv6]
    server = NameServer(cluster.lab, pod.namespace.path, [pod.ipv4, pod.ipv6], {name: known})
    askers = [scene.pods[mode][0] for mode in MODES]

    def answered() -> bool:
        try:
            return all(resolve(askers[0].namespace.path, kind, address, name)
                       for kind in ("udp", "tcp") for address in CLUSTER_DNS)
        except LabError:
            return False
    wait_until(answered, 60, "kube-proxy knows the Service")

    def warns() -> bool:
        proof = json.loads(cluster.kubectl("espalier", "verify", "-o", "json",
                                           check=False, timeout=120).stdout)
        return any("DNS pods" in warning for warning in proof["warnings"])
    assert warns()
    with Captured(cluster, "dns", askers[0], pod) as seen:
        for asker in askers:
            for kind in ("udp", "tcp"):
                for address in CLUSTER_DNS:
                    assert sorted(resolve(asker.namespace.path, kind, address,
                                          name)) == sorted(known)
    assert {x for asker in askers for x in (asker.ipv4, asker.ipv6)} <= server.askers()
    assert seen.packets.esp >= 16
    cluster.kubectl("annotate", "namespace", "kube-system", "espalier.dev/encryption=required")
    assert not warns()
    with Captured(cluster, "dns-required", askers[1], pod) as seen:
        # As a program in the pod asks, by the resolv.conf that the kubelet wrote.
        for asker in askers:
            assert asker.exec("curl", "-sS", "--max-time", "10",
                              url(name)).stdout.strip() == "by-http"
        try:
            resolve(askers[1].namespace.path, "udp", CLUSTER_DNS[0], f"no.{name}")
            raise AssertionError("a name that nobody gave")
        except LabError as error:
            assert UNKNOWN in str(error)
    assert seen.packets.esp >= 8


def outside_directly(scene: Scene) -> None:
    """The one plaintext of pods on the wire, and only of pods that allow it."""
    outside, lab = scene.cluster.outside, scene.cluster.lab
    opened, closed = scene.add_pods(
        namespace("open", encryption="required", outside_in="allow"),
        namespace("closed", encryption="required", outside="deny"),
        pod_object("open", "b", scene.second), pod_object("closed", "b", scene.second))
    for node in scene.cluster.nodes:
        for cidr, address in zip(scene.cluster.pod_cidrs(node), node.addresses):
            outside.namespace.run(["ip", "route", "replace", cidr, "via", address])
    required = scene.pods["shop"][1]
    before = scene.answerers["shop-b"].asked
    assert ask(outside.namespace.path, questions(required)) == [None] * 4
    assert scene.answerers["shop-b"].asked == before
    capture = Capture(scene.cluster.wire, lab.folder / "outside.pcap", list(POD_CIDRS))
    expected = [outside.uplink.ipv4] * 2 + [outside.uplink.ipv6] * 2
    assert ask(outside.namespace.path, questions(opened)) == expected
    assert ask(outside.namespace.path, questions(scene.pods["plain"][1])) == expected
    assert capture.stop().plaintext >= 16
    # The other way, and it is seen as its node; unless outside is `deny`.
    there = [Question(kind, address) for address in outside.addresses
             for kind in ("udp", "tcp")]
    assert ask(required.namespace.path, there) == [
        address for address in scene.second.addresses for _ in range(2)]
    before = scene.answerers["outside"].asked
    assert ask(closed.namespace.path, there) == [None] * 4
    assert scene.answerers["outside"].asked == before


KINDS = (modes_mixed, hostnetwork_pod, kubelet_probes, dns, outside_directly)
