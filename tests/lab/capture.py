"""What went over the wire: tcpdump to a file, and a reader that sorts packets.

The reader shares no code with Espalier. A capture that sees nothing proves
nothing: send_plaintext() puts packets on the wire that it must have seen.
"""

import dataclasses
import functools
import ipaddress
import pathlib
import re
import secrets
import signal
import struct
from collections import Counter
from typing import NamedTuple

from lab.errors import LabError
from lab.namespace import Namespace
from lab.wire import BRIDGE, Wire

CONTROL_MARK = b"espalier negative control"
EXPERIMENTAL = b"\x88\xb5"  # IEEE 802: for local use
ETHERTYPES = {0x0800: 4, 0x86DD: 6}
IPV6_EXTENSIONS = {0, 43, 60}
FRAGMENT_HEADER = 44
UDP, ESP, AH, ICMPV6 = 17, 50, 51, 58
IKE_PORT, NAT_PORT, VXLAN_PORT = 500, 4500, 4790


class Packet(NamedTuple):
    kind: str  # esp, esp-udp, ah, ike, keepalive, vxlan, plaintext, control, other
    source: str
    destination: str
    spi: int = 0
    length: int = 0  # of the IP packet


@dataclasses.dataclass
class Packets:
    packets: list[Packet]

    def count(self, kind: str) -> int:
        return sum(packet.kind == kind for packet in self.packets)

    @property
    def esp(self) -> int:
        """ESP packets, bare or in UDP."""
        return self.count("esp") + self.count("esp-udp")

    @property
    def plaintext(self) -> int:
        """Packets with an address out of the pod CIDRs that are not ESP."""
        return self.count("plaintext")

    @property
    def controls(self) -> int:
        return self.count("control")

    def spis(self) -> Counter:
        """(source, destination, SPI) to how many packets."""
        return Counter((p.source, p.destination, p.spi) for p in self.packets
                       if p.kind in ("esp", "esp-udp"))


@functools.lru_cache(maxsize=1024)
def _text(address: bytes) -> str:
    return str(ipaddress.ip_address(address))


@functools.lru_cache(maxsize=4096)
def _inside(address: bytes, cidrs: tuple) -> bool:
    value = ipaddress.ip_address(address)
    return any(value.version == cidr.version and value in cidr for cidr in cidrs)


def _transport(frame: bytes) -> tuple[bytes, bytes, int, bytes, int] | None:
    """Source, destination, protocol, payload, length of an Ethernet frame; of a
    later fragment the payload is empty."""
    offset, ethertype = 14, int.from_bytes(frame[12:14], "big")
    if ethertype == 0x8100:
        offset, ethertype = 18, int.from_bytes(frame[16:18], "big")
    family = ETHERTYPES.get(ethertype)
    packet = frame[offset:]
    if family == 4 and len(packet) >= 20:
        header = (packet[0] & 15) * 4
        first = int.from_bytes(packet[6:8], "big") & 0x1FFF == 0
        return (packet[12:16], packet[16:20], packet[9],
                packet[header:] if first else b"", int.from_bytes(packet[2:4], "big"))
    if family == 6 and len(packet) >= 40:
        protocol, position, first = packet[6], 40, True
        while len(packet) >= position + 8:
            if protocol in IPV6_EXTENSIONS:
                size = (packet[position + 1] + 1) * 8
            elif protocol == FRAGMENT_HEADER:
                first = first and packet[position + 2] == 0 and packet[position + 3] < 8
                size = 8
            else:
                break
            protocol, position = packet[position], position + size
        return (packet[8:24], packet[24:40], protocol,
                packet[position:] if first else b"",
                int.from_bytes(packet[4:6], "big") + 40)
    return None


def _udp_kind(payload: bytes) -> tuple[str, int]:
    ports = struct.unpack("!HH", payload[:4])
    data = payload[8:]
    if IKE_PORT in ports:
        return "ike", 0
    if ports[1] == VXLAN_PORT:
        return "vxlan", 0
    if NAT_PORT in ports:
        if data == b"\xff":
            return "keepalive", 0
        if len(data) < 4:
            return "other", 0
        spi = int.from_bytes(data[:4], "big")
        return ("ike", 0) if spi == 0 else ("esp-udp", spi)
    return "other", 0


def classify(frame: bytes, cidrs: tuple) -> Packet:
    found = _transport(frame)
    if found is None:
        return Packet("other", "", "")
    source, destination, protocol, payload, length = found
    inside = _inside(source, cidrs) or _inside(destination, cidrs)
    kind, spi = "other", 0
    if inside:
        kind = "control" if CONTROL_MARK in frame else "plaintext"
    elif protocol == ESP and len(payload) >= 4:
        kind, spi = "esp", int.from_bytes(payload[:4], "big")
    elif protocol == AH and len(payload) >= 8:
        kind, spi = "ah", int.from_bytes(payload[4:8], "big")
    elif protocol == UDP and len(payload) >= 8:
        kind, spi = _udp_kind(payload)
    return Packet(kind, _text(source), _text(destination), spi, length)


