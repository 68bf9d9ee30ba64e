"""The best state: put back when the user asks for it, and not lost where a run ends in trouble."""

import copy
import gc
import threading
from unittest.mock import Mock

import pytest
import torch
from controller_training import Training, same
from torch.nn import functional as F

import trimtab
from trimtab.actuators import snapshots
from trimtab.types import Adjustment

GOES_WRONG = trimtab.Rule("goes_wrong", signal=lambda loss: float(loss > 0.5), threshold=0.5, severity="warning")
NOTHING = {"act": "process", "policies": []}  # the best state is kept, and nothing is adjusted


def validate(training, spoil=1.0):
    """One pass, over inputs that were not trained on."""
    training.model.eval()
    with torch.no_grad():
        held_out = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
        F.cross_entropy(training.model(held_out * spoil), held_out[:, :3].argmax(1))
    training.model.train()


def state_of(training):
    return copy.deepcopy((training.model.state_dict(), training.optimizer.state_dict()))


def assert_alike(training, state):
    model, optimizer = state
    assert same(training.model.state_dict().values(), model.values())
    now = training.optimizer.state_dict()["state"]
    assert all(torch.equal(now[i][name], value) for i, of in optimizer["state"].items() for name, value in of.items())


def learn_and_spoil(training):
    """Two epochs that learn, and one of the wrong sign. Returns the state at the better validation."""
    training.steps(10)
    validate(training)
    training.steps(10)
    validate(training)
    best = state_of(training)
    unlearn(training, 15)
    validate(training)
    return best


def unlearn(training, count):
    for _ in range(count):
        training.optimizer.zero_grad()
        loss = F.cross_entropy(training.model(training.inputs), training.labels)
        loss.backward()
        for parameter in training.model.parameters():
            parameter.grad.neg_()
        training.optimizer.step()


def test_best_state_is_put_back_in_place_bit_for_bit(watching, training):
    with watching(**NOTHING) as seen:
        held = [p.data_ptr() for p in training.model.parameters()]
        best = learn_and_spoil(training)
        assert trimtab.restore_best() is True
        assert_alike(training, best)
        assert [p.data_ptr() for p in training.model.parameters()] == held
    (notice,) = [text for text in seen.notices if "restore_best" in text]
    assert "of step 20" in notice
    assert "in place of that of step 35" in notice


@pytest.mark.parametrize("spoil", [1.0, float("nan")])
@pytest.mark.parametrize("in_files", [False, True])
def test_running_statistics_are_put_back_as_they_were_validated(watching, training, tmp_path, spoil, in_files):
    """The end of a validation shows when training goes on: by then they have learned from the next batch."""
    norm = torch.nn.BatchNorm1d(8)
    training.model = torch.nn.Sequential(norm, torch.nn.Linear(8, 3))
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.1)
    with watching(**NOTHING, snapshot_directory=tmp_path / "snapshots" if in_files else None):
        training.steps(10)
        validate(training)
        best = copy.deepcopy(training.model.state_dict())
        training.inputs = training.inputs * 2.0 * spoil
        unlearn(training, 5)
        validate(training)
        assert not torch.equal(norm.running_mean, best["0.running_mean"])
        assert trimtab.restore_best()
    assert same(training.model.state_dict().values(), best.values())


def validate_average(training, average):
    """Its weights stand in for those that train, as with most averages that are written by hand."""
    own = copy.deepcopy(training.model.state_dict())
    training.model.load_state_dict(average)
    validate(training)
    training.model.load_state_dict(own)


def test_best_state_is_of_the_average_where_that_is_validated(watching, training):
    with watching(**NOTHING) as seen:
        validated = []
        for _ in range(3):
            training.steps(10)
            validated.append({name: value * 0.9 for name, value in training.model.state_dict().items()})
            validate_average(training, validated[-1])
        unlearn(training, 15)
        validate_average(training, training.model.state_dict())
        training.step()
        assert trimtab.restore_best() is True
        assert same(training.model.state_dict().values(), validated[-1].values())
    (notice,) = [text for text in seen.notices if "other weights were validated" in text]
    assert "After step 10 " in notice  # of that pass nothing is kept


