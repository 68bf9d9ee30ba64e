"""Several trainings in one process, one after the other: cross-validation, a search, a second stage."""

import copy
import itertools

import pytest
import torch
from controller_training import Training
from torch import nn
from torch.nn import functional as F

import trimtab
from trimtab.actions import ClipGradients, Halt, RollBack, ScaleLearningRate, SetDropout
from trimtab.types import Adjustment, Alert, RunEnd, Step

STEPS = 120


@pytest.fixture
def unfinished():
    return Training(lr=0.05)


def validate(model, inputs, labels):
    with torch.no_grad():
        F.cross_entropy(model(inputs), labels)


@pytest.fixture(params=["dropped", "kept"])
def train_in_turn(request):
    """What trains so many models: each one dropped before the next, or all of them kept, as by folds in a list."""
    kept = []

    def train(count):
        for _ in range(count):
            training = Training(lr=0.05)
            kept.append(training)
            if request.param == "dropped":
                kept.clear()
            train_and_validate(training)

    return train


def train_and_validate(training, epochs=4):
    for _ in range(epochs):
        training.steps(STEPS // 4)
        validate(training.model, -training.inputs, training.labels)


def test_next_fold_of_a_cross_validation_raises_no_alarm_by_its_beginning(watching, train_in_turn):
    with watching(gradients_every=1) as seen:
        train_in_turn(1)
        alone = [alert.rule for alert in seen.backend.of(Alert)]
        train_in_turn(2)
    assert [alert.rule for alert in seen.backend.of(Alert)] == 3 * alone


def test_next_fold_raises_no_alarm_though_every_optimizer_is_kept(watching):
    """The second is validated on harder data: it gets better all the time, and never as good as the first was."""
    stuck = trimtab.Rule("stuck", signal="validations_since_best", threshold=3)
    kept = [Training(lr=0.01), Training(lr=0.01)]
    with watching(gradients_every=1, rules=[stuck]) as seen:
        for training, wrong in zip(kept, (0, 8), strict=True):
            labels = training.labels.clone()
            labels[:wrong] = labels[:wrong].roll(1)
            for _ in range(6):
                training.steps(4)
                validate(training.model, training.inputs, labels)
    losses = [validation.loss for validation in seen.validations]
    assert min(losses[6:]) == losses[-1] > losses[5] < losses[4]
    assert [alert.rule for alert in seen.backend.of(Alert)] == []


def test_levels_of_a_short_training_are_told_though_another_ended_just_before(watching, train_in_turn):
    rule = trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5, severity="info")
    with watching(gradients_every=1, rules=[rule]) as seen:
        train_in_turn(2)
    second = [event for event in seen.backend.of(Step) if event.phase == "train" and event.step > STEPS]
    assert second[-1].verdicts.rule_levels["always"] == 2.0


def test_levels_of_a_training_are_not_those_of_the_next(watching, train_in_turn):
    first = [True]
    rule = trimtab.Rule("first", signal=lambda loss: float(bool(first)), threshold=0.5, severity="info")
    with watching(gradients_every=1, rules=[rule]) as seen:
        train_in_turn(1)
        first.clear()
        train_in_turn(1)
    second = [event for event in seen.backend.of(Step) if event.phase == "train" and event.step > STEPS]
    assert second[-1].verdicts.rule_levels["first"] == 0.0


def test_average_of_the_loss_begins_with_each_model(watching, train_in_turn):
    with watching(gradients_every=1) as seen:
        train_in_turn(2)
    second = next(event for event in seen.backend.of(Step) if event.phase == "train" and event.step > STEPS)
    assert second.loss_ema == pytest.approx(second.loss)


def test_fold_is_turned_back_to_its_own_beginning_though_the_one_before_it_is_kept(watching):
    wanted = []
    rule = trimtab.Rule("wanted", signal=lambda loss: float(bool(wanted)), threshold=0.5, severity="warning")
    policy = trimtab.Policy(on="wanted", ladder=[RollBack(back=100)])  # as far as there is
    first, second = Training(), Training()
    with watching(act="process", gradients_every=1, rules=[rule], policies=[policy]) as seen:
        train_and_validate(first)
        second.steps(20)
        wanted.append(True)
        second.steps(2)
        wanted.clear()
    applied = next(event for event in seen.backend.of(Adjustment) if event.outcome == "applied")
    assert (applied.optimizer, applied.after["weights_of_step"]) == ("1", STEPS)


