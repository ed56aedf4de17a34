"""One question, one answer, over UDP: who could reach whom, and as whom."""

import json

from lab.namespace import Namespace

_SERVER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
print("serving", flush=True)
while True:
    data, source = s.recvfrom(65536)
    print("asked by", source[0], flush=True)
    s.sendto(source[0].encode() + b" " + str(len(data)).encode(), source)
"""
_CLIENT = """
import json, socket, sys
address, port, size, source, wait = sys.argv[1:6]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(float(wait))
answer = None
try:
    if source != "-":
        s.bind((source, 0))
    s.connect((address, int(port)))
    s.send(b"?" * int(size))
    answer = s.recv(65536).decode()
except OSError as error:
    print(error, file=sys.stderr)
print(json.dumps(answer))
"""


class Echo:
    """Answers on that address until the lab ends; `asked` counts the questions,
    answered or not."""

    def __init__(self, namespace: Namespace, address: str, port: int):
        self.address, self.port = address, port
        self._process = namespace.start(
            f"echo-{namespace.suffix}-{address.replace(':', '.')}-{port}",
            ["/usr/bin/python3", "-c", _SERVER, address, port])
        self._process.wait_for_log("serving", 10)

    @property
    def asked(self) -> int:
        return self._process.log().count("asked by")

    def stop(self) -> None:
        self._process.kill()


def ask(namespace: Namespace, address: str, port: int, *, size: int = 32,
        source: str = "-", wait: float = 2) -> str | None:
    """The address that the question came from, as its answerer saw it; None when
    no answer came."""
    answer = json.loads(namespace.run(
        ["/usr/bin/python3", "-c", _CLIENT, address, port, size, source, wait]).stdout)
    if answer is None:
        return None
    seen, _, length = answer.partition(" ")
    assert int(length) == size
    return seen
