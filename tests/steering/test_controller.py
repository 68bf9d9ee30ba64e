"""The closed loop in a real run: a fault is noticed, answered, recorded."""

import contextlib
import copy
import itertools
import json
import math
from unittest.mock import Mock

import pytest
import torch
from controller_training import Training, same
from torch import nn
from torch.nn import functional as F

import trimtab
from trimtab.actions import ClipGradients, Halt, RollBack, ScaleLearningRate, ScaleWeightDecay, SetDropout, SkipStep
from trimtab.actuators import saving
from trimtab.capture import recorder
from trimtab.errors import ConfigError
from trimtab.policies import Decision, creeping
from trimtab.rules.judge import Judge
from trimtab.sample import books, pace
from trimtab.steering import execution
from trimtab.testing import RecordingBackend, sample_run
from trimtab.types import Adjustment, Alert, Notice, Step
from trimtab_backends.series import SeriesTable

ALWAYS = trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5, severity="warning")


def answered_by(*ladder, **options):
    return trimtab.Policy(on="always", ladder=list(ladder), **options)


def outcomes(seen):
    return [(a.action, a.outcome) for a in seen.backend.of(Adjustment)]


def test_nan_in_a_batch_changes_nothing_when_policies_act(watching, training):
    with watching(act="process", gradients_every=1) as seen:
        training.steps(30)
        before = training.weights
        training.step(spoil=math.nan)
        assert same(training.weights, before)
    assert ("skip_step", "applied") in outcomes(seen)


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("pause", [13, 70])
def test_gradients_that_made_weights_nan_once_are_skipped_from_then_on(watching, training, closure, pause):
    """The loss tells nothing of them. At the default spacing they are seen when it is too late, the first time."""

    def evaluate(poison):
        training.optimizer.zero_grad()
        outputs = training.model(training.inputs)
        loss = F.cross_entropy(outputs, training.labels)
        if poison:
            loss = loss + 0.0 * (0.0 * outputs).sum().sqrt()
        loss.backward()
        return loss

    with watching(act="process", gradients_every=128) as seen:
        for step in range(1, 401):
            poison = step >= 100 and step % pause == 0
            if closure:
                training.optimizer.step(lambda poison=poison: evaluate(poison))
            else:
                evaluate(poison)
                training.optimizer.step()
    done = [action for action, outcome in outcomes(seen) if outcome == "applied"]
    poisoned = sum(step % pause == 0 for step in range(100, 401))
    assert done.count("roll_back") == 1
    assert done[done.index("roll_back") :] == ["roll_back", *["skip_step"] * (poisoned - 1)]
    assert all(torch.isfinite(p).all() for p in training.model.parameters())
    assert F.cross_entropy(training.model(training.inputs), training.labels) < 0.1


@pytest.mark.parametrize("act", ["process", False])
@pytest.mark.parametrize("ladder", [[SkipStep(), SkipStep(), RollBack()], [ClipGradients(), RollBack()]])
def test_gradients_of_one_bad_step_do_not_stand_for_those_after_it(watching, training, monkeypatch, act, ladder):
    """Every step is judged here, as where steps are slow, and gradients are sampled on some."""
    monkeypatch.setattr(pace, "JUDGED_TOGETHER", 1)
    monkeypatch.setattr(pace, "WATCHED_TOGETHER", 1)
    policies = [trimtab.Policy(on="gradient_exploding", ladder=ladder)]
    with watching(act=act, gradients_every=4, policies=policies) as seen:
        training.steps(400)
        spoilt = training.model[0].weight.register_hook(lambda gradient: gradient * 1e6)
        training.step()
        spoilt.remove()
        before = training.weights
        training.step()
        assert not same(training.weights, before)
        training.steps(20)
    assert outcomes(seen) == [(ladder[0].name, "applied" if act else "dry_run")]


def test_nobody_looks_at_each_gradient_where_none_did_harm(watching, training, monkeypatch):
    looked = Mock(wraps=recorder.finite)
    monkeypatch.setattr(recorder, "finite", looked)
    with watching(act="process", gradients_every=128):
        training.steps(100)
        training.step(spoil=math.nan)  # is skipped: no weights are turned back
        training.steps(100)
    assert not looked.called


def test_nan_under_a_closure_changes_nothing_when_policies_act(watching, training):
    def step(spoil=1.0):
        def closure():
            training.optimizer.zero_grad()
            loss = F.cross_entropy(training.model(training.inputs * spoil), training.labels)
            loss.backward()
            return loss

        training.optimizer.step(closure)

    with watching(act="process", gradients_every=1) as seen:
        for _ in range(30):
            step()
        before = training.weights
        step(spoil=math.nan)
        assert same(training.weights, before)
    assert outcomes(seen)[0] == ("skip_step", "applied")


def test_user_has_settings_and_optimizer_back_after_the_run(watching, training):
    training.model.insert(1, nn.Dropout(0.1))
    policies = [answered_by((ScaleLearningRate(0.5), SetDropout(0.3)), budget=1)]
    with watching(act="process", rules=[ALWAYS], policies=policies):
        training.steps(3)
        assert training.model[1].p == 0.3
    rates = []
    training.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    training.step()
    assert (training.model[1].p, rates) == (0.1, [0.05])


def test_nan_in_a_batch_does_not_stay_in_running_statistics(watching, training):
    training.model.insert(0, nn.BatchNorm1d(8))
    with watching(act="process", gradients_every=1) as seen:
        training.steps(30)
        training.step(spoil=math.nan)
        assert training.model[0].running_mean.isfinite().all()
    assert ("skip_step", "applied") in outcomes(seen)


def test_dry_run_shows_what_would_be_done_and_does_nothing(watching, training):
    with watching(gradients_every=1) as seen:
        training.steps(30)
        training.step(spoil=math.nan)
    assert ("skip_step", "dry_run") in outcomes(seen)
    assert all(math.isnan(w.sum().item()) for w in training.weights[-1:])


