"""One TCP transfer between two namespaces, checked octet by octet."""

import time

from lab.errors import LabError
from lab.namespace import Namespace

PORT = 5201

# Both ends derive the octets from a counter, so that a lost, doubled or swapped
# block changes the digest. The receiver prints its digest.
_COMMON = """
import hashlib, socket, sys
address, port, blocks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
digest = hashlib.sha256()
"""
_RECEIVER = _COMMON + """
s = socket.socket(family)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((address, port))
s.listen(1)
print("listening", flush=True)
c, _ = s.accept()
while data := c.recv(1 << 20):
    digest.update(data)
print("digest", digest.hexdigest(), flush=True)
"""
_SENDER = _COMMON + """
s = socket.create_connection((address, port), timeout=15)
s.settimeout(60)
for number in range(blocks):
    block = hashlib.sha256(number.to_bytes(8, "big")).digest() * 2048
    digest.update(block)
    s.sendall(block)
s.shutdown(socket.SHUT_WR)
s.recv(1)
print(digest.hexdigest())
"""
BLOCK = 32 * 2048


def tcp_transfer(sender: Namespace, receiver: Namespace, address: str,
                 megabytes: int = 64, port: int = PORT) -> float:
    """Sends to `address`, which the receiver has. Returns the seconds taken;
    an error when not every octet arrived as it was sent."""
    words = [address, port, megabytes * (1 << 20) // BLOCK]
    server = receiver.start(f"receiver-{receiver.suffix}-{port}-{time.monotonic_ns()}",
                            ["/usr/bin/python3", "-c", _RECEIVER, *words])
    server.wait_for_log("listening", 10)
    begin = time.monotonic()
    sent = sender.run(["/usr/bin/python3", "-c", _SENDER, *words], timeout=180).stdout.strip()
    seconds = time.monotonic() - begin
    if server.wait(10) != 0:
        raise LabError(f"the receiver failed; log {server.log_path}:\n{server.tail()}")
    got = server.log().split()[-1]
    if got != sent:
        raise LabError(f"the transfer to {address} arrived changed: {got} is not {sent}")
    return seconds
