"""An espd hands its tunnels to the next one: numbered packets both ways, and
hand-overs that end in every wrong way."""

import os
import socket
import struct
import time

import pytest

from lab import Capture, LabError, Namespace, Wire
from lab.espd import (AES128_GCM_NO_ESN, AES256_GCM, ALREADY_EXISTS, NUMBER, VERSION,
                      Espd, Pair)
from lab.traffic import Traffic

V4 = ("10.244.1.1", "10.244.2.1")
V6 = ("fd00:244:1::1", "fd00:244:2::1")
INNER = ["10.244.0.0/16", "fd00:244::/32"]
OUTER4 = ("192.0.2.1", "192.0.2.2")
MARGIN = 256


class Scene:
    def __init__(self, lab):
        self.lab = lab
        self.wire = Wire(lab)
        self.a, self.b = Namespace(lab, "a"), Namespace(lab, "b")
        self.wire.attach(self.a, 1)
        self.wire.attach(self.b, 2)
        self.ends = [Espd(node, [V4[i], V6[i]]) for i, node in enumerate((self.a, self.b))]
        self.pair = Pair(*self.ends, OUTER4)

    def traffic(self, rate: float) -> Traffic:
        traffic = Traffic(self.lab)
        for name, source, target, mine, theirs in (
                ("there4", self.a, self.b, V4[0], V4[1]), ("back4", self.b, self.a, V4[1], V4[0]),
                ("there6", self.a, self.b, V6[0], V6[1]), ("back6", self.b, self.a, V6[1], V6[0])):
            traffic.flow(name, source, mine, target, theirs, rate=rate)
        traffic.wait_for_flow()
        return traffic


@pytest.fixture
def scene(lab):
    return Scene(lab)


def check_nothing_lost(traffic: Traffic) -> None:
    for name, count in traffic.pause().items():
        assert count.received > 50, name
        assert (count.missing, count.doubled, count.refused) == (0, 0, 0), (name, count)


def sequence_numbers(path, spi: int) -> list[int]:
    """Of the ESP packets in UDP over IPv4 that the wire saw, in their order."""
    data, place, found = path.read_bytes(), 24, []
    while place + 16 <= len(data):
        size = struct.unpack_from("<I", data, place + 8)[0]
        frame = data[place + 16:place + 16 + size]
        place += 16 + size
        if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[42:46] == spi.to_bytes(4, "big"):
            found.append(int.from_bytes(frame[46:50], "big"))
    return found


