"""The lab's own tests: what its other users rely on can fail when it should."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from lab import (CLUSTER_CIDRS, Capture, Lab, LabError, Namespace, Process, Wire,
                 send_plaintext)
from lab.session import cache_folder, start_time
from lab.traffic import Traffic
from lab.witness import Witness


@pytest.fixture
def wire_and_nodes(lab):
    wire = Wire(lab)
    nodes = []
    for number, name in ((1, "a"), (2, "b")):
        node = Namespace(lab, name)
        wire.attach(node, number)
        # A pod's address without a tunnel: its packets are plaintext.
        node.run(["ip", "address", "add", f"10.244.{number}.9/32", "dev", "lo"])
        node.run(["ip", "route", "add", "10.244.0.0/16", "via", f"192.0.2.{3 - number}"])
        nodes.append(node)
    return wire, nodes


def test_nodes_reach_each_other_in_both_families(wire_and_nodes):
    _, (a, _) = wire_and_nodes
    assert a.ping("192.0.2.2") == 1
    assert a.ping("2001:db8::2") == 1
    assert a.ping("192.0.2.77", wait=1) == 0


def test_capture_sees_plaintext_between_pods(lab, wire_and_nodes):
    wire, (a, _) = wire_and_nodes
    capture = Capture(wire, lab.folder / "wire.pcap", CLUSTER_CIDRS)
    assert a.run(["ping", "-c3", "-i0.2", "-I", "10.244.1.9", "10.244.2.9"])
    packets = capture.stop()
    assert packets.plaintext == 6  # three requests, three answers
    assert packets.esp == 0
    assert packets.controls == 0


def test_capture_sees_the_negative_control(lab, wire_and_nodes):
    wire, (a, _) = wire_and_nodes
    capture = Capture(wire, lab.folder / "wire.pcap", CLUSTER_CIDRS)
    sent = send_plaintext(a, "eth0", "02:00:00:00:00:01", "02:00:00:00:00:02",
                          [("10.244.1.1", "10.244.2.1"), ("fd00:244:1::1", "fd00:244:2::1")])
    packets = capture.stop()
    assert (packets.controls, packets.plaintext) == (sent, 0)


SENDER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
s.sendto(bytes.fromhex("deadbeef") + bytes(40), ("192.0.2.2", 0))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.sendto(bytes.fromhex("cafebabe") + bytes(40), ("192.0.2.2", 4500))
u.sendto(bytes(4) + bytes(40), ("192.0.2.2", 4500))
u.sendto(bytes(40), ("192.0.2.2", 500))
u.sendto(b"\\xff", ("192.0.2.2", 4500))
v = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 50)
v.sendto(bytes.fromhex("0badcafe") + bytes(40), ("2001:db8::2", 0))
"""


def test_capture_tells_esp_from_ike(lab, wire_and_nodes):
    wire, (a, _) = wire_and_nodes
    capture = Capture(wire, lab.folder / "wire.pcap", CLUSTER_CIDRS)
    a.run(["/usr/bin/python3", "-c", SENDER])
    packets = capture.stop()
    assert {key[2] for key in packets.spis()} == {0xDEADBEEF, 0xCAFEBABE, 0x0BADCAFE}
    assert (packets.count("esp"), packets.count("esp-udp")) == (2, 1)
    assert (packets.count("ike"), packets.count("keepalive")) == (2, 1)


def test_process_that_ends_is_told_with_its_log(lab):
    process = Process(lab, "talker", ["sh", "-c", "echo last words; exit 3"])
    process.wait(10)
    with pytest.raises(LabError, match="ended with 3(?s:.*)last words"):
        process.wait_for(lambda: False, 10, "the impossible")


RUN = textwrap.dedent("""
    import time
    from lab import Lab, Namespace, Process
    with Lab("victim") as lab:
        node = Namespace(lab, "n")
        sleeper = node.start("sleeper", ["sleep", "600"])
        print(lab.id, sleeper.pid, flush=True)
        time.sleep(600)
""")


