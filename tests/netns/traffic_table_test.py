"""Every kind of traffic of a `required` pod has one answer (DESIGN 5, "traffic,
when either end is `required`"): a test a row, in both families. Addresses that
kube-proxy and portmap would translate are translated by nftables."""

import pytest

from lab import Namespace
from lab.echo import Echo, ask
from lab.scene import Scene, Stage

OUTSIDE = 252
SERVICE = {4: "10.96.0.10", 6: "fd00:96::10"}
REQUIRED = {"modes": {"default": "required"}}


class Table(Scene):
    """node-a with two pods and node-b with one, all `required`; outside, on the
    same wire, somebody who belongs to no cluster."""

    def __init__(self, lab):
        super().__init__(lab, {"node-a": {}}, common=REQUIRED, control=False)
        self.outside = Namespace(lab, "outside")
        self.outside_uplink = self.wire.attach(self.outside, OUTSIDE)
        for family, address, cidr in self.families(
                self.victims[0].addresses, self.victims[0].pod_cidrs):
            self.outside.run(["ip", f"-{family}", "route", "add", cidr, "via", address])
        self.ports = iter(range(7000, 8000))

    def up(self):
        super().up()
        for name in list(self.traffic.rates):
            self.traffic.remove(name)
        self.a, self.b = self.victims[0], self.peer
        self.pod, self.there = self.a.pods["pod"], self.b.pods["pod"]
        self.neighbour = self.a.add_pod("neighbour")
        return self

    @staticmethod
    def families(*pairs):
        return [(family, *(pair[index] for pair in pairs))
                for index, family in enumerate((4, 6))]

    def esp_since(self, before):
        """What the wire saw since: nothing of a pod's, but ESP."""
        seen = self.witness.seen().since(before)
        assert seen.get("plaintext") == 0, seen.violations
        return seen.esp


@pytest.fixture(scope="module")
def stage():
    stage = Stage("traffic-table", Table)
    yield stage
    stage.close()


@pytest.fixture
def table(stage, request):
    yield stage.scene()
    stage.judge(request.node.lab_reports)


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request):
    return request.param


def address_of(pod, family):
    return pod.ipv4 if family == 4 else pod.ipv6


def node_address(node, family):
    return node.addresses[family == 6]


def translate(node, family, name, rules):
    """A table of somebody else, as kube-proxy's and portmap's are."""
    proto = "ip" if family == 4 else "ip6"
    node.namespace.run(["nft", "-f", "-"], input=f"""
        table {proto} {name} {{
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                {rules.get("dnat", "")}
            }}
            chain mark_masquerade {{
                type filter hook prerouting priority mangle;
                {rules.get("mark", "")}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                {rules.get("masquerade", "")}
            }}
        }}""")


def untranslate(node, family, name):
    node.namespace.run(["nft", "delete", "table", "ip" if family == 4 else "ip6", name])


def to(family, address, port):
    return f"{address}:{port}" if family == 4 else f"[{address}]:{port}"


def test_pod_to_a_pod_on_another_node_direct(table, family):
    port = next(table.ports)
    Echo(table.there.namespace, address_of(table.there, family), port)
    before = table.witness.seen()
    assert ask(table.pod.namespace, address_of(table.there, family), port) == address_of(
        table.pod, family)
    assert table.esp_since(before) >= 2


@pytest.mark.parametrize("port_asked", [80, 53], ids=["service", "dns"])
def test_pod_to_a_pod_on_another_node_through_a_service(table, family, port_asked):
    """The row of DNS too: it is as any pod's."""
    port = next(table.ports)
    Echo(table.there.namespace, address_of(table.there, family), port)
    proto = "ip" if family == 4 else "ip6"
    translate(table.a, family, "service", {
        "dnat": f"{proto} daddr {SERVICE[family]} udp dport {port_asked} dnat to "
                + to(family, address_of(table.there, family), port)})
    before = table.witness.seen()
    assert ask(table.pod.namespace, SERVICE[family], port_asked) == address_of(
        table.pod, family)
    assert table.esp_since(before) >= 2
    untranslate(table.a, family, "service")


def test_pod_to_another_nodes_address_and_back(table, family):
    """hostNetwork pods and the API server listen there."""
    port = next(table.ports)
    there = node_address(table.b, family)
    Echo(table.b.namespace, there, port)
    before = table.witness.seen()
    assert ask(table.pod.namespace, there, port) == address_of(table.pod, family)
    assert table.esp_since(before) >= 2


def test_another_nodes_address_to_a_pod_and_back(table, family):
    port = next(table.ports)
    Echo(table.pod.namespace, address_of(table.pod, family), port)
    before = table.witness.seen()
    assert ask(table.b.namespace, address_of(table.pod, family), port)
    # Whatever address that process binds.
    assert ask(table.b.namespace, address_of(table.pod, family), port,
               source=node_address(table.b, family)) == node_address(table.b, family)
    assert table.esp_since(before) >= 4