class FakeNext:
    """The next espd's end of a hand-over, which does what it is told."""

    def __init__(self, end: Espd):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        self.socket.connect(str(end.path))
        self.fds: list[int] = []
        self.send("Hello", b"\0")
        self.send("HandOver")

    def send(self, name: str, body: bytes = b"") -> None:
        self.socket.send(struct.pack("!BBHI", VERSION, NUMBER[name], 0, 0) + body)

    def receive_until(self, name: str) -> list[int]:
        """The kinds of frames that came."""
        kinds = []
        while NUMBER[name] not in kinds:
            data, fds, _, _ = socket.recv_fds(self.socket, 1 << 17, 8)
            if not data:
                raise LabError("espd closed the hand-over")
            self.fds += fds
            kinds.append(data[1])
        return kinds

    def die(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.socket.close()


@pytest.mark.parametrize("rate", [100, 1000])
@pytest.mark.parametrize("suite", [AES256_GCM, AES128_GCM_NO_ESN], ids=["esn", "no-esn"])
def test_an_upgrade_loses_nothing(scene, suite, rate):
    scene.pair.connect(suite)
    traffic = scene.traffic(rate)
    capture = Capture(scene.wire, scene.lab.folder / "wire.pcap", INNER)
    for _ in range(3):
        for end in scene.ends:
            end.upgrade()
            traffic.wait_for_flow(packets=20)
    check_nothing_lost(traffic)
    assert capture.stop().plaintext == 0
    # No number twice, which AES-GCM could not bear; each end left out the
    # margin three times.
    for outbound, _ in scene.pair.installed:
        numbers = sequence_numbers(capture.path, outbound.spi)
        assert len(numbers) == len(set(numbers)) > 100
        gaps = [b - a for a, b in zip(numbers, numbers[1:]) if b - a > MARGIN]
        assert gaps == [MARGIN + 1] * 3
    # The control: the same with a stop and a start between is seen.
    traffic.resume()
    scene.ends[0].process.stop()
    scene.ends[0].process = scene.ends[0].start_next()
    scene.ends[0].process.wait_for_log("espd running", 10)
    time.sleep(0.3)
    assert all(count.missing > 0 for name, count in traffic.pause().items() if "there" in name)


def test_the_old_one_waits_where_a_supervisor_would_start_it_again(scene):
    end = scene.ends[0]
    end.process.stop()
    end.process = end.start_next("--wait-after-hand-over")
    end.process.wait_for_log("espd running", 10)
    scene.pair = Pair(*scene.ends, OUTER4)
    scene.pair.connect()
    old, end.process = end.process, end.start_next()
    end.process.wait_for_log("espd running", 10)
    old.wait_for_log("espd stopped", 10)
    time.sleep(0.3)
    assert old.running()
    # It holds nothing: neither TUN nor sockets.
    links = [os.readlink(f"/proc/{old.pid}/fd/{fd}")
             for fd in os.listdir(f"/proc/{old.pid}/fd")]
    assert not [link for link in links if "socket" in link or "tun" in link], links
    # And its end ends nothing.
    assert old.stop() == 0
    assert scene.a.ping(V4[1], count=3) == 3


def test_the_next_one_knows_what_the_old_one_knew(scene):
    scene.pair.connect()
    assert scene.a.ping(V4[1], count=3) == 3
    control = scene.pair.controls[0]
    spent = scene.pair.installed[0][0]
    scene.pair.connect()
    control.remove(spent)
    before = {sa.key: sa for sa in control.sas()}
    scene.ends[0].upgrade()
    control = scene.ends[0].control()
    # To an agent nothing has happened: the same instance, SAs and counters.
    assert control.instance == scene.pair.controls[0].instance
    after = {sa.key: sa for sa in control.sas()}
    assert after.keys() == before.keys() and len(after) == 3
    assert {k: sa.counters for k, sa in after.items()} == {
        k: sa.counters for k, sa in before.items()}
    assert control.policies() == [scene.pair.reqid]
    # Keys of the old process are spent in the next one too, removed or not.
    for sa in (spent, scene.pair.installed[2][0]):
        code, text = control.status("InstallSa", sa.encode())
        assert code == ALREADY_EXISTS, text
    assert scene.a.ping(V4[1], count=3) == 3
    status = open(f"/proc/{scene.ends[0].process.pid}/status").read()
    assert "CapEff:\t0000000000000000" in status
    # And once more, from one that has itself taken over.
    scene.ends[0].upgrade()
    assert scene.a.ping(V6[1], count=3) == 3


@pytest.mark.parametrize("until", ["HandOverBegin", "HandOverEnd"])
def test_a_next_one_that_dies_midway_changes_nothing(scene, until):
    scene.pair.connect()
    traffic = scene.traffic(100)
    old = scene.ends[0].process
    capture = Capture(scene.wire, scene.lab.folder / "wire.pcap", INNER)
    for _ in range(3):
        fake = FakeNext(scene.ends[0])
        fake.receive_until(until)
        assert len(fake.fds) == 6
        fake.die()
        traffic.wait_for_flow(packets=20)
        assert old.running()
    # The old one still can hand over, to a whole one.
    scene.ends[0].upgrade()
    traffic.wait_for_flow(packets=20)
    check_nothing_lost(traffic)
    capture.stop()
    numbers = sequence_numbers(capture.path, scene.pair.installed[0][0].spi)
    assert len(numbers) == len(set(numbers)) > 100


def test_a_real_next_one_that_is_killed_leaves_exactly_one(scene):
    """Later and later after its start, until it was the owner."""
    scene.pair.connect()
    end = scene.ends[0]
    old = end.process
    capture = Capture(scene.wire, scene.lab.folder / "wire.pcap", INNER)
    kept, delay = 0, 0.001
    while old.running():
        following = end.node.start(
            f"espd-killed-{delay:.4f}",
            ["timeout", "--signal=KILL", f"{delay:.4f}", *end.command, "--take-over"])
        assert following.wait(10) in (137, -9)
        # Whoever came too late to be killed earlier has made the old one end.
        try:
            old.wait(0.1)
        except LabError:
            assert scene.a.ping(V4[1]) == 1
            kept += 1
        assert "running" not in following.log() or not old.running()
        delay *= 1.4
    # The first one that lived for a millisecond had not claimed yet; the last
    # one had, and no other process goes on with the keys that it may have used.
    assert kept > 0
    assert "handed over" in old.log()
    assert scene.a.ping(V4[1], wait=1) == 0
    capture.stop()
    numbers = sequence_numbers(capture.path, scene.pair.installed[0][0].spi)
    assert len(numbers) == len(set(numbers)) > 0


def test_a_next_one_that_hangs_is_given_up_and_never_becomes_the_owner(scene):
    scene.pair.connect()
    old = scene.ends[0].process
    fake = FakeNext(scene.ends[0])
    fake.receive_until("HandOverEnd")
    old.wait_for_log("going on as before", 15)
    with pytest.raises(OSError):
        fake.send("HandedOver")
    assert scene.a.ping(V4[1], count=3) == 3
    fake.die()
    # The control: in time, that frame ends the old one.
    fake = FakeNext(scene.ends[0])
    fake.receive_until("HandOverEnd")
    fake.send("HandedOver")
    assert old.wait(10) == 0
    fake.die()


def test_who_asks_for_another_device_or_port_gets_nothing(scene):
    scene.pair.connect()
    end = scene.ends[0]
    other_tun = ["other0" if word == "esp0" else word for word in end.command]
    for number, command in enumerate((other_tun, [*end.command, "--port", "4501"])):
        other = end.node.start(f"espd-refused-{number}", [*command, "--take-over"])
        assert other.wait(10) == 1
        assert "start it with the same --tun and --port" in other.log()
    # Without --take-over a second espd changes nothing, as ever.
    other = end.node.start("espd-second", end.command)
    assert other.wait(10) == 1
    assert scene.a.ping(V4[1], count=3) == 3
