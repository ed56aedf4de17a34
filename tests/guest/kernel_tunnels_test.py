"""The kernel's other tunnels, on a real kernel with ESP: found by policies on the
uplink, one SA a CPU, AH, transport mode."""

import platform

from lab import wait_until
from lab.mesh import Mesh, outbound_spis
from lab.stream import PingStream
from lab.transfer import tcp_transfer

# Octets of a ping's payload that nothing else on the wire has.
ODD_SIZE = 777


def xfrm(node, *words: str) -> str:
    return node.namespace.run(["ip", "xfrm", *words]).stdout


def has_sas_per_cpu() -> bool:
    """Linux 6.13, and what Debian calls 6.12."""
    major, minor = platform.release().split(".")[:2]
    return (int(major), int(minor)) >= (6, 12)


def test_policies_on_the_uplink(lab):
    mesh = Mesh(lab, driver="kernel", kernel={"routing": "policy-based"}).up()
    a, b = mesh.nodes
    assert "espalier0" not in a.namespace.run(["ip", "link"]).stdout
    assert all(address in a.namespace.run(["ip", "address"]).stdout for address in a.addresses)
    mesh.assert_reachable()
    for source, target in ((mesh.pods[0], b), (mesh.pods[1], a)):
        assert [source.ping(address) for address in target.addresses] == [1, 1]
    # A restart loses nothing, and finds everything as it should be.
    stream = PingStream(a.pods["pod1"].namespace, b.pods["pod1"].ipv4)
    with stream:
        stream.wait_for_more()
        before = outbound_spis(a, b)
        a.agent.kill()
        stream.wait_for_more()
        a.start_agent()
        wait_until(lambda: outbound_spis(a, b) and not outbound_spis(a, b) & before, 40,
                   "the earlier agent's SAs are gone")
        stream.wait_for_more()
    assert stream.lost == set()
    # What hands remove is made good, and meanwhile nothing leaves (finish).
    used = outbound_spis(a, b)
    with PingStream(a.pods["pod1"].namespace, b.pods["pod1"].ipv6):
        xfrm(a, "state", "flush")
        mesh.wait_until_reachable()
        assert not outbound_spis(a, b) & used
        xfrm(a, "policy", "flush")
        mesh.wait_until_reachable()
    mesh.finish()


def of_cpus(node, peer) -> dict[int, int]:
    """Packets that went out by the SA of each CPU."""
    return {sa["cpu"]: int(sa.get("counters", {}).get("packets", 0))
            for sa in node.show(peer.name).get("esp_sas", [])
            if sa["direction"] == "out" and "cpu" in sa}


def test_each_cpu_sends_by_its_own_sa(lab):
    """RFC 9611, beside the fallback SA; without it on kernels that have not."""
    mesh = Mesh(lab, driver="kernel", kernel={"perCpuSas": 2}).up()
    a, b = mesh.nodes
    if not has_sas_per_cpu():
        mesh.assert_reachable()
        assert "this kernel has no SAs per CPU" in a.agent.log()
        assert len(outbound_spis(a, b)) == 1 and of_cpus(a, b) == {}
        mesh.finish()
        return
    wait_until(lambda: sorted(of_cpus(a, b).keys() | of_cpus(b, a).keys()) == [0, 1], 20,
               "an SA of each CPU")

    def ping(source, target, cpu):
        result = source.run(["taskset", "-c", str(cpu), "ping", "-q", "-i", "0.01",
                             "-c", "60", target.ipv4])
        assert " 0% packet loss" in result.stdout

    def both_have_all():
        # The end that answered sends by a CPU's SA once the other end did.
        for cpu in (0, 1):
            ping(mesh.pods[0], mesh.pods[1], cpu)
            ping(mesh.pods[1], mesh.pods[0], cpu)
        return sorted(of_cpus(a, b)) == sorted(of_cpus(b, a)) == [0, 1]
    wait_until(both_have_all, 30, "SAs of each CPU at both ends")
    assert len(outbound_spis(a, b)) == len(outbound_spis(b, a)) == 3
    mesh.assert_reachable()
    for cpu in (0, 1):
        before = of_cpus(a, b)
        ping(mesh.pods[0], mesh.pods[1], cpu)
        grown = {number: packets - before[number] for number, packets in of_cpus(a, b).items()}
        # Probes and what interrupts move to the other one.
        assert grown[cpu] >= 55 and grown[1 - cpu] <= 10, grown
    mesh.finish()


def test_ah_carries_what_the_node_sends_and_nothing_of_pods(lab):
    mesh = Mesh(lab, driver="kernel",
                peer_fields={"proposals": {"child": ["ah-sha256-x25519"]}}).up()
    a, b = mesh.nodes
    assert "proto ah" in xfrm(a, "state") and "proto esp" not in xfrm(a, "state")
    for address in (f"10.244.{b.number}.1", f"fd00:244:{b.number:x}::1"):
        assert a.namespace.ping(address, size=ODD_SIZE) == 1
    # AH can be read by everybody: no pod's packet goes that way.
    source, target = mesh.pods
    assert source.ping(target.ipv4, wait=1) == source.ping(target.ipv6, wait=1) == 0
    assert [source.ping(address, wait=1) for address in b.addresses] == [0, 0]
    mesh.send_control()
    packets = mesh.capture.stop()
    assert packets.controls > 0 and packets.plaintext == packets.esp == 0
    # A request and an answer in each family, and the probes.
    ah = [p for p in packets.packets if p.kind == "ah"]
    assert sum(p.length > ODD_SIZE for p in ah) == 4
    assert {p.source for p in ah} <= {*a.addresses, *b.addresses}


def test_transport_mode_between_nodes(lab):
    mesh = Mesh(lab, driver="kernel", peer_fields={"mode": "transport", "podCIDRs": None})
    mesh.up()
    a, b = mesh.nodes
    assert "mode transport" in xfrm(a, "state") and "mode tunnel" not in xfrm(a, "state")
    assert a.namespace.ping(b.uplink.ipv4, size=ODD_SIZE) == 1
    assert b.namespace.ping(a.uplink.ipv4, size=ODD_SIZE) == 1
    tcp_transfer(a.namespace, b.namespace, b.uplink.ipv4, megabytes=1)
    # The control: the other family's addresses are not what it is for.
    assert a.namespace.ping(b.uplink.ipv6, size=ODD_SIZE) == 1
    # Without SAs nothing passes, until they are made anew.
    xfrm(a, "state", "flush")
    wait_until(lambda: a.namespace.ping(b.uplink.ipv4, size=ODD_SIZE, wait=1) == 1, 30,
               "new SAs")
    packets = mesh.capture.stop()
    others = [p for p in packets.packets if p.kind == "other" and p.length > 600]
    assert [p.source.count(":") > 0 for p in others] == [True, True]
    assert packets.count("esp") > 700 and packets.count("ah") == 0
