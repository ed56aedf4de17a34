"""What is `required` never leaves in plaintext: each event happens while packets
flow from and to the victims' pods in both families, and the witness on the wire
sees none outside ESP (DESIGN 1.2). lab/events.py has the table, lab/matrix.py
what is asserted of each row, its control included."""

import pytest

from lab.events import EVENTS
from lab.matrix import run_event
from lab.scene import Scene, Stage


@pytest.fixture(scope="module")
def stage():
    stage = Stage("fail-closed", lambda lab: Scene(lab, {"node-a": {}}))
    yield stage
    stage.close()


@pytest.fixture
def scene(stage, request):
    yield stage.scene()
    stage.judge(request.node.lab_reports)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_no_plaintext(scene, event):
    run_event(scene, event)