def test_model_that_is_gone_after_its_last_validation_was_not_changed(watching, training):
    """Its parameters live on in the optimizer, which a scheduler may hold in a cycle."""
    training.model = torch.nn.Sequential(torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.1)
    with watching(**NOTHING) as seen:
        training.steps(10)
        validate(training)
        training.model = None
        gc.collect()
    assert not any("other weights were validated" in text for text in seen.notices)


def test_model_that_is_changed_after_its_validation_was_not_validated(watching, training):
    with watching(**NOTHING) as seen:
        training.steps(10)
        validate(training)
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter.mul_(0.1)
        training.step()
        assert trimtab.restore_best() is False
    assert any("no validation result" in text for text in seen.notices)


def test_training_loss_that_is_logged_under_the_name_of_what_is_monitored_makes_no_state_the_best(watching, training):
    with watching(**NOTHING) as seen:
        training.steps(10)
        validate(training)
        best = state_of(training)
        seen.run.log(loss=training.step() - 100.0, phase="train")
        assert seen.run.restore_best()
        assert_alike(training, best)


class InTwoParts(torch.optim.SGD):
    """Moves the weights a second time, and has something done in the middle of it."""

    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            self.param_groups[0]["params"][0].mul_(1.5)
            meanwhile = threading.Thread(target=self.meanwhile)
            meanwhile.start()
            meanwhile.join()
            self.param_groups[0]["params"][0].mul_(1.5)


@pytest.mark.parametrize("steps_after", [0, 10])
def test_value_that_another_thread_logs_during_a_step_is_of_the_weights_after_it(watching, training, steps_after):
    training.optimizer = InTwoParts(training.model.parameters(), lr=0.1)
    training.optimizer.meanwhile = lambda: None
    with watching(**NOTHING, monitor=("score", "max")) as seen:
        training.steps(3)
        training.optimizer.meanwhile = lambda: seen.run.log(score=0.5)
        training.step()
        best = state_of(training)
        training.optimizer.meanwhile = lambda: None
        training.steps(steps_after)
        assert seen.run.restore_best()
        assert_alike(training, best)


def test_last_validation_counts_although_no_training_follows_it(watching, training):
    with watching(**NOTHING) as seen:
        training.steps(10)
        validate(training)
        training.steps(10)
        validate(training)
        best = state_of(training)
        assert seen.run.restore_best()
        assert_alike(training, best)
    assert len(seen.validations) == 2


def test_training_goes_on_after_it_as_from_there(watching, training):
    with watching(**NOTHING):
        best = learn_and_spoil(training)
        trimtab.restore_best()
        training.steps(5)
        expected = Training()
        expected.model.load_state_dict(best[0])
        expected.optimizer.load_state_dict(best[1])
        expected.steps(5)
        assert same(training.weights, expected.weights)


def test_weights_that_were_put_back_are_not_judged_by_what_came_between(watching, training):
    with watching(act="process") as seen:
        training.steps(60)
        validate(training)
        unlearn(training, 8)
        trimtab.restore_best()
        training.steps(60)
    assert not [alert for alert in seen.run.alerts if alert.step > 68]


def test_every_optimizers_model_is_put_back(watching):
    one, other = Training(), Training(lr=0.01)
    with watching(**NOTHING):
        for _ in range(5):
            one.step()
            other.step()
        validate(one)
        best = state_of(one), state_of(other)
        unlearn(one, 5)
        unlearn(other, 5)
        assert trimtab.restore_best()
    assert_alike(one, best[0])
    assert_alike(other, best[1])


def test_dry_run_keeps_no_state_and_says_how_to_have_one(watching, training, monkeypatch):
    copied = Mock()  # what would take the memory of the model and of its optimizer
    monkeypatch.setattr(snapshots, "Picture", copied)
    with watching() as seen:
        learn_and_spoil(training)
        before = training.weights
        assert trimtab.restore_best() is False
        assert same(training.weights, before)
    (notice,) = [text for text in seen.notices if "restore_best" in text]
    assert "policies=[]" in notice
    assert not copied.called