def test_other_optimizer_of_the_same_model_goes_on(watching, unfinished):
    with watching(gradients_every=1) as seen:
        unfinished.steps(20)
        unfinished.optimizer = torch.optim.SGD(unfinished.model.parameters(), lr=0.01)
        unfinished.step()
    last = seen.backend.of(Step)[-1]
    assert last.optimizer == "0"
    assert last.loss_ema > 1.1 * last.loss


def test_optimizer_that_trains_more_layers_of_the_model_goes_on(watching, unfinished):
    unfinished.optimizer = torch.optim.Adam(unfinished.model[2].parameters(), lr=0.05)
    with watching(gradients_every=1) as seen:
        unfinished.steps(20)
        unfinished.optimizer = torch.optim.Adam(unfinished.model.parameters(), lr=0.05)
        unfinished.step()
    last = seen.backend.of(Step)[-1]
    assert last.optimizer == "0"
    assert last.loss_ema > 1.1 * last.loss


@pytest.mark.parametrize("action", [ScaleLearningRate(0.1), Halt()])
def test_what_the_last_validation_of_a_fold_brings_about_is_not_done_to_the_next_one(watching, train_in_turn, action):
    bad = trimtab.Rule("bad", signal="logged:bad", threshold=1.0)
    policies = [trimtab.Policy(on="bad", ladder=[action])]
    with watching(act="process", gradients_every=1, rules=[bad], policies=policies) as seen:
        train_in_turn(1)
        seen.run.log(bad=2.0)
        train_in_turn(1)
        assert not trimtab.should_stop()
    ((outcome, reason),) = [(a.outcome, a.reason) for a in seen.run.adjustments if a.action == action.name]
    assert (outcome, reason) == ("refused", "another model is trained by now")


def test_each_training_has_a_budget_of_its_own(watching, train_in_turn):
    rule = trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5)
    policies = [trimtab.Policy(on="always", ladder=[ScaleLearningRate(0.5), Halt()], budget=1, cooldown=0)]
    with watching(act="process", rules=[rule], policies=policies) as seen:
        train_in_turn(3)
    applied = [(a.action, a.step) for a in seen.run.adjustments if a.outcome == "applied"]
    assert [action for action, _ in applied] == 3 * ["scale_learning_rate"]
    assert [step // STEPS for _, step in applied] == [0, 1, 2]


def test_first_steps_of_each_training_are_looked_at_as_closely(tmp_path, train_in_turn):
    """Though the intervals have settled in the first: steps that are far too long are seen at the second."""
    bad = Training()
    bad.model = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 3))
    bad.optimizer = torch.optim.Adam(bad.model.parameters(), lr=1.0)
    with trimtab.watch(run="closely", directory=tmp_path, backends=[], act="process") as run:
        train_in_turn(2)
        bad.steps(5)
    first = next(each for each in run.adjustments if each.outcome == "applied")
    assert (first.rule, first.step - 2 * STEPS) == ("update_too_large", 2)
    assert first.after["weights_of_step"] == 2 * STEPS
    assert f"since step {2 * STEPS + 1}" in first.reason


HALTING = {
    "rules": [trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5)],
    "policies": [trimtab.Policy(on="always", ladder=[Halt()])],
}


@pytest.mark.parametrize("asks_first", [False, True])
@pytest.mark.parametrize("is_kept", [False, True])
def test_halt_ends_the_training_that_it_is_about(watching, asks_first, is_kept):
    kept, counts = [], []
    with watching(act="process", **HALTING) as seen:
        for _ in range(3):
            training = Training()
            kept += [training] if is_kept else []
            counts.append(0)
            while not (asks_first and trimtab.should_stop()):
                training.step()
                counts[-1] += 1
                if trimtab.should_stop():
                    break
            assert trimtab.should_stop()  # as an outer loop asks again
            assert seen.run.halted
            validate(training.model, training.inputs, training.labels)
    assert [a.step for a in seen.run.adjustments if a.outcome == "applied"] == list(itertools.accumulate(counts))


