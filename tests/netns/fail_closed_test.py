"""What is `required` never leaves in plaintext: each event happens while packets
flow from and to the victims' pods in both families, and the witness on the wire
sees none outside ESP (DESIGN 1.2). lab/events.py has the table, lab/matrix.py
what is asserted of each row, its controls included.

Each event happens to three nodes at once: one with both guards, one with eBPF
alone, one with nftables alone. The label guest has the events that differ over the
kernel datapath."""

import pytest

from lab.events import EVENTS, GUARD_EVENTS
from lab.matrix import run_event
from lab.node import default_driver
from lab.scene import Scene, Stage

VICTIMS = {"node-a": {}, "node-bpf": {"guard": {"nftables": "off"}},
           "node-nft": {"guard": {"bpf": "off"}}}


def make(lab):
    # ESP in UDP over the user datapath, protocol 50 over the kernel's.
    return Scene(lab, VICTIMS, plain=True, udp=default_driver() == "user")


@pytest.fixture(scope="module")
def stage():
    stage = Stage("fail-closed", make)
    yield stage
    stage.close()


@pytest.fixture
def scene(stage, request):
    yield stage.scene()
    stage.judge(request.node.lab_reports)


@pytest.mark.parametrize("event", [*EVENTS, *GUARD_EVENTS], ids=lambda event: event.name)
def test_no_plaintext(scene, event):
    run_event(scene, event)