def test_keeping_the_best_state_alone_adjusts_nothing(watching):
    bare = Training()
    learn_and_spoil(bare)
    watched = Training()
    with watching(**NOTHING) as seen:
        learn_and_spoil(watched)
        assert same(bare.weights, watched.weights)
    assert not seen.run.adjustments


def test_run_without_validation_has_no_best_state(watching, training):
    with watching(act="process") as seen:
        training.steps(10)
        assert not trimtab.restore_best()
    assert any("no validation result has been seen yet" in text for text in seen.notices)


def test_run_that_is_over_keeps_no_state_and_warns(watching, training):
    with watching(**NOTHING) as seen:
        learn_and_spoil(training)
    before = training.weights
    with pytest.warns(RuntimeWarning, match="before the watched function"):
        assert not trimtab.restore_best()
    with pytest.warns(RuntimeWarning, match="is over"):
        assert not seen.run.restore_best()
    assert same(training.weights, before)


def test_disabled_run_is_silent(monkeypatch, training):
    monkeypatch.setenv("TRIMTAB_DISABLED", "1")
    with trimtab.watch() as run:
        training.steps(3)
        assert not run.restore_best()


def test_run_that_ends_in_trouble_leaves_its_best_state_on_disk_and_says_so(watching, training):
    with watching(**NOTHING, rules=[GOES_WRONG]) as seen:
        best = learn_and_spoil(training)
        last = training.weights
    saved = torch.load(seen.run.directory / "best.pt", weights_only=True)
    assert same(saved["models"]["Sequential"].values(), best[0].values())
    assert saved["step"] == 20
    assert same(training.weights, last)
    (notice,) = [text for text in seen.notices if "best.pt" in text]
    assert "ended at step 35 while goes_wrong fires" in notice
    assert "trimtab.restore_best()" in notice


def nothing_written(seen):
    ended = [text for text in seen.notices if "ended at step" in text]
    return not ended and not (seen.run.directory / "best.pt").exists()


def test_run_that_ends_worse_than_its_best_while_no_rule_minds_writes_nothing(watching, training):
    with watching(**NOTHING) as seen:
        learn_and_spoil(training)
    assert nothing_written(seen)


def test_run_that_ends_with_its_best_state_in_place_writes_nothing_whatever_fires(watching, training):
    rule = trimtab.Rule("enough", signal="logged:enough", threshold=1.0)
    with watching(**NOTHING, rules=[rule]) as seen:
        learn_and_spoil(training)
        assert trimtab.restore_best()
        trimtab.log(enough=1.0)
    assert nothing_written(seen)


def test_run_that_ends_at_its_best_writes_nothing(watching, training):
    with watching(**NOTHING, rules=[GOES_WRONG]) as seen:
        learn_and_spoil(training)
        assert trimtab.restore_best()
    assert nothing_written(seen)


def test_best_state_that_does_not_fit_beside_the_present_one_is_not_written(watching, training):
    with watching(**NOTHING, rules=[GOES_WRONG], snapshot_gib=4000 / 2**30) as seen:  # one state takes 2,324 bytes
        learn_and_spoil(training)
    assert not (seen.run.directory / "best.pt").exists()
    assert any("no room" in text and "trimtab.restore_best()" in text for text in seen.notices)


def test_loop_that_validates_before_it_trains_can_go_back_to_where_it_began(watching, training):
    early = trimtab.Rule("early", signal=lambda loss: 1.0, threshold=0.5, hold=10)
    policy = trimtab.Policy(on="early", ladder=[trimtab.actions.RollBack()], budget=1)
    beginning = training.weights
    with watching(act="process", rules=[early], policies=[policy]) as seen:
        validate(training)
        training.steps(9)
        training.step(spoil=3.0)
        assert same(training.weights, beginning)
    (back,) = seen.backend.of(Adjustment)
    assert (back.outcome, back.after) == ("applied", {"weights_of_step": 0})
