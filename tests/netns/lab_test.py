"""The lab's own tests: what its other users rely on can fail when it should."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from lab import (CLUSTER_CIDRS, Capture, Lab, LabError, Namespace, Process, Wire,
                 send_plaintext)
from lab.session import cache_folder, start_time


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