def test_nodeport_at_one_node_pod_on_another(table, family):
    """Masqueraded as kube-proxy does; the wire between the nodes sees ESP. The
    way from outside to node-a is not ours, and carries no pod's address."""
    port, proto = next(table.ports), "ip" if family == 4 else "ip6"
    Echo(table.there.namespace, address_of(table.there, family), port)
    translate(table.a, family, "nodeport", {
        "mark": "udp dport 30080 meta mark set meta mark or 0x4000",
        "dnat": f"{proto} daddr {node_address(table.a, family)} udp dport 30080 dnat to "
                + to(family, address_of(table.there, family), port),
        "masquerade": "meta mark and 0x4000 == 0x4000 masquerade"})
    before = table.witness.seen()
    seen_as = ask(table.outside, node_address(table.a, family), 30080)
    assert seen_as not in (None, table.outside_uplink.ipv4, table.outside_uplink.ipv6)
    assert table.esp_since(before) >= 2
    untranslate(table.a, family, "nodeport")


def test_hostport_on_the_same_node_keeps_the_clients_address(table, family):
    """And externalTrafficPolicy Local; no tunnel is involved."""
    port, proto = next(table.ports), "ip" if family == 4 else "ip6"
    Echo(table.pod.namespace, address_of(table.pod, family), port)
    translate(table.a, family, "hostport", {
        "dnat": f"{proto} daddr {node_address(table.a, family)} udp dport 8080 dnat to "
                + to(family, address_of(table.pod, family), port)})
    client = (table.outside_uplink.ipv4 if family == 4 else table.outside_uplink.ipv6)
    before = table.witness.seen()
    assert ask(table.outside, node_address(table.a, family), 8080) == client
    assert table.esp_since(before) == 0
    untranslate(table.a, family, "hostport")


def test_pods_on_one_node_never_leave_it(table, family):
    port = next(table.ports)
    Echo(table.neighbour.namespace, address_of(table.neighbour, family), port)
    before = table.witness.seen()
    assert ask(table.pod.namespace, address_of(table.neighbour, family),
               port) == address_of(table.pod, family)
    assert table.esp_since(before) == 0


def test_kubelets_probes_of_its_own_pods_never_leave(table, family):
    port = next(table.ports)
    Echo(table.pod.namespace, address_of(table.pod, family), port)
    before = table.witness.seen()
    assert ask(table.a.namespace, address_of(table.pod, family), port)
    assert table.esp_since(before) == 0


def test_pod_to_outside_is_masqueraded(table, family):
    port = next(table.ports)
    outside = table.outside_uplink.ipv4 if family == 4 else table.outside_uplink.ipv6
    Echo(table.outside, outside, port)
    before = table.witness.seen()
    assert ask(table.pod.namespace, outside, port) == node_address(table.a, family)
    assert table.esp_since(before) == 0


def test_fragments_follow_the_addresses(table, family):
    port = next(table.ports)
    Echo(table.there.namespace, address_of(table.there, family), port)
    before = table.witness.seen()
    assert ask(table.pod.namespace, address_of(table.there, family), port,
               size=6000) == address_of(table.pod, family)
    # Five fragments and the answer.
    assert table.esp_since(before) >= 6


REFUSED = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(3)
s.connect((sys.argv[1], 9))
s.send(b"nobody listens")
try:
    s.recv(1)
except ConnectionRefusedError:
    print("refused")
"""


def test_icmp_errors_follow_the_addresses(table, family):
    """The far pod's "port unreachable" comes back through ESP."""
    before = table.witness.seen()
    result = table.pod.run(["/usr/bin/python3", "-c", REFUSED,
                            address_of(table.there, family)])
    assert "refused" in result.stdout
    assert table.esp_since(before) >= 2


def test_packet_too_big_follows_the_addresses(table, family):
    """Beyond the far node something is narrower than the pods know: that node
    says so, through ESP."""
    host_end = next(interface["name"] for interface in table.there.result["interfaces"]
                    if not interface.get("sandbox"))
    link = ["ip", "link", "set", host_end, "mtu"]
    shown = table.b.namespace.run(["ip", "-o", "link", "show", host_end]).stdout
    old = shown.split(" mtu ")[1].split()[0]
    table.b.namespace.run([*link, 1300])
    before = table.witness.seen()
    result = table.pod.run(["ping", "-n", "-c2", "-W2", "-M", "do", "-s", 1310,
                            address_of(table.there, family)], check=False)
    table.b.namespace.run([*link, old])
    assert "1300" in result.stdout + result.stderr
    assert table.esp_since(before) >= 2
    for pod in (table.pod, table.there):
        for flag in ("-4", "-6"):
            pod.run(["ip", flag, "route", "flush", "cache"], check=False)