@pytest.mark.parametrize(
    ("action", "given", "before", "after"),
    [
        (
            ScaleLearningRate(0.5, floor=0.6),
            {"factor": 0.5, "floor": 0.6},
            {"learning_rate_scale": 1.0},
            {"learning_rate_scale": 0.6},
        ),
        (ScaleWeightDecay(3.0), {"factor": 3.0}, {}, {"factor": 3.0, "floor": 1e-4, "ceiling": 1.0}),
        (SetDropout(0.3), {"ratio": 0.3}, {"dropout": 0.1}, {"dropout": 0.3}),
        (SetDropout(0.05, lower=True), {"ratio": 0.05, "lower": True}, {"dropout": 0.1}, {"dropout": 0.05}),
        (
            ClipGradients(2.0, steps=3),
            {"max_norm": 2.0, "steps": 3},
            {"max_norm": None},
            {"max_norm": 2.0, "steps": 3},
        ),
        (SkipStep(), {}, {"skipped": False}, {"skipped": True}),
        (Halt(restore_best=False), {"restore_best": False}, {"halted": False}, {"halted": True, "restore_best": False}),
    ],
)
def test_dry_run_tells_what_each_action_would_change(watching, training, action, given, before, after):
    training.model.insert(1, nn.Dropout(0.1))
    with watching(rules=[ALWAYS], policies=[answered_by(action, budget=1)]) as seen:
        training.steps(3)
    done = seen.run.adjustments[0]
    assert (done.outcome, done.arguments, done.before, done.after) == ("dry_run", given, before, after)


def test_dry_run_tells_of_no_dropout_that_would_stay_as_it_is(watching, training):
    training.model.insert(1, nn.Dropout(0.5))
    with watching(rules=[ALWAYS], policies=[answered_by(SetDropout(0.1), budget=1)]) as seen:
        training.steps(3)
    done = seen.run.adjustments[0]
    assert (done.outcome, done.after) == ("refused", {})
    assert done.reason == "Every dropout has the ratio 0.1 already, or more."


def test_judging_leaves_training_as_it_is(watching):
    bare = Training()
    bare.steps(80)
    watched = Training()
    with watching(act="process", gradients_every=1):
        watched.steps(80)
    assert same(bare.weights, watched.weights)


def test_run_whose_rate_jumps_is_rolled_back_and_goes_on_slower(watching, training):
    with watching(act="process") as seen:
        training.steps(100)
        training.optimizer.param_groups[0]["lr"] *= 1000
        training.steps(150)
    back = next(a for a in seen.backend.of(Adjustment) if a.action == "roll_back" and a.outcome == "applied")
    assert 0 <= back.after["weights_of_step"] < 100
    assert seen.steps()[-1].learning_rate[0] < 50
    assert training.weights[0].abs().max() < 100


def test_rate_stays_low_where_the_run_could_never_go_back(watching, training):
    with watching(act="process", policies=["loss_diverged"], snapshot_gib=1e-9) as seen:
        training.steps(100)
        training.optimizer.param_groups[0]["lr"] *= 1000
        training.steps(80)
    done = [(each.action, each.outcome) for each in seen.run.adjustments]
    assert done == [("roll_back", "refused"), ("scale_learning_rate", "applied")] * 3
    assert seen.run.state_dict()["steering"]["0"]["learning_rate"]["target"] == pytest.approx(0.002)


def train_on_noise(lr, count):
    """Labels have nothing to do with their inputs: the loss comes down to chance, and no further."""
    training = Training()
    training.model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    training.optimizer = torch.optim.Adam(training.model.parameters(), lr=lr)
    for _ in range(count):
        training.inputs = torch.randn(64, 8)
        training.labels = torch.randint(3, (64,))
        training.step()


def test_run_that_rests_at_chance_after_long_steps_begins_again_with_shorter_ones(watching):
    with watching(act="process", policies=["loss_high"]) as seen:
        train_on_noise(lr=0.1, count=160)
    done = [(a.action, a.outcome) for a in seen.backend.of(Adjustment) if a.rule == "loss_high"]
    assert done[:2] == [("roll_back", "applied"), ("limit_updates", "applied")]
    back = next(a for a in seen.backend.of(Adjustment) if a.action == "roll_back" and a.rule == "loss_high")
    assert back.after == {"weights_of_step": 0}
    assert seen.steps()[-1].learning_rate[0] < 0.05


def test_run_that_rests_at_chance_after_short_steps_is_left_alone(watching):
    with watching(act="process") as seen:
        train_on_noise(lr=0.003, count=250)
    assert seen.backend.of(Adjustment) == []


def regress_noise(weight, lr, count):
    """Train a deep network on one number in a hundredth of which there is something to learn."""
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(16, 16), nn.Tanh())]
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), *layers, nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(count):
        inputs = torch.randn(64, 8)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), weight * inputs[:, :1] + torch.randn(64, 1)).backward()
        optimizer.step()


def test_regression_that_rests_at_the_variance_of_its_targets_after_long_steps_begins_again(watching):
    with watching(act="process", policies=["loss_high"]) as seen:
        regress_noise(0.1, lr=0.3, count=200)
    done = [(a.action, a.outcome) for a in seen.backend.of(Adjustment) if a.rule == "loss_high"]
    assert done[:2] == [("roll_back", "applied"), ("limit_updates", "applied")]


def test_regression_of_what_is_mostly_noise_is_left_alone(watching):
    with watching(act="process") as seen:
        regress_noise(0.1, lr=3e-4, count=900)
    assert [a for a in seen.backend.of(Adjustment) if a.outcome == "applied"] == []


def test_scaled_rate_is_used_and_the_users_own_is_left_alone(watching, training):
    policies = [answered_by(ScaleLearningRate(0.5), budget=1)]
    with watching(act="process", gradients_every=1, rules=[ALWAYS], policies=policies) as seen:
        training.steps(5)
        assert training.optimizer.param_groups[0]["lr"] == 0.05
    assert seen.steps()[-1].learning_rate == pytest.approx([0.025])


