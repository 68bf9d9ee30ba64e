"""An ordinary step takes the lane. What it says is what the long way says, however the loop leaves the ordinary."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from kinds_of_loops import (
    LOOPS,
    STEPS,
    Loop,
    clipped,
    groups_of_parameters,
    on_and_on,
    rate_that_falls,
    regression,
    stream_without_length,
    written_by_hand,
    written_by_hand_for_batches,
)
from torch.utils.data import DataLoader

import trimtab
import trimtab.actions
from trimtab.actuators.steering import Steering
from trimtab.actuators.step_controls import StepControls
from trimtab.capture import attribution
from trimtab.capture.lane import OUT, Lane
from trimtab.capture.origins import Origins
from trimtab.sample import books, chance, meter, pace, spacing
from trimtab.sample.ledger import Ledger
from trimtab.types import Epoch, Metric

USUAL = [
    on_and_on,
    rate_that_falls,
    groups_of_parameters,
    clipped,
    regression,
    written_by_hand,
    written_by_hand_for_batches,
    stream_without_length,
]
TIMES = (7, 8)  # of a row: the step's seconds, and those of waiting


@pytest.fixture(autouse=True)
def soon_warm(monkeypatch):
    """The lane is entered after a few steps."""
    monkeypatch.setattr(attribution, "WARM_UP_WALKS", 2)
    monkeypatch.setattr(spacing, "WARM_UP_STEPS", 4)


@pytest.fixture(params=["a record a step", "some steps timed"])
def way(request, monkeypatch, one_record_a_step):
    """What comes in between. Every third step is looked at. No rule ends a record at a moment that the clock picks."""
    look_often(monkeypatch)
    monkeypatch.setattr(pace, "WATCHED_EVERY_S", 60.0)
    if request.param != "a record a step":
        monkeypatch.setattr(books, "RECORD_INTERVAL_S", 60.0)
        monkeypatch.setattr(meter, "TIMED_EVERY", 5)


def look_often(monkeypatch):
    """At predictions of every third call, and count labels of every fourth, whatever the clock says."""
    begin = pace.Pace.__init__

    def begin_often(self, *args):
        begin(self, *args)
        self.accuracy = spacing.Spacing(1.0, 3)

    monkeypatch.setattr(pace.Pace, "__init__", begin_often)
    monkeypatch.setattr(chance, "FIRST", 2)
    monkeypatch.setattr(chance, "THEN_EVERY", 4)


@pytest.fixture
def seldom_looked_at(monkeypatch):
    """How often predictions are looked at does not depend on what a busy machine makes of their cost."""
    monkeypatch.setattr(pace, "ACCURACY_SHARE", 0.0)


@pytest.fixture
def taken(monkeypatch, seldom_looked_at):
    """Counts the steps that took the lane."""
    steps, catch_up = [], Lane._catch_up

    def counting(lane):
        steps.extend(lane.rows[lane._base :])
        catch_up(lane)

    monkeypatch.setattr(Lane, "_catch_up", counting)
    return steps


@pytest.fixture
def rows(monkeypatch):
    """All that is written of steps, but their times and gradients."""
    found, cut, add = [], Ledger.cut, chance.Chance.add

    def keeping(ledger, ts, *place):
        values = [tuple(v for i, v in enumerate(row) if i not in TIMES) for row in ledger.rows]
        rates = [float(rate) for rate in ledger.learning_rate]
        decays = [group.get("weight_decay") for group in ledger.groups]
        norms, skipped = list(ledger.preclip_norms), dict(ledger.newly_skipped)
        found.append((ledger.label, values, rates, decays, norms, skipped, list(ledger.predictions), place))
        return cut(ledger, ts, *place)

    def counting(known, labels):
        found.append((labels.wanted.tolist(), labels.labels))
        add(known, labels)

    monkeypatch.setattr(Ledger, "cut", keeping)
    monkeypatch.setattr(chance.Chance, "add", counting)
    return found


def said(seen):
    """What is said of epochs, validation, and what the user logs, but for times and sampled accuracies."""
    for event in seen.backend.events:
        if isinstance(event, Epoch):
            train = event.train
            yield event.epoch, event.step, train.loss, train.criterion, train.samples, repr(event.validation)
        elif isinstance(event, Metric):
            yield event.step, event.values, event.phase
    for step in seen.validations:
        yield step.step, step.epoch, step.steps, step.loss, step.accuracy, step.samples


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_lane_says_what_the_long_way_says(watching, monkeypatch, way, rows, loop):
    with watching(run="lane", gradients_every=1000) as lane:
        loop(Loop())
    in_lane = [repr(row) for row in rows]
    rows.clear()
    monkeypatch.setattr(Lane, "enter", lambda *_: None)
    with watching(run="long", gradients_every=1000) as long:
        loop(Loop())
    assert in_lane == [repr(row) for row in rows]
    assert [repr(each) for each in said(lane)] == [repr(each) for each in said(long)]
    assert lane.end.totals == long.end.totals


def test_steps_that_are_looked_at_stay_in_the_lane_and_are_paid_for(watching, monkeypatch):
    left, paid, noted, hand_over, add = [], [], [], Lane._hand_over, meter.Meter.add
    look_often(monkeypatch)
    monkeypatch.setattr(books, "RECORD_INTERVAL_S", 60.0)
    monkeypatch.setattr(pace, "WATCHED_EVERY_S", 60.0)
    with watching(gradients_every=1000):
        on_and_on(loop := Loop())
        monkeypatch.setattr(Lane, "_hand_over", lambda *args: left.append(args) or hand_over(*args))
        monkeypatch.setattr(meter.Meter, "add", lambda self, seconds: paid.append(seconds) or add(self, seconds))
        monkeypatch.setattr(Origins, "trained_on", lambda _, target: noted.append(target))
        on_and_on(loop)
        assert not left
    assert len(paid) >= STEPS / 3
    assert all(seconds > 0.0 for seconds in paid)
    assert len(noted) >= STEPS / 3
    assert all(target is loop.labels for target in noted)


@pytest.mark.parametrize("loop", USUAL, ids=lambda loop: loop.__name__)
def test_usual_loops_take_the_lane(watching, way, taken, loop):
    with watching(gradients_every=1000) as seen:
        loop(Loop())
    assert len(taken) > 0.5 * seen.run._books.ledgers[0].steps


def test_steps_of_the_lane_are_timed(watching, monkeypatch, seldom_looked_at):
    answers, timed = [], Lane.unhide
    monkeypatch.setattr(Lane, "unhide", lambda *args: answers.append(timed(*args)) or answers[-1])
    monkeypatch.setattr(meter, "TIMED_EVERY", 5)
    with watching(gradients_every=1000):
        on_and_on(Loop())
    hooks = answers.count(True)
    assert hooks >= 8
    assert hooks % 4 == 0  # the loss, its backward, and both of the step


def test_other_threads_get_what_they_ask_for_while_a_hook_is_timed(watching, monkeypatch, taken):
    timed, given = Lane.unhide, []

    def meanwhile(lane, ordinary, *args):
        def elsewhere(*args):
            with ThreadPoolExecutor(1) as other:
                given.append(other.submit(F.mse_loss, torch.ones(2), torch.zeros(2)).result(10.0))
            return ordinary(*args)

        return timed(lane, ordinary if given else elsewhere, *args)

    monkeypatch.setattr(Lane, "unhide", meanwhile)
    monkeypatch.setattr(meter, "TIMED_EVERY", 5)
    with watching(gradients_every=1000):
        regression(Loop())
    assert given == [torch.tensor(1.0)]
    assert taken


def test_fault_in_the_lane_is_told_and_shuts_it(watching, monkeypatch, guarded, taken):
    def fail(*_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Lane, "pause", fail)
    with watching(gradients_every=1000) as seen:
        on_and_on(Loop())
        assert seen.run._capture._lane.awaits is OUT
    assert seen.end.totals["faults"] == {"step post-hook": 1}
    assert len(taken) == 1
    assert any("a fault of ours" in notice for notice in seen.notices)
    assert len(seen.steps()) >= STEPS - 1


def test_training_after_one_whose_halt_was_caught_takes_the_lane(watching, taken):
    rule = trimtab.Rule("bad", signal="logged:bad", threshold=1.0)
    halt = trimtab.Policy(on="bad", ladder=[trimtab.actions.Halt()])
    with watching(act="process", on_halt="unwind", gradients_every=1000, rules=[rule], policies=[halt]):
        on_and_on(halted := Loop())
        trimtab.log(bad=2.0)
        for _ in range(2):
            before = len(taken)
            with pytest.raises(trimtab.HaltTraining):
                on_and_on(halted)
        assert len(taken) == before > STEPS // 2
        del halted
        gc.collect()
        on_and_on(Loop())
        assert len(taken) > before + STEPS // 2


def test_training_is_bit_for_bit_the_same(watching, taken):
    on_and_on(bare := Loop())
    with watching(gradients_every=1000):
        on_and_on(watched := Loop())
    assert len(taken) > STEPS // 2
    assert all(map(torch.equal, bare.model.parameters(), watched.model.parameters()))


def test_lane_holds_nothing_that_the_user_drops(watching, taken):
    with watching(gradients_every=1000):
        loop = Loop()
        on_and_on(loop)
        kept = [weakref.ref(thing) for thing in (loop.model, loop.optimizer)]
        del loop
        gc.collect()
        assert [thing() for thing in kept] == [None, None]
    assert len(taken) > STEPS // 2


def test_model_after_another_is_not_held_by_the_graph_of_its_first_loss(watching, taken):
    with watching(gradients_every=1000):
        for _ in range(3):
            loop = Loop()
            on_and_on(loop)
            kept = [weakref.ref(parameter) for parameter in loop.model.parameters()]
            del loop
            gc.collect()
            assert [parameter() for parameter in kept] == [None] * len(kept)
    assert len(taken) > STEPS // 2


def test_lane_holds_no_iterator(watching, taken):
    loop = Loop()
    with watching(gradients_every=1000):
        iterator = iter(DataLoader(loop.data, batch_size=1))
        for batch, _ in zip(iterator, range(15), strict=False):
            loop.step(loop.loss(*batch))
        kept = weakref.ref(iterator)
        del iterator
        gc.collect()
        assert kept() is None
    assert taken


def test_optimizer_that_is_surrounded_leaves_the_lane(watching, taken):
    loop = Loop()
    with watching(gradients_every=1000) as seen:
        on_and_on(loop)
        steering = Steering(seen.run._capture.hooks, lambda _: [], lambda _: None, lambda *_: None)
        steering.meet("0", loop.optimizer)
        StepControls(steering, "0").scale_learning_rate(0.5)
        before = len(taken)
        on_and_on(loop)
        assert len(taken) == before > 0
        steering.close()
