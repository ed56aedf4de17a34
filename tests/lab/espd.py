"""espalier-espd with static SAs: a control client that shares no code with the
agent's (agent/esp/control/messages.h is the format), for tests of espd alone.

Keys are per run and direction; both ends are configured by connect().
"""

import dataclasses
import ipaddress
import os
import secrets
import socket
import struct

from lab.errors import LabError
from lab.namespace import Namespace
from lab.session import binary, wait_until

VERSION = 1
TYPES = [
    "Hello", "InstallSa", "RemoveSa", "WatchInbound", "SetPolicy", "RemovePolicy",
    "ListSas", "ListPolicies", "GetStatistics", "SendIke", "SendKeepalive",
    "HelloReply", "Reply", "SaList", "PolicyList", "Statistics", "SaExpired",
    "InboundSeen", "Acquire", "IkeDatagram", "HandOver", "HandOverBegin", "UsedKeys",
    "PathMtu", "AdoptSa", "HandOverEnd", "HandedOver"]
NUMBER = {name: index + 1 for index, name in enumerate(TYPES)}
INBOUND, OUTBOUND = 1, 2
OK, ALREADY_EXISTS = 0, 6


@dataclasses.dataclass(frozen=True)
class Suite:
    """IANA's IKEv2 numbers, and the octets of the keys."""
    cipher: int
    bits: int
    integrity: int = 0
    esn: bool = True

    @property
    def key_size(self) -> int:
        return self.bits // 8 + (0 if self.cipher == 12 else 4)

    @property
    def integrity_size(self) -> int:
        return {0: 0, 12: 32, 13: 48, 14: 64}[self.integrity]

    def encode(self) -> bytes:
        return struct.pack("!HHHB", self.cipher, self.bits, self.integrity, self.esn)


AES256_GCM = Suite(20, 256)
AES128_GCM_NO_ESN = Suite(20, 128, esn=False)
CHACHA20 = Suite(28, 256)
AES256_CBC_SHA256 = Suite(12, 256, 12)
AES128_CBC_SHA512_NO_ESN = Suite(12, 128, 14, esn=False)