def start_victim():
    run = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True)
    lab_id, pid = run.stdout.readline().split()
    return run, f"el-{lab_id}-n", int(pid)


def namespaces() -> str:
    return " ".join(os.listdir("/run/netns"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing(number):
    run, namespace, pid = start_victim()
    assert namespace in namespaces()
    run.send_signal(number)
    run.wait(20)
    assert namespace not in namespaces()
    assert start_time(pid) is None


def test_a_killed_run_is_swept_by_the_next():
    run, namespace, pid = start_victim()
    run.kill()
    run.wait(20)
    assert namespace in namespaces()
    with Lab("next"):
        assert namespace not in namespaces()
        assert start_time(pid) is None
        assert not list(cache_folder().glob(f"{namespace.split('-')[1]}*"))


@pytest.fixture
def flow(lab, wire_and_nodes):
    """Packets between the two, in plaintext, with the witness beside them."""
    wire, (a, b) = wire_and_nodes
    traffic, witness = Traffic(lab), Witness(lab, wire, CLUSTER_CIDRS)
    traffic.flow("flow", a, "10.244.1.9", b, "10.244.2.9", rate=1000)
    traffic.wait_for_flow(packets=100)
    return traffic, witness, wire, a


def test_the_witness_judges_each_frame(flow):
    traffic, witness, wire, a = flow
    count = traffic.pause()["flow"]
    seen = witness.seen()
    assert (count.missing, count.doubled, count.foreign) == (0, 0, 0)
    # Those before it was bound are not its: it is, before the first is sent.
    assert seen.get("plaintext", 4) == count.received >= 100
    assert len(seen.violations) > 0
    witness.allow_plaintext("10.244.1.9", "10.244.2.9")
    traffic.resume()
    traffic.wait_for_flow()
    later = witness.seen().since(seen)
    assert later.get("disabled", 4) >= 50 and later.get("plaintext") == 0
    # A pod's packet whose addresses were translated on the way is one still.
    a.run(["nft", "-f", "-"], input="""
        table ip nat {
            chain out {
                type nat hook postrouting priority srcnat;
                udp dport 9 counter masquerade
            }
        }""")
    a.run(["/usr/bin/python3", "-c", """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.244.1.9", 0))
s.sendto(b"espalier traffic, masqueraded", ("192.0.2.2", 9))
"""])
    # And so is the ICMP error that quotes it.
    assert witness.seen().since(seen).get("plaintext", 4) == 2


def test_the_witness_tells_esp_from_ike(lab, wire_and_nodes):
    wire, (a, _) = wire_and_nodes
    witness = Witness(lab, wire, CLUSTER_CIDRS)
    a.run(["/usr/bin/python3", "-c", SENDER])
    seen = witness.seen()
    assert [seen.counts.get(kind) for kind in ("esp4", "esp6", "esp_udp4", "ike4",
                                               "keepalive4")] == [1, 1, 1, 2, 1]
    assert seen.get("plaintext") == 0


def test_traffic_names_what_never_came(lab, flow):
    traffic, _, wire, _ = flow
    before = traffic.counts()["flow"]
    wire.cut(1)
    time.sleep(0.2)
    wire.join(1)
    traffic.wait_for_flow()
    count = traffic.pause()["flow"]
    assert before.missing <= 10  # under way
    assert count.missing >= 100 and count.gap_count == 1
    assert count.gaps[0][1] == count.missing == count.sent - count.received


def test_traffic_counts_what_others_send_to_its_receiver(lab, flow):
    traffic, _, _, a = flow
    send_plaintext(a, "eth0", "02:00:00:00:00:01", "02:00:00:00:00:02",
                   [("10.244.1.1", "10.244.2.9", traffic.ports["flow"])])
    assert traffic.pause()["flow"].foreign == 1