def test_run_whose_last_training_was_not_halted_is_no_halted_run(watching):
    rule = trimtab.Rule("bad", signal="logged:bad", threshold=1.0)
    policy = trimtab.Policy(on="bad", ladder=[Halt()])
    with watching(act="process", rules=[rule], policies=[policy]) as seen:
        first = Training()
        first.steps(3)
        seen.run.log(bad=2.0)
        first.step()
        assert trimtab.should_stop()
        Training().steps(3)
        assert not trimtab.should_stop()
    assert seen.backend.of(RunEnd)[-1].status == "completed"


def test_unwinding_that_a_search_catches_leaves_the_next_training_alone(watching):
    ends = []
    with watching(act="process", on_halt="unwind", **HALTING) as seen:
        for _ in range(3):
            with pytest.raises(trimtab.HaltTraining):
                Training().steps(STEPS)
            ends.append(seen.run.adjustments[-1].step)
    assert len(set(ends)) == len(seen.run.adjustments) == 3


def test_optimizer_that_was_there_when_the_run_was_halted_is_no_next_training(watching):
    training, waiting = Training(), Training()
    with watching(act="process", **HALTING):
        while not trimtab.should_stop():
            training.step()
        assert trimtab.should_stop()
        other = torch.optim.SGD(training.model.parameters(), lr=0.1)  # of the model that was trained
        assert trimtab.should_stop()
    assert waiting.optimizer is not other


def test_next_fold_of_one_name_begins_at_its_own_rate_and_dropout(watching):
    """Though the optimizer of the one before it is kept, which is no part of it."""
    ladders = {
        "slow": [(ScaleLearningRate(0.1), SetDropout(0.5))],
        "clip": [(ScaleLearningRate(0.5), ClipGradients(1.0, steps=3))],
    }
    rules = [trimtab.Rule(name, signal=f"logged:{name}", threshold=1.0) for name in ladders]
    policies = [trimtab.Policy(on=name, ladder=ladder, cooldown=0) for name, ladder in ladders.items()]
    kept = [Training(lr=0.05), Training(lr=0.05)]
    with watching(act="process", gradients_every=1, rules=rules, policies=policies) as seen:
        for training, name in zip(kept, ladders, strict=True):
            training.model.append(nn.Dropout(0.1))
            seen.run.attach(model=training.model, optimizer={"main": training.optimizer})
            training.steps(2)
            seen.run.log({name: 2.0})
            training.steps(2)
        assert seen.run.state_dict()["steering"]["main"]["learning_rate"]["target"] == 0.5
        assert [training.model[-1].p for training in kept] == [0.1, 0.1]
    assert [a.outcome for a in seen.run.adjustments] == ["applied"] * 4


def test_next_training_is_turned_back_to_no_state_of_the_one_before(watching):
    wanted = []
    rule = trimtab.Rule("wanted", signal=lambda loss: float(bool(wanted)), threshold=0.5, severity="warning")
    policy = trimtab.Policy(on="wanted", ladder=[RollBack(back=100)])  # as far as there is
    body = nn.Linear(8, 16)  # trained by both
    training = Training()
    with watching(act="process", gradients_every=1, rules=[rule], policies=[policy]) as seen:
        training.model[0] = body
        training.optimizer = torch.optim.Adam(training.model.parameters(), lr=0.05)
        training.steps(STEPS)
        training.model = nn.Sequential(body, nn.Tanh(), nn.Linear(16, 3))
        training.optimizer = torch.optim.Adam(training.model.parameters(), lr=0.05)
        training.steps(20)
        wanted.append(True)
        training.steps(2)
        wanted.clear()
    applied = next(event for event in seen.backend.of(Adjustment) if event.outcome == "applied")
    assert applied.after["weights_of_step"] == STEPS