@pytest.mark.parametrize("ramp", [0, 10])
def test_scale_creeps_back_to_half_of_the_way_from_where_it_fell_however_it_got_there(
    watching, training, monkeypatch, ramp
):
    monkeypatch.setattr(creeping, "PATIENCE", 20)
    monkeypatch.setattr(creeping, "SPACING", 1)
    once = trimtab.Rule("once", signal="logged:once", threshold=1.0)
    policies = [trimtab.Policy(on="once", ladder=[ScaleLearningRate(0.25, ramp=ramp)])]
    with watching(act="process", rules=[once], policies=policies) as seen:
        seen.run.log(once=1.0)
        seen.run.log(once=0.0)
        training.steps(100)
    assert seen.steps()[-1].learning_rate == pytest.approx([0.05 * 0.5])


@pytest.mark.parametrize(("later", "creeps"), [(1.0, True), (1.3, False)])
def test_scale_creeps_back_only_while_the_loss_is_no_worse_than_it_was(watching, monkeypatch, later, creeps):
    monkeypatch.setattr(creeping, "PATIENCE", 100)
    once = trimtab.Rule("once", signal="logged:once", threshold=1.0)
    policies = [trimtab.Policy(on="once", ladder=[ScaleLearningRate(0.25)])]
    weight = nn.Parameter(torch.tensor(0.0))
    optimizer = torch.optim.SGD([weight], lr=0.05)
    with watching(act="process", gradients_every=1, rules=[once], policies=policies) as seen:
        for step in range(400):
            optimizer.zero_grad()
            level = 1.0 + 9.0 * 0.9**step if step < 200 else later
            (0.0 * weight + level + 0.1 * (-1) ** step).backward()
            optimizer.step()
            if step == 180:
                seen.run.log(once=1.0)
                seen.run.log(once=0.0)
    assert ("creep_back" in [a.action for a in seen.backend.of(Adjustment)]) == creeps


class Decaying(torch.optim.SGD):
    """Lets its own rate decay, from what it finds."""

    def step(self, closure=None):
        super().step(closure)
        self.param_groups[0]["lr"] *= 0.999


def decaying_a_tensor(parameters, lr):
    return Decaying(parameters, torch.tensor(lr))


OWN_RATES = [(Decaying, None), (decaying_a_tensor, None), (torch.optim.SGD, torch.optim.SGD)]


@pytest.mark.parametrize(("first", "second"), OWN_RATES)
def test_scale_that_is_gone_does_not_creep_back(watching, monkeypatch, first, second):
    monkeypatch.setattr(creeping, "PATIENCE", 20)
    monkeypatch.setattr(creeping, "SPACING", 1)
    training = Training(optimizer=first)
    once = trimtab.Rule("once", signal="logged:once", threshold=1.0)
    policies = [trimtab.Policy(on="once", ladder=[ScaleLearningRate(0.25)])]
    with watching(act="process", rules=[once], policies=policies) as seen:
        seen.run.log(once=1.0)
        seen.run.log(once=0.0)
        training.steps(5)
        if second is not None:
            training.optimizer = second(training.model.parameters(), lr=0.05)
        training.steps(60)
    assert outcomes(seen) == [("scale_learning_rate", "applied")]


def test_one_adjustment_takes_its_cooldown_before_the_next(watching, training):
    policies = [answered_by(ScaleLearningRate(0.9), cooldown=10, budget=8)]
    with watching(act="process", gradients_every=1, rules=[ALWAYS], policies=policies) as seen:
        training.steps(35)
    steps = [a.step for a in seen.backend.of(Adjustment)]
    assert len(steps) >= 3
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise(steps))


def test_halt_asks_the_loop_to_stop_and_saves_its_state(watching, training):
    with watching(act="process", gradients_every=1, rules=[ALWAYS], policies=[answered_by(Halt("enough"))]) as seen:
        taken = 0
        while taken < 50 and not trimtab.should_stop():
            training.step()
            taken += 1
        last = torch.load(seen.run.directory / "last.pt", weights_only=True)
    assert taken < 50
    assert same(last["models"]["Sequential"].values(), training.weights)


def test_best_by_a_value_that_the_user_logs_is_kept_and_gone_back_to(watching, training):
    best = trimtab.Rule("enough", signal="logged:enough", threshold=1.0)
    policies = [trimtab.Policy(on="enough", ladder=[Halt("enough")])]
    options, reached = {"act": "process", "rules": [best], "policies": policies, "monitor": ("bleu", "max")}, []
    with watching(**options) as seen:
        for bleu in (10.0, 30.0, 20.0):
            training.steps(5)
            seen.run.log(bleu=bleu)
            reached.append(training.weights)
        assert not trimtab.should_stop()
        seen.run.log(enough=1.0)
        training.step()
        assert same(training.weights, reached[1])
        assert torch.load(seen.run.directory / "best.pt", weights_only=True)["step"] == 10


def test_halt_whose_state_cannot_be_saved_is_refused_and_training_goes_on(watching, training, full_disk):
    with watching(act="process", gradients_every=1, rules=[ALWAYS], policies=[answered_by(Halt("enough"))]) as seen:
        with full_disk():
            training.steps(5)
        assert not trimtab.should_stop()
        (halt,) = seen.run.adjustments
        assert halt.outcome == "refused"
        assert "last.pt cannot be written" in halt.reason


