"""What a resumed run goes on with, written down while the run goes on."""

import contextlib
import dataclasses
import json
import math

import pytest
from controller_training import Training

import trimtab
from trimtab import watchdog
from trimtab.actions import ClipGradients, ScaleLearningRate
from trimtab.errors import ConfigError
from trimtab.guard import Guard
from trimtab.sample.meter import Meter
from trimtab.steering import control
from trimtab.steering import state as steering_state
from trimtab.steering.state import SteeringState
from trimtab.testing import RecordingBackend, sample_step
from trimtab.types import Adjustment, Alert, Notice, Step

ADJUSTED = Adjustment(ts=0.0, step=1, policy="p", action="skip_step", outcome="applied")
RECORD = Step(ts=0.0, step=1)


class Controller:
    """Counts how often its state was asked for."""

    def __init__(self):
        self.asked = 0
        self.is_under_way = False

    def state(self):
        self.asked += 1
        return {"asked": self.asked}

    def restore(self, state):
        self.asked = state["asked"]


def on_disk(seen):
    return json.loads((seen.run.directory / "steering.json").read_text())


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
        written = on_disk(seen)
    assert 0.5 in written["steering"]["0"]["learning_rate"].values()


@pytest.mark.parametrize("action", [ScaleLearningRate(0.5, ramp=8), ClipGradients(0.01, steps=8)])
def test_what_is_under_way_is_on_disk_as_far_as_it_has_gone(watching, training, monkeypatch, action):
    monkeypatch.setattr(steering_state, "SHARE", math.inf)
    once = trimtab.Rule("once", signal=lambda loss: 1.0, threshold=0.5)
    policy = trimtab.Policy(on="once", ladder=[action], budget=1)
    with watching(act="process", rules=[once], policies=[policy]) as seen:
        training.step()
        for _ in range(12):
            training.step()
            assert on_disk(seen)["steering"] == seen.run.state_dict()["steering"]


def test_what_is_under_way_when_a_run_is_resumed_is_on_disk_as_far_as_it_has_gone(watching, training, monkeypatch):
    monkeypatch.setattr(steering_state, "SHARE", math.inf)
    once = trimtab.Rule("once", signal=lambda loss: 1.0, threshold=0.5)
    policy = trimtab.Policy(on="once", ladder=[ScaleLearningRate(0.5, ramp=8)], budget=1)
    with watching(act="process", rules=[once], policies=[policy]):
        training.steps(3)
    with watching(act="process", policies=[], resume=True) as seen:
        training.steps(3)
        assert on_disk(seen)["steering"] == seen.run.state_dict()["steering"]


def test_episode_that_nothing_was_done_about_is_on_disk(watching, training, monkeypatch):
    monkeypatch.setattr(steering_state, "SHARE", math.inf)
    always = trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5)
    with watching(act="process", rules=[always], policies=[]) as seen:
        training.steps(3)
        assert on_disk(seen)["judge"]["0"]["always"] == 1


def test_state_that_a_run_is_given_is_on_disk_with_the_next_record(steered, watching, training):
    given = json.loads(steered[2])
    with watching(act="process", policies=[]) as seen:
        seen.run.load_state_dict(given)
        training.steps(2)
        written = on_disk(seen)
    assert (written["steering"], written["engine"]["accounts"]["spent"]) == (given["steering"], [["once", "0", 1]])


CLIP = {"max_norm": None, "remaining": 1, "harmless": False, "usual": None}
SPOILT = {
    "a negative scale": ("steering", "0", "learning_rate", "target", -1.0),
    "a scale that is no number": ("steering", "0", "learning_rate", "start", math.nan),
    "an infinite scale": ("steering", "0", "learning_rate", "target", math.inf),
    "a ramp without end": ("steering", "0", "learning_rate", "ramp", 10**400),
    "a ceiling beyond all numbers": ("engine", "rates", "creeping", "0", "ceiling", 10**400),
    "a ramp that began before it was asked for": ("steering", "0", "learning_rate", "done", -(10**18)),
    "a negative decay": ("steering", "0", "weight_decay", "scale", -1.0),
    "a decay in words": ("steering", "0", "weight_decay", "much"),
    "a negative norm": ("steering", "0", "clip", {**CLIP, "max_norm": -1.0}),
    "a decay that begins below 0": ("steering", "0", "weight_decay", "from_zero", -1.0),
    "clipping without end": ("steering", "0", "clip", {**CLIP, "remaining": math.inf}),
    "a norm in words": ("steering", "0", "clip", {**CLIP, "usual": "much"}),
    "clipping that is over": ("steering", "0", "clip", {**CLIP, "remaining": 0}),
    "clipping in a word": ("steering", "0", "clip", True),
    "no dropout at all": ("steering", "0", "dropout", 1.0),
    "a scale to go back to that is negative": ("engine", "rates", "creeping", "0", "home", -1.0),
    "a time in words": ("engine", "rates", "seen", "0", "late"),
    "a budget in words": ("engine", "accounts", "spent", [["once", "0", "much"]]),
    "a cooldown in words": ("engine", "accounts", "cooling", [["once", "0", "long"]]),
    "a gap in words": ("engine", "gap", "wide"),
    "episodes in words": ("judge", "0", "once", "many"),
    "an alert in words": ("alerts", ["alert"]),
    "nothing steered": ("steering", None),
}


