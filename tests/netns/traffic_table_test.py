"""Every kind of traffic of a `required` pod has one answer (DESIGN 5, "traffic,
when either end is `required`"): a test a row, in both families. Addresses that
kube-proxy and portmap would translate are translated by nftables."""

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (ICMPv6ND_NA, ICMPv6ND_RA, ICMPv6NDOptDstLLAddr, IPv6,
                                IPv6ExtHdrFragment)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from lab import Namespace, wait_until
from lab.capture import put_on_wire, send_plaintext
from lab.echo import Echo, ask
from lab.scene import Scene, Stage

OUTSIDE = 252
SERVICE = {4: "10.96.0.10", 6: "fd00:96::10"}
REQUIRED = {"modes": {"default": "required", "namespaces": {
    "door": {"encryption": "required", "outsideIn": "allow"},
    "hermit": {"encryption": "required", "outside": "deny"}}}}


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
        self.door = self.a.add_pod("door", namespace="door")
        self.hermit = self.a.add_pod("hermit", namespace="hermit")
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

    def without_esp(self, action):
        """What `action` returns when it puts no ESP on the wire: the tunnel's own
        probes may come meanwhile, but not each time."""
        for _ in range(6):
            before = self.witness.seen()
            result = action()
            if self.esp_since(before) == 0:
                return result
        raise AssertionError("ESP on the wire, each time")


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
    assert table.without_esp(
        lambda: ask(table.outside, node_address(table.a, family), 8080)) == client
    untranslate(table.a, family, "hostport")


def test_pods_on_one_node_never_leave_it(table, family):
    port = next(table.ports)
    Echo(table.neighbour.namespace, address_of(table.neighbour, family), port)
    assert table.without_esp(
        lambda: ask(table.pod.namespace, address_of(table.neighbour, family),
                    port)) == address_of(table.pod, family)


def test_kubelets_probes_of_its_own_pods_never_leave(table, family):
    port = next(table.ports)
    Echo(table.pod.namespace, address_of(table.pod, family), port)
    assert table.without_esp(
        lambda: ask(table.a.namespace, address_of(table.pod, family), port))


def test_pod_to_outside_is_masqueraded(table, family):
    port = next(table.ports)
    outside = table.outside_uplink.ipv4 if family == 4 else table.outside_uplink.ipv6
    Echo(table.outside, outside, port)
    assert table.without_esp(
        lambda: ask(table.pod.namespace, outside, port)) == node_address(table.a, family)


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


def outside_address(table, family):
    return table.outside_uplink.ipv4 if family == 4 else table.outside_uplink.ipv6


def test_outside_directly_to_a_pods_address_is_dropped(table, family):
    port = next(table.ports)
    address = address_of(table.pod, family)
    echo = Echo(table.pod.namespace, address, port)
    assert ask(table.outside, address, port, wait=1) is None
    assert echo.asked == 0
    # The control: a pod that allows it is reached, and its answer leaves.
    door = address_of(table.door, family)
    Echo(table.door.namespace, door, port)
    assert ask(table.outside, door, port) == outside_address(table, family)


def test_pod_to_outside_is_denied_where_the_pod_says_so(table, family):
    port = next(table.ports)
    echo = Echo(table.outside, outside_address(table, family), port)
    assert ask(table.hermit.namespace, outside_address(table, family), port, wait=1) is None
    assert echo.asked == 0
    assert ask(table.pod.namespace, outside_address(table, family), port) is not None
    # Inside, it speaks as any other.
    Echo(table.there.namespace, address_of(table.there, family), port)
    assert ask(table.hermit.namespace, address_of(table.there, family), port) is not None


def link_addresses(pod):
    """Of the pod's own end, and of the host's end that it sends to."""
    own = pod.run(["ip", "-o", "link", "show", "eth0"]).stdout.split("link/ether ")[1].split()[0]
    gateway = pod.run(["ip", "neigh", "show", "dev", "eth0"]).stdout.split("lladdr ")[1].split()[0]
    return own, gateway


def test_a_source_that_is_not_the_pods_is_dropped(table, family):
    port = next(table.ports)
    target = address_of(table.neighbour, family)
    echo = Echo(table.neighbour.namespace, target, port)
    strangers = [address_of(table.there, family), address_of(table.door, family),
                 node_address(table.b, family),
                 "203.0.113.9" if family == 4 else "2001:db8:9::9"]
    sources = [*strangers, address_of(table.pod, family)]
    send_plaintext(table.pod.namespace, "eth0", *link_addresses(table.pod),
                   [(source, target, port) for source in sources])
    # Its own, which was sent last, is the control.
    wait_until(lambda: echo.asked, 5, "the packet with the pod's own source")
    assert echo.asked == 1