def test_halt_whose_best_state_cannot_be_saved_puts_it_back_all_the_same(watching, training, full_disk, monkeypatch):
    enough = trimtab.Rule("enough", signal="logged:enough", threshold=1.0)
    policies = [trimtab.Policy(on="enough", ladder=[Halt("enough")])]
    write = saving.write

    def fills_the_disk(content, path):
        with full_disk() if path.name == "best.pt" else contextlib.nullcontext():
            return write(content, path)

    monkeypatch.setattr(saving, "write", fills_the_disk)
    with watching(act="process", rules=[enough], policies=policies, monitor=("bleu", "max")) as seen:
        training.steps(5)
        seen.run.log(bleu=1.0)
        best = training.weights
        training.steps(5)
        assert not trimtab.should_stop()
        seen.run.log(enough=1.0)
        training.step()
        assert trimtab.should_stop()
        (halt,) = seen.run.adjustments
        assert halt.outcome == "applied"
        assert halt.after["weights_of_step"] == 5
        assert "best.pt cannot be written" in halt.reason
        assert same(training.weights, best)


@pytest.fixture
def halted_unheard(watching, training):
    """A run whose best state is that of step 5, and which was halted after step 11 by a policy that nobody heard."""
    rules = [trimtab.Rule("enough", signal="logged:enough", threshold=1.0)]
    policies = [trimtab.Policy(on="enough", ladder=[Halt("enough")])]
    with watching(act="process", rules=rules, policies=policies, monitor=("bleu", "max")) as seen:
        for bleu in (30.0, 10.0):
            training.steps(5)
            seen.best = seen.best if bleu < 30 else training.weights
            seen.run.log(bleu=bleu)
        seen.run.log(enough=1.0)
        training.step()
        yield seen


def test_halt_that_nobody_hears_leaves_the_weights_and_saves_both_states(halted_unheard, training):
    bare = type(training)()
    bare.steps(11)
    assert same(training.weights, bare.weights)
    best, last = (torch.load(halted_unheard.run.directory / f, weights_only=True) for f in ("best.pt", "last.pt"))
    assert (best["step"], last["step"]) == (5, 11)
    assert same(best["models"]["Sequential"].values(), halted_unheard.best)
    assert same(last["models"]["Sequential"].values(), bare.weights)


def test_halt_that_is_heard_later_puts_the_best_weights_back_then(halted_unheard, training):
    training.steps(3)
    assert trimtab.should_stop()
    assert same(training.weights, halted_unheard.best)
    halted_unheard.run.close()
    assert any("those of step 5 again" in text for text in halted_unheard.notices)


@pytest.mark.parametrize("restore", [True, False])
def test_loop_that_asks_seldom_has_the_best_weights_when_it_is_told_where_it_should(watching, training, restore):
    rules = [trimtab.Rule("enough", signal="logged:enough", threshold=1.0)]
    policies = [trimtab.Policy(on="enough", ladder=[Halt("enough", restore_best=restore)])]
    with watching(act="process", rules=rules, policies=policies, monitor=("bleu", "max")) as seen:
        assert not trimtab.should_stop()
        training.steps(5)
        best = training.weights
        seen.run.log(bleu=30.0)
        seen.run.log(enough=1.0)
        training.steps(10)
        assert not same(training.weights, best)
        assert trimtab.should_stop()
        assert same(training.weights, best) == restore


def test_halt_that_is_heard_while_a_graph_is_pending_leaves_its_weights(halted_unheard, training):
    loss = training.model(training.inputs).sum()
    before = training.weights
    assert trimtab.should_stop()
    assert same(training.weights, before)
    loss.backward()


@pytest.mark.parametrize(("asks", "status"), [(False, "completed"), (True, "halted")])
def test_run_is_halted_only_where_somebody_hears(watching, training, asks, status):
    with watching(act="process", rules=[ALWAYS], policies=[answered_by(Halt("enough"))]) as seen:
        training.steps(20)
        assert trimtab.should_stop() if asks else True
    assert json.loads((seen.run.directory / "run.json").read_text())["status"] == status


def test_monitored_value_that_never_comes_is_told(watching, training):
    with watching(monitor=("blue", "max")) as seen:
        for _ in range(3):
            training.step()
            training.model.eval()
            with torch.no_grad():
                F.cross_entropy(training.model(training.inputs), training.labels)
            training.model.train()
            seen.run.log(bleu=1.0)
    (notice,) = [text for text in seen.notices if "monitor" in text]
    assert "Did you mean 'bleu'?" in notice


def test_monitored_value_that_is_logged_under_a_name_much_like_it_is_told_in_time(watching, training):
    with watching(monitor=("episode_return", "max")) as seen:
        for _ in range(12):
            training.step()
            seen.run.log(episode_retrun=1.0, entropy=0.5)
    (notice,) = [notice for notice in seen.backend.of(Notice) if "monitor" in notice.text]
    assert notice.step == 10
    assert "Did you mean 'episode_retrun'?" in notice.text


def test_monitored_value_of_validation_is_waited_for_while_that_of_training_is_logged(watching, training):
    with watching(monitor=("val_loss", "min")) as seen:
        for _ in range(30):
            training.step()
            seen.run.log(train_loss=1.0)
        seen.run.log(val_loss=1.0)
    assert not [text for text in seen.notices if "monitor" in text]


@pytest.mark.parametrize(("name", "is_told"), [("episode_return", False), ("return", True), ("loss", False)])
def test_monitored_value_that_was_never_logged_is_told_when_the_run_ends(watching, training, name, is_told):
    with watching(monitor=(name, "max")) as seen:
        for _ in range(30):
            training.step()
            seen.run.log(entropy=0.5)
        seen.run.log(episode_return=1.0)
    told = [notice.step for notice in seen.backend.of(Notice) if f"monitor={name!r}: no such value" in notice.text]
    assert told == [30] * is_told


def test_unwinding_ends_a_loop_that_does_not_ask(watching, training):
    policies = [answered_by(Halt("enough"))]
    with watching(act="process", rules=[ALWAYS], policies=policies, on_halt="unwind") as seen:
        training.steps(50)
    assert len(seen.losses()) < 50


def test_watched_function_that_was_unwound_returns_none(training, tmp_path):
    options = {"act": "process", "rules": [ALWAYS], "policies": [answered_by(Halt("enough"))], "on_halt": "unwind"}

    @trimtab.watch(run="unwound", directory=tmp_path, backends=["jsonl"], gradients_every=1, **options)
    def train():
        training.steps(50)
        return "done"

    assert train() is None
    assert json.loads((tmp_path / "unwound" / "run.json").read_text())["status"] == "halted"


