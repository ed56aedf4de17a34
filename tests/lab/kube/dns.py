"""A cluster's DNS: a server of fixed names over UDP and TCP (RFC 1035), in the
network of a pod, and questions to it."""

import json
import pathlib
import subprocess

from lab.errors import LabError
from lab.process import Process
from lab.session import Lab

PORT = 53
UNKNOWN = "NXDOMAIN"

_COMMON = """
import ipaddress, json, socket, struct, sys, threading
TYPES = {"A": 1, "AAAA": 28}
def name_at(data, at):
    labels = []
    while data[at]:
        labels.append(data[at + 1:at + 1 + data[at]].decode())
        at += 1 + data[at]
    return ".".join(labels), at + 1
def read(s, size):
    data = b""
    while len(data) < size:
        part = s.recv(size - len(data))
        if not part:
            raise OSError("cut short")
        data += part
    return data
def read_message(s):
    return read(s, struct.unpack("!H", read(s, 2))[0])
def socket_to(address, kind):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
"""

_SERVER = _COMMON + """
names = json.loads(sys.argv[1])
def answer(query):
    name, end = name_at(query, 12)
    kind = struct.unpack_from("!H", query, end)[0]
    known = names.get(name.lower())
    found = [ipaddress.ip_address(a).packed for a in known or []
             if TYPES["AAAA" if ":" in a else "A"] == kind]
    # QR, RD and RA; AA is left to servers of the zone.
    flags = 0x8180 | (0 if known else 3)
    head = query[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0)
    return head + query[12:end + 4] + b"".join(
        struct.pack("!HHHIH", 0xC00C, kind, 1, 5, len(a)) + a for a in found)
def udp(s):
    while True:
        query, source = s.recvfrom(4096)
        print("asked by", source[0], flush=True)
        s.sendto(answer(query), source)
def tcp_one(c):
    with c:
        c.settimeout(10)
        text = answer(read_message(c))
        c.sendall(struct.pack("!H", len(text)) + text)
def tcp(s):
    s.listen(16)
    while True:
        c, source = s.accept()
        print("asked by", source[0], flush=True)
        threading.Thread(target=tcp_one, args=(c,), daemon=True).start()
for address in sys.argv[2:]:
    for kind, function in (("udp", udp), ("tcp", tcp)):
        s = socket_to(address, kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((address, 53))
        threading.Thread(target=function, args=(s,)).start()
print("serving", flush=True)
"""

_CLIENT = _COMMON + """
kind, server, name = sys.argv[1:4]
found = []
for word, number in TYPES.items():
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\\0"
    query = struct.pack("!HHHHHH", 4711, 0x0100, 1, 0, 0, 0) + labels + struct.pack(
        "!HH", number, 1)
    with socket_to(server, kind) as s:
        s.settimeout(4)
        s.connect((server, 53))
        if kind == "udp":
            s.send(query)
            data = s.recv(4096)
        else:
            s.sendall(struct.pack("!H", len(query)) + query)
            data = read_message(s)
    _, flags, _, count = struct.unpack_from("!HHHH", data)
    if flags & 15:
        sys.exit("NXDOMAIN" if flags & 15 == 3 else f"RCODE {flags & 15}")
    at = name_at(data, 12)[1] + 4
    for _ in range(count):
        size = struct.unpack_from("!H", data, at + 10)[0]
        found.append(str(ipaddress.ip_address(data[at + 12:at + 12 + size])))
        at += 12 + size
print(json.dumps(found))
"""


class NameServer:
    """In the network of `path`, at these addresses, until the lab ends. names: each
    with its addresses."""

    def __init__(self, lab: Lab, path: pathlib.Path, addresses: list[str],
                 names: dict[str, list[str]]):
        self._process = Process(lab, "dns", ["nsenter", f"--net={path}", "/usr/bin/python3",
                                             "-c", _SERVER, json.dumps(names), *addresses])
        self._process.wait_for_log("serving", 10)

    def askers(self) -> set[str]:
        """Addresses of those who asked, as it saw them."""
        return {line.split()[-1] for line in self._process.log().splitlines()
                if line.startswith("asked by")}


def resolve(path: pathlib.Path, kind: str, server: str, name: str) -> list[str]:
    """All addresses of a name, asked from the network of `path` over `kind`, udp or
    tcp; LabError says why there are none."""
    result = subprocess.run(
        ["nsenter", f"--net={path}", "/usr/bin/python3", "-c", _CLIENT, kind, server, name],
        capture_output=True, text=True, timeout=30)
    if result.returncode != 0:
        raise LabError(f"{name} by {kind} from {server}: "
                       f"{(result.stderr.strip().splitlines() or ['no words'])[-1]}")
    return json.loads(result.stdout)
