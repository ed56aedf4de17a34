"""A peer that cheats: ESP packets under its own SA with whatever inside.

The keys come from the key log of the cheating node's agent; the packets are
built here, by RFC 4303 and 4106, and share no code with Espalier."""

import csv
import ipaddress
import os
import struct
import time

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lab.capture import checksum, control_frame, put_on_wire
from lab.errors import LabError

NAT_PORT, ESP = 4500, 50
# Ahead of what the sender may have sent by the time they are on the wire, seconds
# later on a slow machine; and so near that the window of 4096 keeps accepting the
# honest packets.
AHEAD = 3500


def _outbound_sas(sender, receiver) -> dict[int, dict]:
    return {int(sa["spi"], 16): sa
            for sa in sender.show(receiver.name)["esp_sas"] if sa["direction"] == "out"}


def _sent(sa: dict) -> int:
    return int(sa["counters"].get("packets", 0))


def _outbound(sender, receiver) -> tuple[int, bytes, int, bool]:
    """SPI, key with salt, how many packets were sent, and whether in UDP (the pair
    may have fallen back to it), of the sender's SA. The agent that writes the key
    log is the sender's."""
    keys = {}
    with open(sender.key_log / "esp_sa", newline="") as table:
        for row in csv.reader(table):
            keys[int(row[3], 16)] = (row[4], bytes.fromhex(row[5][2:]))
    # While SAs follow one another, the one that carries the packets.
    before = _outbound_sas(sender, receiver)
    for _ in range(50):
        time.sleep(0.2)
        now = _outbound_sas(sender, receiver)
        growth = {spi: _sent(sa) - _sent(before.get(spi, sa))
                  for spi, sa in now.items() if spi in keys}
        if not growth or max(growth.values()) == 0:
            continue
        spi = max(growth, key=growth.get)
        cipher, key = keys[spi]
        if "AES-GCM" not in cipher:
            raise LabError(f"no forger for {cipher}")
        return spi, key, _sent(now[spi]), now[spi].get("encapsulated", False)
    raise LabError(f"no SA of {sender.name} towards {receiver.name} of its key log sends")


def _inner(source: str, destination: str, port: int) -> tuple[int, bytes]:
    frame = control_frame(source, destination, "00:" * 5 + "00", "00:" * 5 + "00", port)
    return (41 if ":" in source else 4), frame[14:]


def send_forged(sender, receiver, inner: list[tuple[str, str, int]]) -> None:
    """One ESP packet each of (inner source, inner destination, UDP port), from
    the sender's node to the receiver's, with ICVs that are right (ESN, high half
    0: the SA must be young)."""
    spi, key, sent, udp = _outbound(sender, receiver)
    aead, salt = AESGCM(key[:-4]), key[-4:]
    frames = []
    for index, (source, destination, port) in enumerate(inner):
        sequence = sent + AHEAD + index
        next_header, packet = _inner(source, destination, port)
        padding = -(len(packet) + 2) % 4
        plain = packet + bytes(range(1, padding + 1)) + bytes([padding, next_header])
        # Not an IV that the real sender uses: it counts from 0.
        iv = b"\xff" + os.urandom(7)
        sealed = aead.encrypt(salt + iv, plain, struct.pack("!III", spi, 0, sequence))
        esp = struct.pack("!II", spi, sequence) + iv + sealed
        frames.append(_outer(sender, receiver, esp, udp))
    put_on_wire(sender.namespace, sender.uplink.device, frames)


def _outer(sender, receiver, esp: bytes, udp: bool) -> bytes:
    payload = esp
    if udp:
        payload = struct.pack("!HHHH", NAT_PORT, NAT_PORT, 8 + len(esp), 0) + esp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64,
                       17 if udp else ESP, 0)
    head += ipaddress.ip_address(sender.uplink.ipv4).packed
    head += ipaddress.ip_address(receiver.uplink.ipv4).packed
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    macs = bytes.fromhex((receiver.uplink.mac + sender.uplink.mac).replace(":", ""))
    return macs + b"\x08\x00" + head + payload