def test_rollback_without_a_good_snapshot_is_refused_and_training_goes_on(watching, training):
    training.model.extra = torch.nn.Parameter(torch.empty(2, device="meta"))  # no copy can be made of it
    policies = [answered_by(RollBack())]
    with watching(act="process", gradients_every=1, rules=[ALWAYS], policies=policies) as seen:
        training.steps(20)
    assert ("roll_back", "refused") in outcomes(seen)
    assert len(seen.losses()) == 20


def test_rule_on_a_logged_value_fires(watching, training):
    rule = trimtab.Rule("too_perplexed", signal="logged:perplexity", threshold=100)
    with watching(rules=[rule]) as seen:
        training.steps(3)
        seen.run.log(perplexity=250.0)
    (alert,) = [a for a in seen.backend.of(Alert) if a.rule == "too_perplexed"]
    assert (alert.value, alert.threshold, alert.state) == (250.0, 100, "firing")


def test_levels_are_in_the_record(watching, training):
    with watching(gradients_every=1) as seen:
        training.steps(300)
    levels = [e.levels for e in seen.backend.of(Step) if e.levels]
    assert any("loss_spike" in level for level in levels)


def test_decisions_are_the_same_every_time(watching):
    def run():
        training = Training()
        with watching(act="process", gradients_every=1) as seen:
            training.steps(60)
            training.step(spoil=1e4)
            training.steps(40)
            training.step(spoil=math.nan)
            training.steps(40)
        return [(a.step, a.action, a.outcome, dict(a.after)) for a in seen.backend.of(Adjustment)], training.weights

    (first, weights), (second, again) = run(), run()
    assert first == second
    assert first
    assert same(weights, again)


def test_resumed_run_keeps_its_scale(training, tmp_path):
    options = {"run": "resumed", "directory": tmp_path, "backends": ["jsonl"], "gradients_every": 1, "act": "process"}
    with trimtab.watch(**options, rules=[ALWAYS], policies=[answered_by(ScaleLearningRate(0.5), budget=1)]):
        training.steps(10)
    options["backends"] = [backend := RecordingBackend()]
    with trimtab.watch(**options, resume=True, policies=[]) as run:
        training.steps(3)
        assert run.state_dict()["steering"]["0"]["learning_rate"]["target"] == 0.5
    assert {step.learning_rate[0] for step in backend.of(Step)} == {0.5 * 0.05}


def test_resumed_run_keeps_its_budget_cooldown_and_episodes(training, tmp_path):
    rule = trimtab.Rule("enough", signal="logged:enough", threshold=1.0)
    policies = [trimtab.Policy(on="enough", ladder=[ScaleLearningRate(0.5)], cooldown=50, budget=3)]
    options = {"run": "resumed", "directory": tmp_path, "backends": ["jsonl"], "gradients_every": 1, "act": "process"}
    with trimtab.watch(**options, rules=[rule], policies=policies) as run:
        training.steps(5)
        run.log(enough=1.0)
        training.steps(2)
        assert [a.outcome for a in run.adjustments] == ["applied"]
    with trimtab.watch(**options, rules=[rule], policies=policies, resume=True) as run:
        training.steps(3)
        run.log(enough=1.0)
        training.steps(5)
        assert not run.adjustments
        assert run.alerts[-1].episode == 2
        training.steps(50)
        run.log(enough=1.0)
        training.steps(2)
        assert [(a.outcome, a.budget_remaining) for a in run.adjustments] == [("applied", 1)]


def test_run_that_takes_no_alerts_in_keeps_the_number_of_their_episodes(watching, training):
    with watching(act="process", policies=[]) as seen:
        training.steps(2)
        seen.run.load_state_dict({**seen.run.state_dict(), "alerts": {"alert:GpuHot": 3}})
        training.steps(2)
        assert seen.run.state_dict()["alerts"] == {"alert:GpuHot": 3}


def test_resumed_run_of_two_optimizers_has_the_cooldown_that_is_left(watching):
    one, other = Training(), Training()
    with watching(act="process", rules=[ALWAYS], policies=[answered_by(ScaleLearningRate(0.5), budget=2)]) as seen:
        for _ in range(5):
            one.step()
            other.step()
        state = seen.run.state_dict()
        seen.run.load_state_dict(state)
        assert seen.run.state_dict()["engine"]["accounts"] == state["engine"]["accounts"]


def test_snapshots_are_taken_only_while_the_levels_are_healthy(watching, training):
    """At 0.9 of its threshold a rule does not fire, and the state is no good one to go back to."""
    levels = iter([0.0] * 20 + [0.9] * 60 + [0.0] * 60)
    rule = trimtab.Rule("unwell", signal=lambda loss: next(levels), threshold=1.0)
    with watching(act="process", rules=[rule]) as seen:
        training.steps(120)
        taken = seen.run._controller._actuators.snapshots.steps
    assert taken[0] == 0
    assert not any(20 < step <= 80 for step in taken)
    assert taken[-1] == 96


def test_policy_on_an_unknown_rule_is_refused_with_the_nearest_name(watching):
    with (
        pytest.raises(ConfigError, match="loss_spike"),
        watching(policies=[trimtab.Policy(on="loss_spik", ladder=[Halt()])]),
    ):
        pass


def test_objective_in_another_unit_than_validation_is_no_overfitting(watching, training):
    def validate():
        training.model.eval()
        with torch.no_grad():
            F.cross_entropy(training.model(training.inputs), training.labels)
        training.model.train()

    with watching(act="process", gradients_every=1) as seen:
        for _ in range(8):
            for _ in range(5):
                training.optimizer.zero_grad()
                loss = F.cross_entropy(training.model(training.inputs), training.labels)
                (0.1 * loss).backward()
                training.optimizer.step()
            validate()
    assert "overfitting" not in {alert.rule for alert in seen.backend.of(Alert)}


