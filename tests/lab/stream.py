"""Pings that go on while a test does something to the tunnel."""

import re
import signal

from lab.errors import LabError
from lab.namespace import Namespace


class PingStream:
    """with PingStream(pod.namespace, address) as stream: ...; afterwards
    stream.lost names the sequence numbers that had no answer."""

    def __init__(self, namespace: Namespace, address: str, *, interval: float = 0.02):
        self.address = address
        self.sent = 0
        self.answered: set[int] = set()
        self.lost: set[int] = set()
        self._process = namespace.start(
            f"ping-{namespace.suffix}-{address.replace(':', '.')}-{id(self):x}",
            ["ping", "-n", "-i", interval, address])

    def __enter__(self) -> "PingStream":
        return self

    def __exit__(self, kind, value, traceback) -> None:
        self._process.signal(signal.SIGINT)
        self._process.wait(10)
        log = self._process.log()
        summary = re.search(r"(\d+) packets transmitted", log)
        if not summary:
            raise LabError(f"ping {self.address}: {self._process.tail()}")
        self.sent = int(summary[1])
        self.answered = {int(n) for n in re.findall(r"bytes from .*icmp_seq=(\d+)", log)}
        # The last request may have been on its way when ping was stopped.
        self.lost = set(range(1, self.sent)) - self.answered

    def answers(self) -> int:
        return self._process.log().count("bytes from")

    def wait_for_more(self, count: int = 10, seconds: float = 20) -> None:
        """Until so many more answers have come."""
        target = self.answers() + count
        self._process.wait_for(lambda: self.answers() >= target, seconds,
                               f"{count} more answers from {self.address}")