def _address(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return bytes([address.version]) + address.packed


def _prefixes(texts) -> bytes:
    networks = [ipaddress.ip_network(text) for text in texts]
    return struct.pack("!H", len(networks)) + b"".join(
        _address(str(n.network_address)) + bytes([n.prefixlen]) for n in networks)


def _selectors(texts) -> bytes:
    out = struct.pack("!H", len(texts))
    for text in texts:
        network = ipaddress.ip_network(text)
        out += struct.pack("!BHH", 0, 0, 65535)
        out += _address(str(network[0])) + _address(str(network[-1]))
    return out


class _Reader:
    def __init__(self, data: bytes):
        self.data, self.place = data, 0

    def take(self, form: str):
        values = struct.unpack_from("!" + form, self.data, self.place)
        self.place += struct.calcsize("!" + form)
        return values if len(values) > 1 else values[0]

    def octets(self, size: int) -> bytes:
        self.place += size
        return self.data[self.place - size:self.place]

    def rest(self) -> bytes:
        return self.octets(len(self.data) - self.place)

    def address(self) -> str:
        return str(ipaddress.ip_address(self.octets(4 if self.take("B") == 4 else 16)))

    def text(self) -> str:
        return self.octets(self.take("H")).decode()

    def key(self) -> tuple:
        direction, destination = self.take("B"), self.address()
        return direction, destination, self.take("I")


@dataclasses.dataclass
class Counters:
    packets: int
    bytes: int
    replayed: int
    bad_icv: int
    selector_mismatch: int
    send_errors: int


@dataclasses.dataclass
class InstalledSa:
    key: tuple  # direction, outer destination, SPI
    reqid: int
    counters: Counters
    expired: bool


@dataclasses.dataclass
class Sa:
    direction: int
    spi: int
    source: str
    destination: str
    reqid: int
    local: list
    remote: list
    suite: Suite
    key: bytes
    integrity: bytes = b""
    udp: bool = True
    window: int = 4096
    soft_packets: int = 0
    hard_packets: int = 0

    def encode(self) -> bytes:
        out = struct.pack("!B", self.direction) + _address(self.destination)
        out += struct.pack("!I", self.spi) + _address(self.source)
        out += struct.pack("!B", self.udp)
        if self.udp:
            out += struct.pack("!HH", 4500, 4500)
        out += self.suite.encode() + struct.pack("!II", self.window, self.reqid)
        out += _selectors(self.local) + _selectors(self.remote)
        out += struct.pack("!6Q", 0, 0, 0, 0, self.soft_packets, self.hard_packets)
        return out + self.key + self.integrity


class Control:
    """One connection, as an agent has."""

    def __init__(self, path: str, *, subscribe: bool = True):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self.events: list[tuple[str, _Reader]] = []
        self._id = 0
        name, reader = self.request("Hello", struct.pack("!B", subscribe))
        if name != "HelloReply":
            raise LabError(f"espd answered Hello with {name}")
        self.instance = reader.take("Q")

    def close(self) -> None:
        self.socket.close()

    def send(self, name: str, body: bytes = b"", identifier: int = 0) -> None:
        self.socket.send(struct.pack("!BBHI", VERSION, NUMBER[name], 0, identifier) + body)

    def receive(self) -> tuple[int, str, _Reader]:
        data = self.socket.recv(1 << 17)
        if not data:
            raise LabError("espd closed the control connection")
        _, number, _, identifier = struct.unpack_from("!BBHI", data)
        return identifier, TYPES[number - 1], _Reader(data[8:])

    def request(self, name: str, body: bytes = b"") -> tuple[str, _Reader]:
        self._id += 1
        self.send(name, body, self._id)
        return self.answer()

    def answer(self) -> tuple[str, _Reader]:
        while True:
            identifier, name, reader = self.receive()
            if identifier == self._id:
                return name, reader
            self.events.append((name, reader))

    def wait_event(self, name: str) -> _Reader:
        while True:
            for index, (kind, reader) in enumerate(self.events):
                if kind == name:
                    del self.events[index]
                    return reader
            _, kind, reader = self.receive()
            self.events.append((kind, reader))

    def status(self, name: str, body: bytes) -> tuple[int, str]:
        kind, reader = self.request(name, body)
        if kind != "Reply":
            raise LabError(f"espd answered {name} with {kind}")
        return reader.take("B"), reader.text()

    def expect_ok(self, name: str, body: bytes) -> None:
        code, text = self.status(name, body)
        if code != OK:
            raise LabError(f"espd refused {name}: {code} {text}")

    def install(self, sa: Sa) -> None:
        self.expect_ok("InstallSa", sa.encode())

    def remove(self, sa: Sa) -> None:
        self.expect_ok("RemoveSa", self.key_of(sa))

    def remove_key(self, direction: int, destination: str, spi: int) -> None:
        self.expect_ok("RemoveSa", bytes([direction]) + _address(destination)
                       + struct.pack("!I", spi))

    def remove_policy(self, reqid: int) -> None:
        self.expect_ok("RemovePolicy", struct.pack("!I", reqid))

    @staticmethod
    def key_of(sa: Sa) -> bytes:
        return (bytes([sa.direction]) + _address(sa.destination)
                + struct.pack("!I", sa.spi))

    def set_policy(self, reqid: int, local, remote, source: str, destination: str) -> None:
        self.expect_ok("SetPolicy", struct.pack("!I", reqid) + _prefixes(local)
                       + _prefixes(remote) + _address(source) + _address(destination))

    def statistics(self) -> dict[str, int]:
        _, reader = self.request("GetStatistics")
        return {reader.text(): reader.take("Q") for _ in range(reader.take("H"))}

    def sas(self) -> list[InstalledSa]:
        name, reader = self.request("ListSas")
        found = []
        while True:
            more, count = reader.take("BH")
            for _ in range(count):
                key = reader.key()
                reader.address()
                reqid = reader.take("I")
                counters = Counters(*reader.take("6Q"))
                reader.take("HHHB")
                reader.take("B")
                reader.take("Q")
                found.append(InstalledSa(key, reqid, counters, bool(reader.take("B"))))
            if not more:
                return found
            name, reader = self.answer()

    def policies(self) -> list[int]:
        _, reader = self.request("ListPolicies")
        found = []
        while True:
            more, count = reader.take("BH")
            for _ in range(count):
                found.append(reader.take("I"))
                for _ in range(2):
                    for _ in range(reader.take("H")):
                        reader.address()
                        reader.take("B")
                reader.address()
                reader.address()
            if not more:
                return found
            _, reader = self.answer()


class Espd:
    """espalier-espd in a node's namespace. `inner`: the node's own inner
    addresses, put on the TUN itself, in place of pods."""

    def __init__(self, node: Namespace, inner: list[str], *, mtu: int = 1400,
                 options: list[str] = ()):
        self.node = node
        self.inner = inner
        folder = node.lab.folder / f"espd-{node.suffix}"
        folder.mkdir(mode=0o700, exist_ok=True)
        self.path = folder / "espd.sock"
        self.command = [binary("espalier-espd"), "--socket", self.path, "--tun", "esp0",
                        "--mtu", mtu, *options]
        self.successors = 0
        self.start()
        # In place of a pod's interface, which has the same.
        node.run(["ip", "link", "set", "esp0", "gso_max_size", "60000"])
        for address in inner:
            length = 32 if ":" not in address else 128
            node.run(["ip", "address", "add", f"{address}/{length}", "dev", "esp0",
                      *(["nodad"] if length == 128 else [])])

    def start(self) -> None:
        self.process = self.node.start(f"espd-{self.node.suffix}", self.command)
        self.process.wait_for(
            lambda: os.path.exists(self.path) and "espd running" in self.process.log(),
            30, "control socket")

    def start_next(self, *more):
        """An upgrade: the next espd, which takes over. Not waited for."""
        self.successors += 1
        return self.node.start(f"espd-{self.node.suffix}-next{self.successors}",
                               [*self.command, "--take-over", *more])

    def upgrade(self) -> None:
        old, self.process = self.process, self.start_next()
        self.process.wait_for_log("espd running", 10)
        if old.wait(10) != 0:
            raise LabError(f"{old.name} did not end well; log {old.log_path}:\n{old.tail()}")

    def route(self, prefixes) -> None:
        for prefix in prefixes:
            self.node.run(["ip", "route", "replace", prefix, "dev", "esp0"])

    def control(self) -> Control:
        return Control(self.path)


def prefix_of(address: str) -> str:
    return f"{address}/{32 if ':' not in address else 128}"


class Pair:
    """Two espd and what ties them. outer: their uplink addresses."""

    def __init__(self, a: Espd, b: Espd, outer: tuple[str, str], *, reqid: int = 0x45500001):
        self.ends = (a, b)
        self.outer = outer
        self.reqid = reqid
        self.controls = [a.control(), b.control()]
        self.next_spi = 0x1000
        self.installed: list[tuple[Sa, Sa]] = []
        for index, (end, control) in enumerate(zip(self.ends, self.controls)):
            other = self.ends[1 - index]
            local = [prefix_of(address) for address in end.inner]
            remote = [prefix_of(address) for address in other.inner]
            end.route(remote)
            control.set_policy(reqid, local, remote, outer[index], outer[1 - index])

    def make(self, sender: int, suite: Suite, *, udp: bool, **options) -> tuple[Sa, Sa]:
        """Outbound of `sender` and its inbound twin, with fresh keys."""
        self.next_spi += 1
        key = secrets.token_bytes(suite.key_size)
        integrity = secrets.token_bytes(suite.integrity_size)
        local, remote = ([prefix_of(address) for address in self.ends[i].inner]
                         for i in (sender, 1 - sender))
        common = dict(spi=self.next_spi, source=self.outer[sender],
                      destination=self.outer[1 - sender], reqid=self.reqid, suite=suite,
                      key=key, integrity=integrity, udp=udp)
        outbound = Sa(OUTBOUND, local=local, remote=remote, **common, **options)
        inbound = Sa(INBOUND, local=remote, remote=local, **common)
        return outbound, inbound

    def connect(self, suite: Suite = AES256_GCM, *, udp: bool = True, **options) -> list[Sa]:
        """A new SA each way, inbound first; the outbound ones at once after."""
        made = []
        for sender in (0, 1):
            outbound, inbound = self.make(sender, suite, udp=udp, **options)
            self.controls[1 - sender].install(inbound)
            made.append(outbound)
            self.installed.append((outbound, inbound))
        for sender, outbound in enumerate(made):
            self.controls[sender].install(outbound)
        return made


__all__ = ["AES128_CBC_SHA512_NO_ESN", "AES128_GCM_NO_ESN", "AES256_CBC_SHA256",
           "AES256_GCM", "ALREADY_EXISTS", "CHACHA20", "Control", "Espd", "INBOUND",
           "OUTBOUND", "Pair", "Sa", "Suite", "prefix_of", "wait_until"]