def test_validation_that_rises_is_no_overfitting_within_the_first_steps(watching):
    """A pass after every step: validation is best at the second one, and worse at all that follow."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.05)
    with watching(act="process", gradients_every=1) as seen:
        for _ in range(40):
            optimizer.zero_grad()
            F.mse_loss(weight, torch.ones(1)).backward()
            optimizer.step()
            with torch.no_grad():
                F.mse_loss(weight, torch.full((1,), 0.1))
    (fired, *_) = [alert.step for alert in seen.backend.of(Alert) if alert.rule == "overfitting"]
    assert 24 <= fired < 30


def test_nan_between_two_judgements_changes_nothing_either(watching, training):
    """Of 64 steps one has its turn to be judged; a loss that can be read at once is not waited for."""
    with watching(act="process", gradients_every=64) as seen:
        training.steps(100)
        before = training.weights
        training.step(spoil=math.nan)
        assert same(training.weights, before)
        training.steps(100)
    assert outcomes(seen) == [("skip_step", "applied")]


def test_loss_that_stays_nan_is_not_judged_at_every_step(watching, training, monkeypatch):
    with watching(gradients_every=64, act="process", policies=[]) as seen:
        judged = []
        judge = seen.run._controller.judge
        monkeypatch.setattr(seen.run._controller, "judge", lambda *args: judged.append(1) or judge(*args))
        training.steps(10)
        for _ in range(128):
            training.step(spoil=math.nan)
    assert len(judged) < 32


def test_first_aid_ends_with_the_bad_step_and_not_with_its_episode(watching, training):
    signal = iter([0.0] * 10 + [2.0] + [0.9] * 50)  # 0.9 is no trouble any more, but not under the bound that ends it
    rule = trimtab.Rule("spoilt", signal=lambda loss: next(signal), threshold=1.0, clear=0.5)
    policies = [trimtab.Policy(on="spoilt", ladder=[SkipStep(), SkipStep(), Halt()])]
    with watching(act="process", rules=[rule], policies=policies) as seen:
        training.steps(30)
    assert outcomes(seen) == [("skip_step", "applied")]


def test_weight_decay_that_was_used_is_the_one_recorded(watching):
    training = Training(optimizer=torch.optim.AdamW)
    policies = [answered_by(ScaleWeightDecay(10.0, ceiling=1.0), budget=1)]
    with watching(act="process", rules=[ALWAYS], policies=policies) as seen:
        training.steps(5)
    assert [step.weight_decay for step in seen.steps()][::4] == [[0.01], [0.1]]


def test_rule_of_the_users_that_raises_is_told_and_left_out(watching, training, guarded):
    called = []
    rule = trimtab.Rule("broken", signal=lambda loss: called.append(loss) or 1 / 0, threshold=1.0)
    with watching(rules=[rule]) as seen:
        training.steps(20)
    (notice,) = [text for text in seen.notices if "rule broken" in text]
    assert "ZeroDivisionError" in notice
    assert "left out after 5 faults" in notice
    assert seen.end.totals["faults"] == {"rule broken": 5}
    assert len(called) == 5


class Returning:
    """An action of the user's that forgets what it should return."""

    name, stage = "forgetful", "after_step"

    def apply(self, controls):
        controls.scale_learning_rate(0.9)


@pytest.mark.parametrize("beside", [(), (ScaleLearningRate(0.9),)], ids=["alone", "beside one that can"])
def test_action_that_returns_no_change_fails_and_its_policy_is_disabled_after_five(watching, training, beside):
    signal = itertools.cycle([1.0, 0.0])
    rule = trimtab.Rule("wobbly", signal=lambda loss: next(signal), threshold=0.5)
    policies = [trimtab.Policy(on="wobbly", ladder=[(Returning(), *beside)], cooldown=0, budget=50)]
    with watching(act="process", rules=[rule], policies=policies) as watched:
        training.steps(60)
    assert outcomes(watched).count(("forgetful", "failed")) == 5
    failed = next(a for a in watched.run.adjustments if a.outcome == "failed")
    assert "apply() returned None: expected what a control returns" in failed.reason
    assert "Policy wobbly is disabled: 5 times an action raised." in watched.notices


class LowersAndDrops:
    """Two things in one action, of which a model without dropout refuses the second."""

    name, stage = "lowers_and_drops", "after_step"

    def apply(self, controls):
        controls.scale_learning_rate(0.5)
        return controls.set_dropout(0.3)


@pytest.mark.parametrize("act", [False, "process"])
def test_what_an_action_did_before_it_refused_is_on_record(watching, training, act):
    with watching(act=act, rules=[ALWAYS], policies=[answered_by(LowersAndDrops(), budget=1)]) as seen:
        training.steps(10)
    done, refused = seen.backend.of(Adjustment)[:2]
    assert (done.outcome, done.after["learning_rate_scale"]) == ("applied" if act else "dry_run", 0.5)
    assert (refused.outcome, refused.before, refused.after) == ("refused", {}, {})
    assert "dropout" in refused.reason
    assert seen.steps()[-1].learning_rate == pytest.approx([0.025 if act else 0.05])


@pytest.mark.parametrize(("steps", "outcome"), [(1, "refused"), (2, "applied")])
def test_clipping_of_the_judged_step_alone_is_refused_where_its_rung_waited(watching, training, steps, outcome):
    rung = (ClipGradients(1.0, steps=steps), ScaleLearningRate(0.5))
    with watching(act="process", rules=[ALWAYS], policies=[answered_by(rung, budget=1)]) as seen:
        training.steps(3)
    clipping, _ = seen.backend.of(Adjustment)[:2]
    assert (clipping.action, clipping.outcome) == ("clip_gradients", outcome)
    assert ("had been applied by then" in clipping.reason) == (outcome == "refused")