def fragments(source, target, port, mac, to_mac):
    """One UDP datagram as two frames: the second has no port."""
    ether = Ether(src=mac, dst=to_mac)
    whole = UDP(sport=9, dport=port) / (b"espalier negative control" + b"." * 39)
    if ":" in source:
        header = IPv6(src=source, dst=target)
        data = bytes(header / whole)[40:]
        parts = [header / IPv6ExtHdrFragment(nh=17, id=7, m=1) / data[:40],
                 header / IPv6ExtHdrFragment(nh=17, id=7, offset=5) / data[40:]]
    else:
        data = bytes(IP(src=source, dst=target) / whole)[20:]
        parts = [IP(src=source, dst=target, id=7, proto=17, flags="MF") / Raw(data[:40]),
                 IP(src=source, dst=target, id=7, proto=17, frag=5) / Raw(data[40:])]
    return [bytes(ether / part) for part in parts]


def test_fragments_forged_on_the_wire_are_dropped(table, family):
    """Later fragments have no ports: the addresses decide."""
    port = next(table.ports)
    target = address_of(table.neighbour, family)
    echo = Echo(table.neighbour.namespace, target, port)
    put_on_wire(table.outside, table.outside_uplink.device, fragments(
        address_of(table.there, family), target, port, table.outside_uplink.mac,
        table.a.uplink.mac))
    # The control: the same two fragments, out of a pod of the same node.
    put_on_wire(table.pod.namespace, "eth0", fragments(
        address_of(table.pod, family), target, port, *link_addresses(table.pod)))
    wait_until(lambda: echo.asked, 5, "the honest fragments")
    assert echo.asked == 1


def forged_frames(table):
    """Verdict of the guard, and a frame of a pod that plays another's part."""
    own, gateway = link_addresses(table.pod)
    link_local = next(
        word for line in table.pod.run(["ip", "-6", "-o", "address", "show", "dev", "eth0",
                                        "scope", "link"]).stdout.splitlines()
        for word in line.split() if word.startswith("fe80")).partition("/")[0]
    frame, other = Ether(src=own, dst=gateway), table.neighbour
    return {
        "router_advertisement": frame / IPv6(src=link_local, dst="ff02::1", hlim=255)
                                / ICMPv6ND_RA(),
        "dhcp_server": frame / IP(src=table.pod.ipv4, dst="255.255.255.255")
                       / UDP(sport=67, dport=68) / b"offer",
        "forged_arp": Ether(src=own, dst="ff:ff:ff:ff:ff:ff")
                      / ARP(op=2, hwsrc=own, psrc=other.ipv4, pdst=other.ipv4),
        "forged_nd": frame / IPv6(src=table.pod.ipv6, dst="ff02::1", hlim=255)
                     / ICMPv6ND_NA(tgt=other.ipv6, S=0) / ICMPv6NDOptDstLLAddr(lladdr=own),
        "wrong_source": frame / IP(src=other.ipv4, dst=table.there.ipv4)
                        / UDP(dport=9) / b"espalier negative control",
        "wrong_mac": Ether(src="02:00:00:00:77:77", dst=gateway)
                     / IP(src=table.pod.ipv4, dst=table.there.ipv4)
                     / UDP(dport=9) / b"espalier negative control",
    }


def test_what_plays_another_hosts_part_is_dropped_and_counted(table):
    """Router advertisements, DHCP servers, forged ND and ARP, addresses that are
    not the pod's: each is a drop with a reason of its own."""
    def counted(verdict):
        return table.a.metrics().get(
            'espalier_guard_packets_total{guard="bpf",pod="default/pod",mode="required",'
            f'verdict="{verdict}",result="drop"}}', 0)
    for verdict, frame in forged_frames(table).items():
        before = counted(verdict)
        put_on_wire(table.pod.namespace, "eth0", [bytes(frame)])
        wait_until(lambda: counted(verdict) == before + 1, 5, f"{verdict} is counted once")
    # What it may say is not among them.
    before = {verdict: counted(verdict) for verdict in forged_frames(table)}
    assert table.pod.ping(table.there.ipv4) == table.pod.ping(table.there.ipv6) == 1
    assert before == {verdict: counted(verdict) for verdict in before}