class Restarted:
    """A training that is put back to its beginning, as after a search for a learning rate, and ends differently."""

    def __init__(self, others_first):
        self.training = Training(lr=0.05)
        self._begun = copy.deepcopy((self.training.model.state_dict(), self.training.optimizer.state_dict()))
        self._others_first = others_first

    def put_back(self, model=True, optimizer=True):
        weights, state = copy.deepcopy(self._begun)
        if optimizer and self._others_first:
            self.training.optimizer.load_state_dict(state)
        if model:
            self.training.model.load_state_dict(weights)
        if optimizer and not self._others_first:
            self.training.optimizer.load_state_dict(state)

    def optimizer_anew(self):
        self.training.optimizer = torch.optim.Adam(self.training.model.parameters(), lr=0.05)


@pytest.fixture(params=[False, True], ids=["model first", "optimizer first"])
def restarted(request):
    return Restarted(request.param)


def first_averages(seen):
    """The first record after `STEPS` has but one step, and its average is of that alone where a training begins."""
    after = next(event for event in seen.backend.of(Step) if event.phase == "train" and event.step > STEPS)
    return after.loss_ema, after.loss


def test_training_that_is_put_back_to_its_beginning_begins_anew(watching, restarted):
    rule = trimtab.Rule("wanted", signal=lambda loss: float(bool(wanted)), threshold=0.5, severity="warning")
    policy = trimtab.Policy(on="wanted", ladder=[(RollBack(back=100), ScaleLearningRate(0.5))], budget=2)
    wanted = []
    with watching(act="process", gradients_every=1, rules=[rule], policies=[policy]) as seen:
        restarted.training.steps(STEPS - 2)
        wanted.append(True)
        restarted.training.steps(2)
        wanted.clear()
        restarted.put_back()
        restarted.training.steps(20)
        assert seen.run.state_dict()["steering"]["0"]["learning_rate"]["target"] == 1.0
        wanted.append(True)
        restarted.training.steps(2)
    first, _, second, _ = [event for event in seen.backend.of(Adjustment) if event.outcome == "applied"]
    assert (first.after["weights_of_step"], second.after["weights_of_step"]) == (0, STEPS)
    ema, loss = first_averages(seen)
    assert ema == pytest.approx(loss)