def test_record_of_an_action_names_everything_that_it_changed(watching, training):
    training.model.append(nn.Dropout(0.1))
    with watching(act="process", rules=[ALWAYS], policies=[answered_by(LowersAndDrops(), budget=1)]) as seen:
        training.steps(3)
    (adjustment,) = [a for a in seen.backend.of(Adjustment) if a.outcome == "applied"]
    assert (adjustment.before["learning_rate_scale"], adjustment.before["dropout"]) == (1.0, 0.1)
    assert (adjustment.after["learning_rate_scale"], adjustment.after["dropout"]) == (0.5, 0.3)


def test_decision_about_an_optimizer_that_steps_no_more_is_given_up(watching, monkeypatch):
    monkeypatch.setattr(execution, "PATIENCE_STEPS", 10)
    first, other = Training(), Training()
    policies = [trimtab.Policy(on="spoilt", ladder=[ScaleLearningRate(0.5)])]
    rule = trimtab.Rule("spoilt", signal="logged:spoilt", threshold=1.0)
    with watching(act="process", rules=[rule], policies=policies) as seen:
        first.step()
        other.step()
        seen.run._controller._execution.take_up(
            Decision(
                policy="spoilt",
                rule="spoilt",
                optimizer="0",
                episode=1,
                step=1,
                since=1,
                actions=(ScaleLearningRate(0.5),),
            ),
            execution.Moment.after(1),
        )
        other.steps(30)
        assert [(a.outcome, a.reason) for a in seen.run.adjustments] == [
            ("refused", "no moment came for it within 10 steps")
        ]


def test_step_that_raises_while_it_is_first_steered_leaves_everything_usable(watching):
    """The post-hooks are skipped then, and with them what puts the schedule's own rate back."""

    class Exploding(torch.optim.SGD):
        calls = 0

        def step(self):
            Exploding.calls += 1
            if Exploding.calls == 5:
                raise RuntimeError("out of memory")
            super().step()

    training = Training(optimizer=Exploding)
    policies = [answered_by((ScaleLearningRate(0.5), ClipGradients(1.0, steps=3)), budget=1)]
    late = trimtab.Rule("always", signal=lambda loss: float(Exploding.calls >= 3), threshold=0.5)
    with watching(act="process", rules=[late], policies=policies) as seen:
        for _ in range(12):
            with contextlib.suppress(RuntimeError):
                training.step()
            assert training.optimizer.state_dict()["param_groups"][0]["lr"] == 0.05
    assert len(seen.losses()) == 11
    assert seen.steps()[-1].learning_rate == pytest.approx([0.025])


def test_rollback_turns_a_named_average_back_too(watching, training):
    average = copy.deepcopy(training.model)
    before = [p.detach().clone() for p in average.parameters()]
    late = trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5, hold=10)
    with watching(act="process", rules=[late], policies=[answered_by(RollBack(), budget=1)]) as seen:
        seen.run.attach(average=average)
        while not seen.run.adjustments:
            with torch.no_grad():
                for mine, theirs in zip(average.parameters(), training.model.parameters(), strict=True):
                    mine.lerp_(theirs, 0.1)
            training.step()
    assert seen.run.adjustments[0].after == {"weights_of_step": 0}
    assert same(before, list(average.parameters()))


GO_BACK = trimtab.Rule("go_back", signal="logged:back", threshold=1.0)
BACK = {"act": "process", "rules": [GO_BACK], "policies": [trimtab.Policy(on="go_back", ladder=[RollBack()])]}


def test_snapshots_are_files_that_load_alone_where_the_user_says_so(watching, training, tmp_path):
    with watching(**BACK, snapshot_directory=tmp_path / "kept") as seen:
        training.steps(40)
        files = list((tmp_path / "kept").rglob("*.pt"))
        saved = [torch.load(file, weights_only=True) for file in files]
        assert sorted(each["step"] for each in saved) == [0, 32]
        seen.run.log(back=1.0)
        training.steps(1)
        first = next(each for each in saved if each["step"] == 32)["tensors"]
        assert same([first[f"Sequential.{n}"] for n, _ in training.model.named_parameters()], training.weights)
    assert not list((tmp_path / "kept").iterdir())


def test_random_numbers_come_again_after_a_rollback_where_the_user_says_so(watching, training):
    drawn = {}
    with watching(**BACK, snapshot_rng=True) as seen:
        for step in range(1, 41):
            training.step()
            drawn[step] = torch.rand(2)
        seen.run.log(back=1.0)
        training.step()
        (back,) = seen.run.adjustments
        assert torch.equal(torch.rand(2), drawn[back.after["weights_of_step"]])


def test_snapshots_that_do_not_fit_what_the_user_allows_are_refused_and_said(watching, training):
    with watching(**BACK, snapshot_gib=1e-9) as seen:
        training.steps(5)
        seen.run.log(back=1.0)
        training.steps(2)
    assert [(a.action, a.outcome) for a in seen.run.adjustments] == [("roll_back", "refused")]
    assert any("GiB allowed for all of them" in text for text in seen.notices)


def test_all_steps_are_judged_before_validation_that_rests_on_them(watching, training, monkeypatch):
    compared, validation = [], Judge.validation

    def comparing(judge, step, loss, accuracy, train_loss, beginning=None, **options):
        compared.append(train_loss)
        return validation(judge, step, loss, accuracy, train_loss, beginning, **options)

    monkeypatch.setattr(Judge, "validation", comparing)
    losses = []
    with watching():
        for _ in range(6):
            losses.append([training.step() for _ in range(30)])
            training.model.eval()
            with torch.no_grad():
                F.cross_entropy(training.model(training.inputs), training.labels)
            training.model.train()
    assert compared == [pytest.approx(sum(epoch) / 30) for epoch in losses]


@pytest.mark.parametrize("act", ["process", False])
def test_last_steps_are_judged_when_the_run_ends_and_nothing_is_done(watching, training, act):
    with watching(act=act, gradients_every=64) as seen:
        training.steps(290)
        for _ in range(3):
            training.step(spoil=-1000.0)
    (alert,) = [a for a in seen.backend.of(Alert) if a.rule == "loss_spike"]
    assert alert.step in (291, 292, 293)
    assert {adjustment.outcome for adjustment in seen.run.adjustments} <= {"dry_run"}