def read_pcap(path: pathlib.Path, cidrs: list[str]) -> Packets:
    data = pathlib.Path(path).read_bytes()
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">"}.get(data[:4])
    if order is None:
        raise LabError(f"{path} is not a pcap file")
    networks = tuple(ipaddress.ip_network(cidr) for cidr in cidrs)
    packets, position = [], 24
    while position + 16 <= len(data):
        size = struct.unpack_from(order + "I", data, position + 8)[0]
        frame = data[position + 16:position + 16 + size]
        if len(frame) < size:
            break  # still being written
        packets.append(classify(frame, networks))
        position += 16 + size
    return Packets(packets)


class Capture:
    """Sees each packet of the wire once. Read it after stop(): before it, the
    last packets may be on their way into the file."""

    def __init__(self, wire: Wire, path: pathlib.Path, cidrs: list[str]):
        self._wire = wire
        self.path = pathlib.Path(path)
        self.cidrs = cidrs
        # -s: a slot of the ring has its size, so a large one means few slots and
        # lost packets; with offloads a packet may have 64 KiB. -Z root: tcpdump
        # would give up root before it opens the file.
        snap = 65600 if wire.offloads else wire.mtu + 100
        self._process = wire.namespace.start(
            f"tcpdump-{self.path.stem}",
            ["nice", "-n", "-10", "tcpdump", "-n", "-U", "-s", snap, "-B", "65536",
             "-Z", "root", "--immediate-mode", "-i", BRIDGE, "-w", self.path])
        self._process.wait_for_log("listening on", 10)

    def stop(self) -> Packets:
        """Ends the capture. A capture that lost packets is an error."""
        if self._process.running():
            self._wait_for_all()
            self._process.signal(signal.SIGINT)
            self._process.wait(10)
        lost = re.search(r"(\d+) packets? dropped by kernel", self._process.log())
        if not lost or int(lost[1]):
            raise LabError(f"the capture lost packets; log {self._process.log_path}")
        return self.read()

    def _wait_for_all(self) -> None:
        """What is on the wire now is in the file when a last frame of our own is:
        tcpdump may be behind, and forgets what it has not read yet."""
        mark = secrets.token_bytes(16)
        frame = b"\xff" * 6 + bytes.fromhex("020000000002") + EXPERIMENTAL + mark + bytes(40)
        self._wire.namespace.run(["/usr/bin/python3", "-c", _SENDER, BRIDGE, 0, frame.hex()])
        def seen():
            with open(self.path, "rb") as file:
                file.seek(max(0, self.path.stat().st_size - 65536))
                return mark in file.read()
        self._process.wait_for(seen, 20, "the last frame in the capture")

    def read(self) -> Packets:
        return read_pcap(self.path, self.cidrs)


# The second word, 1: past the queueing discipline (PACKET_QDISC_BYPASS), and so
# past what a guard hooks there, but also past captures on that very device.
_SENDER = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.setsockopt(263, 20, int(sys.argv[2]))
s.bind((sys.argv[1], 0))
for frame in sys.argv[3:]:
    s.send(bytes.fromhex(frame))
"""


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _pseudo_sum(a, b, udp: bytes) -> int:
    padded = a.packed + b.packed + struct.pack("!II", len(udp), UDP) + udp
    return checksum(padded + bytes(len(padded) % 2)) or 0xFFFF


def control_frame(source: str, destination: str, mac: str, to_mac: str,
                   port: int = 9) -> bytes:
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    udp = struct.pack("!HHHH", 9, port, 8 + len(CONTROL_MARK), 0) + CONTROL_MARK
    udp = udp[:6] + struct.pack("!H", _pseudo_sum(a, b, udp)) + udp[8:]
    if a.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, UDP, 0)
        whole = head + a.packed + b.packed
        header = whole[:10] + struct.pack("!H", checksum(whole)) + whole[12:]
        ethertype = 0x0800
    else:
        header = struct.pack("!IHBB", 6 << 28, len(udp), UDP, 64) + a.packed + b.packed
        ethertype = 0x86DD
    ethernet = bytes.fromhex((to_mac + mac).replace(":", ""))
    return ethernet + struct.pack("!H", ethertype) + header + udp


def send_plaintext(node: Namespace, device: str, mac: str, to_mac: str,
                   pairs: list[tuple]) -> int:
    """The negative control: puts one plaintext packet a pair (source pod,
    destination pod, UDP port if it matters) on the wire, past every guard of the
    node. Returns how many; Packets.controls must show as many."""
    frames = [control_frame(pair[0], pair[1], mac, to_mac, *pair[2:])
              for pair in pairs]
    put_on_wire(node, device, frames)
    return len(frames)


def put_on_wire(node: Namespace, device: str, frames: list[bytes]) -> None:
    node.run(["/usr/bin/python3", "-c", _SENDER, device, 1, *(f.hex() for f in frames)])