def spoil(state, *path):
    *way, last, value = path
    for key in way:
        state = state[key]
    state[last] = value


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    """Options of a run, and the state that it left on disk: a policy has lowered its rate."""
    once = trimtab.Rule("once", signal=lambda loss: 1.0, threshold=0.5)
    policy = trimtab.Policy(on="once", ladder=[ScaleLearningRate(0.5)], budget=1)
    options = {"run": "test", "directory": tmp_path_factory.mktemp("runs"), "gradients_every": 1, "act": "process"}
    with trimtab.watch(**options, backends=["jsonl"], rules=[once], policies=[policy]) as run:
        Training().steps(5)
    return options, run.directory / "steering.json", (run.directory / "steering.json").read_text()


@pytest.mark.parametrize("case", SPOILT)
def test_state_that_says_nonsense_anywhere_is_told_and_nothing_of_it_is_taken(steered, case):
    options, place, written = steered
    state = json.loads(written)
    spoil(state, *SPOILT[case])
    place.write_text(json.dumps(state))
    webhook = place.parent / "token"
    webhook.write_text("0123456789abcdef0123456789abcdef")
    webhook.chmod(0o600)
    backend = RecordingBackend()
    with trimtab.watch(**options, resume=True, backends=[backend], webhook_token_file=webhook, policies=[]) as run:
        taken = run.state_dict()
        Training().steps(3)
    assert any("budgets and cooldowns begin anew" in notice.text for notice in backend.of(Notice))
    assert (taken["steering"], taken["judge"], taken["engine"]["rates"]["creeping"]) == ({}, {}, {})
    assert {step.learning_rate[0] for step in backend.of(Step)} == {0.05}


def test_run_that_is_given_nonsense_to_go_on_from_goes_on_from_where_it_is(watching, training):
    with watching(act="process") as seen:
        training.steps(3)
        before = seen.run.state_dict()
        with pytest.raises(ConfigError, match="no state of a run"):
            seen.run.load_state_dict({**before, "steering": {"0": {}}, "engine": {**before["engine"], "paused": True}})
        assert seen.run.state_dict() == before


@pytest.mark.parametrize("spoilt", [{}, {"steering": {"0": {}}}])
def test_what_fires_when_a_state_is_given_is_answered_all_the_same(watching, training, spoilt):
    """Whether the state was one or not."""
    always = trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5)
    policies = [trimtab.Policy(on="always", ladder=[ScaleLearningRate(0.5)], cooldown=10)]
    with watching(act="process", rules=[always], policies=policies) as seen:
        training.steps(4)  # it fires again, and waits for the cooldown
        with pytest.raises(ConfigError) if spoilt else contextlib.nullcontext():
            seen.run.load_state_dict({**seen.run.state_dict(), **spoilt})
        training.steps(10)
        assert [a.step for a in seen.run.adjustments] == [1, 11]


@pytest.mark.parametrize("case", ["a ramp without end", "a ceiling beyond all numbers"])
def test_run_that_is_given_a_number_too_large_to_reckon_with_goes_on_from_where_it_is(steered, watching, case):
    state = json.loads(steered[2])
    spoil(state, *SPOILT[case])
    with watching(act="process") as seen, pytest.raises(ConfigError, match="OverflowError"):
        seen.run.load_state_dict(state)


def test_state_is_written_once_for_what_was_adjusted_since(state, controller, monkeypatch):
    monkeypatch.setattr(steering_state, "SHARE", math.inf)  # as if there were time between the records
    for event in (RECORD, ADJUSTED, ADJUSTED, RECORD, RECORD, RECORD):
        state.follow(event)
    assert controller.asked == 1


def test_state_that_found_no_room_is_written_with_a_later_record(state, run, monkeypatch):
    def no_room(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(steering_state, "SHARE", math.inf)
    monkeypatch.setattr("trimtab.guard.reraise", False)
    state.follow(ADJUSTED)
    with monkeypatch.context() as full:
        full.setattr("trimtab.renaming.put", no_room)
        state.follow(RECORD)
    state.follow(dataclasses.replace(RECORD, step=2))
    assert (run.directory / "steering.json").exists()


def test_state_is_not_written_between_an_alert_and_what_is_done_about_it(state, controller):
    alert = Alert(ts=0.0, step=2, rule="loss_spike", episode=1, state="firing", severity="warning")
    for event in (alert, sample_step(2), ADJUSTED):
        state.follow(event)
    assert controller.asked == 0
    state.follow(sample_step(3))
    assert controller.asked == 1


def test_state_is_written_though_there_is_an_alert_at_every_step(state, controller):
    for step in range(2, 6):
        state.follow(Alert(ts=0.0, step=step, rule="loss_spike", episode=step, state="firing", severity="warning"))
        state.follow(sample_step(step))
    assert controller.asked > 0


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


def test_episodes_of_the_watchdog_are_numbered_on_in_a_resumed_run(watching, training, monkeypatch):
    monkeypatch.setattr(watchdog, "FIRST_STEP_S", 1e-9)
    numbered = []
    for resume in (False, True):
        with watching(run="test", resume=resume) as seen:
            seen.run._watchdog.look()
            training.steps(3)
        numbered += [(alert.state, alert.episode) for alert in seen.backend.of(Alert) if alert.rule == "run_hung"]
        assert on_disk(seen)["judge"][""]["run_hung"] == len(numbered)
    assert numbered == [("firing", 1), ("firing", 2)]
