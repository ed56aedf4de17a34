"""A stand-in for engines of NetworkPolicy that judge in user space: reads an
NFQUEUE (nfnetlink_queue, linux/netfilter/nfnetlink_queue.h) and accepts the
packets of the pairs of addresses it was given, as a program:

    queue_engine.py QUEUE SOURCE DESTINATION [SOURCE DESTINATION...]"""

import ipaddress
import socket
import struct
import sys

NETLINK_NETFILTER = 12
REQUEST, ACK, ERROR = 1, 4, 2
SUBSYSTEM = 3 << 8
PACKET, VERDICT, CONFIG = 0, 1, 2
CONFIG_COMMAND, CONFIG_PARAMS = 1, 2
ATTRIBUTE_HEADER, ATTRIBUTE_VERDICT, ATTRIBUTE_PAYLOAD = 1, 2, 10
DROP, ACCEPT = 0, 1
HEAD = struct.Struct("=IHHII")


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(kind: int, flags: int, queue: int, body: bytes) -> bytes:
    body = struct.pack("!BBH", 0, 0, queue) + body
    return HEAD.pack(HEAD.size + len(body), SUBSYSTEM | kind, REQUEST | flags, 1, 0) + body


def attributes(data: bytes) -> dict[int, bytes]:
    found, position = {}, 0
    while position + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, position)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[position + 4:position + size]
        position += size + -size % 4
    return found


def pair(packet: bytes) -> tuple[str, str]:
    begin, size = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    return tuple(str(ipaddress.ip_address(packet[at:at + size]))
                 for at in (begin, begin + size))


def configure(s: socket.socket, queue: int, body: bytes) -> None:
    s.send(message(CONFIG, ACK, queue, body))
    answer = s.recv(65536)
    code = struct.unpack_from("=i", answer, HEAD.size)[0]
    if HEAD.unpack_from(answer)[1] != ERROR or code:
        sys.exit(f"NFQUEUE {queue}: error {-code}")


def main() -> None:
    queue, words = int(sys.argv[1]), sys.argv[2:]
    allowed = set(zip(words[::2], words[1::2]))
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    s.bind((0, 0))
    configure(s, queue, attribute(CONFIG_COMMAND, struct.pack("!BBH", 1, 0, 0)))
    configure(s, queue, attribute(CONFIG_PARAMS, struct.pack("!IB", 0xFFFF, 2)))
    print("judging", flush=True)
    while True:
        data = s.recv(1 << 17)
        size, kind = HEAD.unpack_from(data)[:2]
        if kind != SUBSYSTEM | PACKET:
            continue
        found = attributes(data[HEAD.size + 4:size])
        asked = pair(found[ATTRIBUTE_PAYLOAD])
        verdict = ACCEPT if asked in allowed else DROP
        print("accepted" if verdict else "refused", *asked, flush=True)
        s.send(message(VERDICT, 0, queue, attribute(
            ATTRIBUTE_VERDICT, struct.pack("!I", verdict) + found[ATTRIBUTE_HEADER][:4])))


if __name__ == "__main__":
    main()