class Turns:
    """Two models that are trained in turns, of which a policy lowers the rate of the first."""

    def __init__(self):
        self.wanted = []
        self.first, self.second = Training(lr=0.05), Training(lr=0.05)
        self.begun = copy.deepcopy(self.first.model.state_dict())
        self.rule = trimtab.Rule("wanted", signal=lambda loss: float(bool(self.wanted)), threshold=0.5)
        self.policy = trimtab.Policy(on="wanted", ladder=[ScaleLearningRate(0.5)])

    def lower(self):
        self.wanted.append(True)
        self.first.steps(2)
        self.wanted.clear()

    def train_each(self):
        self.first.steps(STEPS // 2)
        self.lower()
        validate(self.first.model, self.first.inputs, self.first.labels)
        self.second.steps(STEPS // 2)
        validate(self.second.model, self.second.inputs, self.second.labels)


@pytest.fixture
def turns():
    return Turns()


def steering_of(seen, label):
    return seen.run.state_dict()["steering"][label]


def test_model_that_comes_back_goes_on_at_the_rate_that_it_was_lowered_to(watching, turns):
    with watching(act="process", gradients_every=1, rules=[turns.rule], policies=[turns.policy]) as seen:
        turns.train_each()
        away = steering_of(seen, "0")
        turns.first.steps(2)
        back = steering_of(seen, "0")
        second = steering_of(seen, "1")
        turns.lower()
        twice = seen.run.state_dict()["engine"]["rates"]["creeping"]["0"]
    assert away["learning_rate"]["target"] == second["learning_rate"]["target"] == 1.0
    assert back["learning_rate"]["target"] == 0.5
    assert (twice["scale"], twice["fell_at"]) == (0.25, 0.5)


def test_model_that_comes_back_to_its_beginning_is_another_one(watching, turns):
    with watching(act="process", gradients_every=1, rules=[turns.rule], policies=[turns.policy]) as seen:
        turns.train_each()
        turns.first.model.load_state_dict(turns.begun)
        turns.first.steps(2)
        assert steering_of(seen, "0")["learning_rate"]["target"] == 1.0


def test_new_optimizer_of_a_model_that_comes_back_does_not_take_over_what_was_asked_of_the_old_one(watching, turns):
    with watching(act="process", gradients_every=1, rules=[turns.rule], policies=[turns.policy]) as seen:
        turns.train_each()
        turns.first.optimizer = torch.optim.Adam(turns.first.model.parameters(), lr=0.05)
        turns.first.steps(2)
        assert steering_of(seen, "0")["learning_rate"]["target"] == 1.0
        assert "0" not in seen.run.state_dict()["engine"]["rates"]["creeping"]


def test_low_loss_of_a_model_that_comes_back_is_not_where_it_began(watching, turns):
    """Its loss has nothing to come down by any more."""
    stuck = trimtab.Rule("stuck", signal="loss_progress", threshold=0.5)
    with watching(gradients_every=1, rules=[stuck]) as seen:
        turns.train_each()
        validate(turns.second.model, turns.second.inputs, turns.second.labels)
        turns.first.optimizer.param_groups[0]["lr"] = 0.0
        turns.first.steps(STEPS)
    assert [alert.rule for alert in seen.backend.of(Alert) if alert.optimizer == "0"] == []


@pytest.mark.parametrize("is_kept", [False, True])
def test_new_optimizer_of_a_model_that_is_put_back_begins_anew(watching, restarted, is_kept):
    kept = [restarted.training.optimizer] if is_kept else []
    with watching(gradients_every=1) as seen:
        restarted.training.steps(STEPS)
        restarted.put_back(optimizer=False)
        restarted.optimizer_anew()
        restarted.training.steps(2)
    ema, loss = first_averages(seen)
    assert ema == pytest.approx(loss)
    assert len(kept) == is_kept


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("draws", ["modules", "modules, then their owner"])
def test_new_optimizer_of_a_model_that_is_drawn_anew_begins_anew(watching, training, is_kept, draws):
    """As the folds of a cross-validation with one model."""
    kept = [training.optimizer] if is_kept else []
    with watching(gradients_every=1) as seen:
        training.steps(STEPS)
        training.model.apply(lambda module: module.reset_parameters() if isinstance(module, nn.Linear) else None)
        if draws != "modules":
            for parameter in training.model.parameters():
                nn.init.normal_(parameter, std=0.1)
        training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=0.05)
        training.steps(2)
    ema, loss = first_averages(seen)
    assert ema == pytest.approx(loss)
    assert len(kept) == is_kept


def test_new_optimizer_of_weights_that_are_loaded_goes_on_with_the_training(watching, training):
    """As a second stage does, with the best weights of the first."""
    with watching(gradients_every=1) as seen:
        training.steps(STEPS // 2)
        best = copy.deepcopy(training.model.state_dict())
        training.steps(STEPS // 2)
        training.model.load_state_dict(best)
        training.optimizer = torch.optim.Adam(training.model.parameters(), lr=0.05)
        training.steps(2)
    ema, loss = first_averages(seen)
    assert abs(ema - loss) > 0.02 * loss


@pytest.mark.parametrize("loaded", ["optimizer alone", "model alone", "both, of a later step"])
def test_what_is_loaded_otherwise_is_no_beginning(watching, restarted, loaded):
    training = restarted.training
    with watching(gradients_every=1) as seen:
        training.steps(STEPS // 2)
        if loaded == "both, of a later step":
            restarted._begun = copy.deepcopy((training.model.state_dict(), training.optimizer.state_dict()))
        training.steps(STEPS // 2)
        restarted.put_back(model=loaded != "optimizer alone", optimizer=loaded != "model alone")
        training.steps(2)
    ema, loss = first_averages(seen)
    assert abs(ema - loss) > 0.02 * loss


def test_search_for_a_learning_rate_is_no_evidence_against_the_training_after_it(watching, restarted):
    """A rate that rises until the loss diverges; then the first weights, and a rate that suits them."""
    training = restarted.training
    with watching(act="process") as seen:
        for step in range(100):
            training.optimizer.param_groups[0]["lr"] = 1e-4 * 1.15**step
            training.step()
        restarted.put_back()
        training.steps(100)
        losses = [training.step() for _ in range(4)]
    assert max(losses) < 0.1
    assert [a.step for a in seen.backend.of(Adjustment) if a.outcome == "applied" and a.step > 100] == []