def test_steps_judged_together_have_each_their_own_update_ratios(watching, training, monkeypatch):
    given, step = {}, Judge.step

    def keeping(judge, optimizer, number, loss, gradients, *rest):
        given[number] = gradients.update_ratios
        return step(judge, optimizer, number, loss, gradients, *rest)

    monkeypatch.setattr(Judge, "step", keeping)
    with watching(gradients_every=1):
        training.steps(100)
    assert sorted(given) == list(range(1, 101))
    assert len({id(ratios) for ratios in given.values()}) == 14  # one in eight steps, and none at the first


def test_steps_after_an_adjustment_are_looked_at_as_closely_as_the_first(tmp_path, training, monkeypatch):
    """Though many of them are judged together by then, and few are sampled: what an adjustment did is seen at once."""
    judged, step = {}, Judge.step

    def noting(judge, optimizer, number, loss, gradients, *rest):
        judged[number] = gradients is not None
        return step(judge, optimizer, number, loss, gradients, *rest)

    monkeypatch.setattr(Judge, "step", noting)
    late = trimtab.Rule("late", signal=lambda loss: float(len(judged) > 400), threshold=0.5, hold=2)
    policy = trimtab.Policy(on="late", ladder=[ScaleLearningRate(0.5)], cooldown=4, budget=3)
    options = {"backends": [], "rules": [late], "policies": [policy]}
    with trimtab.watch(run="close", directory=tmp_path, act="process", **options) as run:
        training.steps(600)
    steps = [each.step for each in run.adjustments if each.outcome == "applied"]
    assert [each - steps[0] for each in steps] == [0, 4, 8]
    sampled = [number - steps[-1] for number, is_sampled in judged.items() if is_sampled and number > steps[-1]]
    assert sampled[:5] == [1, 2, 3, 5, 9]


@pytest.mark.parametrize("fused", [False, True])
def test_weights_for_which_a_scaler_skips_every_step_are_turned_back(watching, training, fused):
    optimizer = torch.optim.Adam(training.model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    with watching(act="process", gradients_every=1) as seen:
        for step in range(60):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(training.model(training.inputs), training.labels)).backward()
            scaler.step(optimizer)
            scaler.update()
            if step == 40:
                training.model[0].weight.data.fill_(math.nan)
    assert [a.action for a in seen.run.adjustments if a.outcome == "applied"][-1] == "roll_back"
    assert all(weights.isfinite().all() for weights in training.weights)


def test_record_ends_with_the_step_in_which_a_rule_begins_to_fire(watching, training, monkeypatch):
    """Nothing may come after it, as where training hangs or validates for long: servers see it all the same."""
    monkeypatch.setattr(books, "RECORD_INTERVAL_S", 60.0)
    bad = []
    rule = trimtab.Rule("bad", signal=lambda loss: float(bool(bad)), threshold=0.5, severity="warning")
    with watching(rules=[rule], gradients_every=1000) as seen:
        training.steps(3)
        bad.append(True)
        training.steps(1)
        bad.clear()
        training.steps(3)
    first, fired, rest = seen.steps()
    assert (first.step, fired.step, rest.step) == (1, 4, 7)
    assert fired.levels["bad"] == fired.verdicts.rule_levels["bad"] == 2.0


def test_rule_that_fires_all_the_time_makes_a_record_at_times_only(watching, training, monkeypatch):
    monkeypatch.setattr(books, "RECORD_INTERVAL_S", 60.0)
    turns = itertools.cycle([0.0, 1.0])
    rule = trimtab.Rule("bad", signal=lambda loss: next(turns), threshold=0.5, clear=0.5, severity="warning")
    with watching(rules=[rule], act="process", gradients_every=1) as seen:
        training.steps(20)
    assert len([alert for alert in seen.backend.of(Alert) if alert.state == "firing"]) == 10
    assert [step.step for step in seen.steps()] == [1, 2, 20]


def test_rule_that_fires_at_the_last_validation_is_counted_though_no_record_follows(watching, training, tmp_path):
    worse = trimtab.Rule("worse", signal="logged:validation_error", threshold=0.5)
    with watching(rules=[worse]) as seen:
        training.steps(2)
        trimtab.log(validation_error=1.0)
    series = SeriesTable(sample_run(tmp_path))
    series.take(seen.backend.events)
    (fired,) = series.metric("trimtab_rule_fired_total").samples
    assert (fired.labels["rule"], fired.value) == ("worse", 1)


@pytest.mark.parametrize("divides", [True, False])
def test_accumulation_that_grows_is_no_divergence(watching, divides):
    """The sum of losses that nobody divides by their number is four times as large in the end."""
    torch.manual_seed(0)
    model, inputs = nn.Linear(8, 3), torch.randn(64, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with watching(act="process") as seen:
        for backwards in [1] * 40 + [2] * 20 + [4] * 60:
            for part in inputs.split(64 // backwards):
                loss = F.cross_entropy(model(part), part[:, :3].argmax(1))
                (loss / backwards if divides else loss).backward()
            optimizer.step()
            optimizer.zero_grad()
    losses = seen.losses()
    assert (losses[40] > 1.5 * losses[39]) != divides
    assert not seen.run.alerts


def test_function_of_the_user_judges_the_loss_as_it_is(watching, training):
    given = []
    rule = trimtab.Rule("seen", signal=lambda loss: given.append(loss) or 0.0, threshold=1.0)
    with watching(rules=[rule]) as seen:
        for backwards in [1] * 30 + [3] * 30:
            for _ in range(backwards):
                F.cross_entropy(training.model(training.inputs), training.labels).backward()
            training.optimizer.step()
            training.optimizer.zero_grad()
    assert given == pytest.approx(seen.losses())
