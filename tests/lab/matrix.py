"""A table of events, each done to a scene whose traffic never stops. What the
witness saw during one event is that event's verdict."""

import dataclasses
import os
import time
from collections.abc import Callable

from lab.errors import LabError
from lab.scene import Scene, growth
from lab.session import wait_until
from lab.witness import Seen

STOPS, CONTINUES, EITHER = "stops", "continues", "either"
# An emulated processor that others share pauses for longer than a second.
HOLD = 3.0 if "ESPALIER_GUEST" in os.environ else 1.0


def nothing(scene: Scene) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Event:
    name: str
    do: Callable[[Scene], object]
    undo: Callable[[Scene], object] = nothing
    # What becomes of the packets from the victims' pods, and of those to them.
    out: str = STOPS
    back: str = STOPS
    # Look while the event lasts, and when all is well again: was it noticed,
    # made good, reported?
    check: Callable[[Scene], object] = nothing
    after: Callable[[Scene], object] = nothing
    hold: float = HOLD  # seconds of traffic, once the expectation holds
    recovers: float = 30.0  # within so many seconds after undo


@dataclasses.dataclass
class Row:
    event: str
    sent: dict[str, int]
    received: dict[str, int]
    seen: Seen
    controls: int
    recovered: float

    def __str__(self) -> str:
        return (f"{self.event:<46} sent {sum(self.sent.values()):>6} arrived "
                f"{sum(self.received.values()):>6} plaintext "
                f"{self.seen.get('plaintext', 4)}+{self.seen.get('plaintext', 6)} "
                f"controls {self.seen.get('control', 4)}+{self.seen.get('control', 6)} "
                f"unguarded {self.seen.get('unguarded', 4)}+"
                f"{self.seen.get('unguarded', 6)}, flows again after "
                f"{self.recovered:.1f} s")


def _wait_until_still(scene: Scene, names: list[str], seconds: float = 20) -> None:
    """Until nothing of those flows arrives any more."""
    if not names:
        return
    def still():
        before = scene.traffic.counts()
        time.sleep(0.3)
        after = scene.traffic.counts()
        return all(growth(before, after, name)[1] == 0 for name in names)
    wait_until(still, seconds, "the flows stop: " + " ".join(names))


def run_event(scene: Scene, event: Event) -> Row:
    traffic = scene.traffic
    traffic.wait_for_flow(packets=20)
    before = scene.witness.seen()
    event.do(scene)
    stopped = [name for way, verdict in (("out", event.out), ("in", event.back))
               if verdict == STOPS for name in scene.all_flows([way])]
    flowing = [name for way, verdict in (("out", event.out), ("in", event.back))
               if verdict == CONTINUES for name in scene.all_flows([way])]
    _wait_until_still(scene, [n for n in stopped if n in traffic.rates])
    begin = traffic.counts()
    time.sleep(event.hold)
    controls = scene.send_controls()
    end = traffic.counts()
    event.check(scene)
    event.undo(scene)
    undone = time.monotonic()
    traffic.wait_for_flow(packets=20, seconds=event.recovers)
    recovered = time.monotonic() - undone
    event.after(scene)
    seen = scene.witness.seen().since(before)
    both = [name for name in begin if name in end and name in traffic.rates]
    sent = {name: growth(begin, end, name)[0] for name in both}
    received = {name: growth(begin, end, name)[1] for name in both}
    row = Row(event.name, sent, received, seen, controls, recovered)
    print(row, flush=True)
    _judge(event, row, stopped, flowing)
    return row


def _judge(event: Event, row: Row, stopped: list[str], flowing: list[str]) -> None:
    """Both families, each by itself; asserts so that pytest shows the row."""
    for family in (4, 6):
        assert row.seen.get("plaintext", family) == 0, (
            event.name, family, row.seen.violations)
        assert row.seen.get("control", family) == row.controls > 0, (
            event.name, "the witness is blind", row.seen.counts)
        assert row.seen.get("unguarded", family) >= 10, (
            event.name, "nothing leaks where nothing guards", row.seen.counts)
    for name, count in row.sent.items():
        # Else nothing was there that could have leaked.
        assert count > 0, (event.name, name, "sent nothing")
    assert not [name for name in stopped if row.received.get(name)], (event.name, row.received)
    assert not [name for name in flowing
                if row.received[name] < row.sent[name] // 2], (event.name, row.received)


def check_names(events: list[Event]) -> list[Event]:
    names = [event.name for event in events]
    if len(set(names)) != len(names):
        raise LabError("two events with one name")
    return events
