"""Flows of numbered UDP packets that go on while a test does something to the
nodes, and whose receivers say which numbers never came (lab-traffic)."""

import dataclasses
import time

from lab.errors import LabError
from lab.namespace import Namespace
from lab.session import Lab, wait_until
from lab.tool import Tool

DRAIN_SECONDS = 1.0  # the longest that a packet is under way


@dataclasses.dataclass
class Count:
    """Of one flow, since it began."""
    sent: int
    received: int
    missing: int
    doubled: int
    foreign: int  # at the receiver's port, from somebody else
    refused: int  # by the sender's own kernel; not among those sent
    source: str  # as the receiver sees the sender
    gap_count: int
    gaps: list  # [first number, how many, when it was sent]


class Traffic:
    """All flows of a lab. `tick`: microseconds between two rounds of sending."""

    def __init__(self, lab: Lab, *, tick: int = 1000):
        self._tool = Tool(lab, "lab-traffic", "--tick", tick)
        self._port = 20000
        self.ports: dict[str, int] = {}
        self.rates: dict[str, float] = {}

    def flow(self, name: str, source: Namespace, source_address: str,
             receiver: Namespace, to: str, *, rate: float = 500, size: int = 100,
             to_port: int | None = None, listen: str | None = None) -> str:
        """From `source` to the address `to`, counted in `receiver`. Where `to`
        is translated on the way, `to_port` and `listen` tell the two apart."""
        self._port += 1
        self.ports[name], self.rates[name] = self._port, rate
        self._tool.ask("flow", name, source.path, source_address, to,
                       to_port or self._port, receiver.path, listen or to, self._port,
                       rate, size)
        return name

    def both_ways(self, name: str, a, b, *, rate: float = 500, size: int = 100) -> list[str]:
        """Four flows between two pods: each way, each family."""
        names = []
        for source, target, way in ((a, b, "out"), (b, a, "in")):
            for family in (4, 6):
                names.append(self.flow(
                    f"{name}-{way}{family}", source.namespace,
                    getattr(source, f"ipv{family}"), target.namespace,
                    getattr(target, f"ipv{family}"), rate=rate, size=size))
        return names

    def remove(self, name: str) -> None:
        self._tool.ask("remove", name)
        self.rates.pop(name, None)

    def counts(self) -> dict[str, Count]:
        return {name: Count(**fields) for name, fields in self._tool.ask("stats").items()}

    def pause(self, names=None) -> dict[str, Count]:
        """Ends the sending, waits for what is under way; what is missing then
        is lost."""
        for name in names or self.rates:
            self._tool.ask("rate", name, 0)
        time.sleep(DRAIN_SECONDS)
        return self.counts()

    def resume(self, names=None) -> None:
        for name in names or self.rates:
            self._tool.ask("rate", name, self.rates[name])

    def wait_for_flow(self, names=None, packets: int = 50, seconds: float = 30) -> None:
        """Until so many more packets of each flow have arrived."""
        names = list(names or self.rates)
        before = self.counts()
        def more():
            now = self.counts()
            return all(now[name].received >= before[name].received + packets
                       for name in names)
        try:
            wait_until(more, seconds, f"{packets} more packets of every flow")
        except LabError as error:
            now = self.counts()
            raise LabError(f"{error}; arrived: " + ", ".join(
                f"{name} {now[name].received - before[name].received}"
                for name in names)) from None
