"""IKE_SA_INIT requests out of a capture, sent again under other SPIs to leave
half-open IKE_SAs behind."""

import pathlib
import struct

from lab import Capture, Namespace, wait_until

IKE_SA_INIT = 34
_ETHERNET, _IPV4, _UDP = 14, 20, 8

_SENDER = """
import os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 500))
for _ in range(int(sys.argv[3])):
    s.send(os.urandom(8) + bytes.fromhex(sys.argv[2])[8:])
"""


def _frames(path: pathlib.Path):
    data = path.read_bytes()
    position = 24
    while position + 16 <= len(data):
        size, = struct.unpack_from("<I", data, position + 8)
        yield data[position + 16:position + 16 + size]
        position += 16 + size


def initial_request(capture: Capture, source: str) -> bytes:
    """The last IKE_SA_INIT request that came from that IPv4 address."""
    address = bytes(int(part) for part in source.split("."))

    def found():
        message = None
        for frame in _frames(capture.path):
            if frame[12:14] != b"\x08\x00" or frame[26:30] != address or frame[23] != 17:
                continue
            payload = frame[_ETHERNET + _IPV4 + _UDP:]
            if (len(payload) >= 28 and payload[18] == IKE_SA_INIT and
                    payload[8:16] == bytes(8)):
                message = payload
        return message
    return wait_until(found, 5, f"an IKE_SA_INIT request of {source} in the capture")


def half_open(namespace: Namespace, request: bytes, to: str, count: int) -> None:
    namespace.run(["/usr/bin/python3", "-c", _SENDER, to, request.hex(), count])
