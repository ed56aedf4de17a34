"""Who reaches whom, as whom and with how many octets, over UDP and TCP: a
server that sends back what came and says where from, and its questions."""

import dataclasses
import json
import pathlib
import subprocess

from lab.errors import LabError
from lab.process import Process
from lab.session import Lab

PORT = 7000
LEAST = 64  # room for an address in the answer

_SERVER = """
import socket, sys, threading
port = int(sys.argv[1])
def answer(source, data):
    return source[0].encode().ljust(64) + data[64:]
def udp(s):
    while True:
        data, source = s.recvfrom(65536)
        print("asked by", source[0], flush=True)
        try:
            s.sendto(answer(source, data), source)
        except OSError as error:
            print(error, flush=True)
def tcp_one(c, source):
    print("asked by", source[0], flush=True)
    with c:
        c.settimeout(20)
        data = b""
        try:
            while part := c.recv(1 << 20):
                data += part
            c.sendall(answer(source, data))
        except OSError as error:
            print(error, flush=True)
def tcp(s):
    s.listen(64)
    while True:
        threading.Thread(target=tcp_one, args=s.accept(), daemon=True).start()
threads = []
for address in sys.argv[2:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind, function in ((socket.SOCK_DGRAM, udp), (socket.SOCK_STREAM, tcp)):
        s = socket.socket(family, kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((address, port))
        threads.append(threading.Thread(target=function, args=(s,)))
for thread in threads:
    thread.start()
print("serving", flush=True)
"""

# A UDP question may be lost once to each packet-too-big on its way.
_CLIENT = """
import concurrent.futures, json, os, socket, sys
def udp(s, data):
    s.settimeout(0.8)
    for _ in range(4):
        try:
            s.send(data)
            return s.recv(65536)
        except OSError:
            pass
    return b""
def tcp(s, data):
    s.settimeout(8)
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    got = b""
    while part := s.recv(1 << 20):
        got += part
    return got
def ask(job):
    kind, address, port, size = job
    data = os.urandom(size)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM if kind == "udp"
                           else socket.SOCK_STREAM) as s:
            s.settimeout(4)
            s.connect((address, port))
            got = (udp if kind == "udp" else tcp)(s, data)
    except OSError as error:
        print(job, error, file=sys.stderr)
        return None
    if not got:
        return None
    return got[:64].decode().strip() if got[64:] == data[64:] else "damaged"
jobs = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
    print(json.dumps(list(pool.map(ask, jobs))))
"""


@dataclasses.dataclass(frozen=True)
class Question:
    kind: str  # udp or tcp
    address: str
    port: int = PORT
    size: int = LEAST


class Answerer:
    """In the network of `path`, at these addresses, until the lab ends."""

    def __init__(self, lab: Lab, name: str, path: pathlib.Path, addresses: list[str],
                 port: int = PORT):
        self._process = Process(lab, f"answerer-{name}-{port}",
                                ["nsenter", f"--net={path}", "/usr/bin/python3", "-c",
                                 _SERVER, port, *addresses])
        self._process.wait_for_log("serving", 10)

    @property
    def asked(self) -> int:
        """How often, answered or not."""
        return self._process.log().count("asked by")


def ask(path: pathlib.Path, questions: list[Question]) -> list[str | None]:
    """All at once, from the network of `path`. Of each: the address that it came
    from as its answerer saw it, or None when no answer came."""
    jobs = [(q.kind, q.address, q.port, q.size) for q in questions]
    result = subprocess.run(["nsenter", f"--net={path}", "/usr/bin/python3", "-c", _CLIENT,
                             json.dumps(jobs)], capture_output=True, text=True, timeout=60)
    if result.returncode != 0:
        raise LabError(f"questions from {path}: {result.stderr.strip()[-1500:]}")
    return json.loads(result.stdout)
