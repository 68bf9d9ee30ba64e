"""A loss that is as high as before right after going back is not the fault of weights or rate."""

import json

import pytest

from trimtab.actions import Halt, RollBack, ScaleLearningRate
from trimtab.policies import Policy
from trimtab.policies.causes import AT_ONCE, LASTING

DIVERGED = Policy(
    on="loss_diverged", ladder=[(RollBack(), ScaleLearningRate(0.2)), RollBack(), RollBack(), Halt()], cooldown=5
)
SWINGS = Policy(on="loss_oscillating", ladder=[ScaleLearningRate(0.3)], cooldown=5)
LOWER = "roll_back scale_learning_rate"


@pytest.fixture
def gone_back(course):
    """A run that went back at step 100, to a fifth of its rate; `lost` is what validation goes on losing."""

    def make(lost=0.0, **options):
        run = course(DIVERGED, SWINGS, validation_worsens=lambda optimizer: lost, **options)
        assert run.fire("loss_diverged", 100, since=81) == [LOWER]
        run.engine.fence()
        run.engine.scaled("0", 0.2)
        return run

    return make


def test_rate_is_given_back_where_the_loss_is_as_high_at_once(gone_back):
    run = gone_back()
    assert run.fire("loss_diverged", 120, since=101) == ["creep_back"]
    (action,) = run.decisions[-1].actions
    assert action.factor == pytest.approx(5.0)


def test_run_whose_rate_was_not_lowered_is_told_once_why_nothing_is_done(gone_back):
    run = gone_back()
    run.engine.unscaled("0")
    assert run.fire("loss_diverged", 120, since=101) == ["refused"]
    assert "what is asked of the model has changed" in run.decisions[-1].reason
    assert run.judge(140) == []


def test_loss_that_rises_again_later_climbs_the_ladder(gone_back):
    assert gone_back().fire("loss_diverged", 123, since=100 + AT_ONCE + 1) == ["roll_back"]


def test_a_few_bad_steps_after_going_back_climb_the_ladder(gone_back):
    assert gone_back().fire("loss_diverged", 100 + LASTING, since=101) == ["roll_back"]


def test_halt_follows_at_once_where_validation_gets_worse_too(gone_back):
    assert gone_back(lost=0.7).fire("loss_diverged", 120, since=101) == ["halt"]


def test_episode_waits_for_validation(course):
    lost = []
    run = course(DIVERGED, validation_worsens=lambda optimizer: sum(lost))
    run.fire("loss_diverged", 100, since=81)
    assert run.fire("loss_diverged", 120, since=101) == ["refused"]
    lost.append(0.7)
    assert run.judge(150) == ["halt"]


@pytest.mark.parametrize("rule", ["loss_diverged", "loss_oscillating"])
def test_loss_that_told_nothing_is_not_believed_later(gone_back, rule):
    run = gone_back()
    run.fire("loss_diverged", 120, since=101)
    run.resolve("loss_diverged", 130)
    run.engine.scaled("0", 1.0)
    assert run.fire(rule, 900, since=881) == ["refused"]
    assert run.fire(rule, 950, since=931, optimizer="1") != ["refused"]


def test_what_was_found_out_survives_a_resume(gone_back):
    run = gone_back()
    run.fire("loss_diverged", 120, since=101)
    run.engine.scaled("0", 1.0)
    other = run.resumed(json.loads(json.dumps(run.engine.state())))
    assert other.fire("loss_diverged", 500, since=481) == ["refused"]


def test_refused_rollback_tells_nothing(course):
    run = course(Policy(on="loss_diverged", ladder=[RollBack(), ScaleLearningRate(0.5)], cooldown=5))
    run.refusing = ("roll_back",)
    assert run.fire("loss_diverged", 100, since=81) == ["roll_back", "scale_learning_rate"]
    assert run.fire("loss_diverged", 120, since=101) == ["scale_learning_rate"]


def test_raise_waits_until_the_run_is_known_to_be_slow(course):
    slow = []
    run = course(Policy(on="gradient_vanishing", ladder=[ScaleLearningRate(3.0)]), is_slow=lambda rule, o: bool(slow))
    assert run.fire("gradient_vanishing", 10, severity="warning") == []
    slow.append(True)
    assert run.judge(40) == ["scale_learning_rate"]
