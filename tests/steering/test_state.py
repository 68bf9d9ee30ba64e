"""What a resumed run goes on with, written down while the run goes on."""

import json
import math

import pytest

from trimtab.actions import ScaleLearningRate
from trimtab.guard import Guard
from trimtab.sample.meter import Meter
from trimtab.steering import control
from trimtab.steering import state as steering_state
from trimtab.steering.state import SteeringState
from trimtab.types import Adjustment, Step

ADJUSTED = Adjustment(ts=0.0, step=1, policy="p", action="skip_step", outcome="applied")
RECORD = Step(ts=0.0, step=1)


class Controller:
    """Counts how often its state was asked for."""

    def __init__(self):
        self.asked = 0

    def state(self):
        self.asked += 1
        return {"asked": self.asked}

    def restore(self, state):
        self.asked = state["asked"]


@pytest.fixture
def controller():
    return Controller()


@pytest.fixture
def run(watching):
    with watching() as seen:
        yield seen.run.info


@pytest.fixture
def meter():
    return Meter()


@pytest.fixture
def state(run, controller, meter):
    return SteeringState(run, controller, Guard(lambda *said: None), meter)


def test_scale_is_on_disk_with_the_next_record_after_an_adjustment(watching, training, monkeypatch):
    monkeypatch.setattr(control, "INTERVAL_S", 0.0)
    with watching(act=False) as seen:
        training.steps(2)
        control.send(seen.run.directory, seen.run.id, "adjust", [ScaleLearningRate(0.5)])
        training.steps(4)
        written = json.loads((seen.run.directory / "steering.json").read_text())
    assert 0.5 in written["steering"]["0"]["learning_rate"].values()


def test_state_is_written_once_for_what_was_adjusted_since(state, controller, monkeypatch):
    monkeypatch.setattr(steering_state, "SHARE", math.inf)  # as if there were time between the records
    for event in (RECORD, ADJUSTED, ADJUSTED, RECORD, RECORD, RECORD):
        state.follow(event)
    assert controller.asked == 1


def test_state_that_changes_with_every_step_is_written_seldom(state, controller):
    for _ in range(20):
        state.follow(ADJUSTED)
        state.follow(RECORD)
    assert controller.asked < 10  # a thousandth of the time


def test_writing_counts_as_overhead(state, meter):
    state.follow(ADJUSTED)
    state.follow(RECORD)
    assert meter.seconds > 0.0


def test_resumed_run_goes_on_from_it_and_says_nothing(state, run, controller, meter):
    state.write()
    other = Controller()
    assert SteeringState(run, other, Guard(lambda *said: None), meter).resume() == []
    assert other.asked == controller.asked == 1
