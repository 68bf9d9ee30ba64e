"""A loss that is as high as before right after going back is not the fault of weights or rate."""

import json

import pytest

from trimtab.actions import Halt, RollBack, ScaleLearningRate
from trimtab.policies import Evidence, Policy
from trimtab.policies.causes import AT_ONCE, HARMFUL, LASTING
from trimtab.types import Strides

NONE = Strides()
DIVERGED = Policy(
    on="loss_diverged", ladder=[(RollBack(), ScaleLearningRate(0.2)), RollBack(), RollBack(), Halt()], cooldown=5
)
JUMPED = Policy(on="loss_spike", ladder=[RollBack(), (RollBack(), ScaleLearningRate(0.3))], cooldown=5, memory=1000)
SWINGS = Policy(on="loss_oscillating", ladder=[ScaleLearningRate(0.3)], cooldown=5)
LOWER = "roll_back scale_learning_rate"


class Known(Evidence):
    """True where what it is given is, at that moment."""

    def __init__(self, *, harmful=False, slow=True, strides=NONE, good=False):
        self.harmful, self.slow, self.known, self.good = harmful, slow, strides, good

    def were_good(self, optimizer):
        return self.good

    def strides(self, rule, optimizer):
        return self.known

    def is_harmful(self, optimizer):
        return bool(self.harmful)

    def is_slow(self, rule, optimizer):
        return bool(self.slow)


@pytest.fixture
def gone_back(course):
    """A run that went back at step 100, to a fifth of its rate; `harmful` says whether training makes it worse."""

    def make(harmful=False, **options):
        run = course(DIVERGED, SWINGS, evidence=Known(harmful=harmful), **options)
        assert run.fire("loss_diverged", 100, since=81) == [LOWER]
        run.engine.fence()
        run.engine.scaled("0", 0.2)
        return run

    return make


@pytest.fixture
def in_vain(gone_back):
    """A run that went back twice, at steps 100 and 120, and whose loss was as high at once."""

    def make(harmful=False, **options):
        run = gone_back(harmful, **options)
        assert run.fire("loss_diverged", 120, since=101) == ["roll_back"]
        run.engine.fence()
        return run

    return make


def test_older_snapshot_is_tried_first(gone_back):
    run = gone_back()
    run.fire("loss_diverged", 120, since=101)
    assert [action.back for decision in run.decisions for action in decision.actions[:1]] == [0, 1]


@pytest.fixture
def gone_back_to_good(course):
    """A run that went back at step 100, to a fifth of its rate, and to weights that are known to have been good."""
    run = course(DIVERGED, JUMPED, evidence=Known(good=True))
    assert run.fire("loss_diverged", 100, since=81) == [LOWER]
    run.engine.fence()
    run.engine.scaled("0", 0.2)
    return run


def test_rate_is_given_back_at_once_where_the_weights_are_known_to_have_been_good(gone_back_to_good):
    assert gone_back_to_good.fire("loss_diverged", 120, since=101) == ["creep_back"]
    (action,) = gone_back_to_good.decisions[-1].actions
    assert action.factor == pytest.approx(5.0)


def test_rise_that_comes_later_is_the_fault_of_weights_that_were_good(gone_back_to_good):
    """A rate that is far too high needs one step to ruin them."""
    assert gone_back_to_good.fire("loss_diverged", 121, since=102) == ["roll_back"]


def test_jump_is_answered_though_the_rate_was_given_back_once(gone_back_to_good):
    run = gone_back_to_good
    assert run.fire("loss_diverged", 120, since=101) == ["creep_back"]
    run.engine.fence()
    run.engine.scaled("0", 1.0)
    assert run.fire("loss_spike", 400) == ["roll_back"]


@pytest.mark.parametrize("step", [101, 103])
def test_jump_is_answered_as_what_follows_it_tells_though_it_came_first(gone_back_to_good, verdict, step):
    """Many steps are judged together, and what showed first has its turn first."""
    jumped = verdict("loss_spike", step), verdict("loss_spike", step + 1, state="resolved")
    found = gone_back_to_good.judge(164, *jumped, verdict("loss_diverged", 120, since=101, severity="critical"))
    assert found == ["creep_back"]


def test_jump_at_the_first_step_is_no_fault_of_weights_that_were_good_and_may_be_one_bad_batch(gone_back_to_good):
    run = gone_back_to_good
    for step in (101, 103):
        assert run.fire("loss_spike", step) == []
        run.resolve("loss_spike", step + 1)
    assert run.fire("loss_spike", 160) == ["roll_back"]
    assert run.decisions[-1].actions[0].back == 0


def test_jumps_are_left_alone_after_going_back_to_good_weights_has_not_helped_twice(course):
    """As in a program that sets one task after the other."""
    run = course(JUMPED, evidence=Known(good=True))
    for step in (100, 300):
        assert run.fire("loss_spike", step)[-1].startswith("roll_back")
        run.engine.fence()
        assert run.fire("loss_spike", step + 20, since=step + 1) == ["refused"]
        run.engine.fence()
    assert run.fire("loss_spike", 500) == ["refused"]
    assert run.decisions[0].actions[0].back == run.decisions[2].actions[0].back == 0


def test_rate_is_given_back_where_the_loss_is_as_high_at_once_again(in_vain):
    run = in_vain()
    assert run.fire("loss_diverged", 140, since=121) == ["creep_back"]
    (action,) = run.decisions[-1].actions
    assert action.factor == pytest.approx(5.0)


def test_rate_is_not_given_back_by_a_rank_that_has_lost_the_others(in_vain):
    """The weights of all ranks are alike for as long as their rates are."""
    run = in_vain()
    run.engine.stand_down()
    assert run.fire("loss_diverged", 140, since=121) == ["refused"]


def test_rate_is_not_given_back_where_the_rule_is_silenced(in_vain):
    silenced = set()
    run = in_vain(silenced=silenced.__contains__)
    silenced.add("loss_diverged")
    assert run.fire("loss_diverged", 140, since=121) == ["refused"]


def test_run_whose_rate_was_not_lowered_is_told_once_why_nothing_is_done(in_vain):
    run = in_vain()
    run.engine.unscaled("0")
    assert run.fire("loss_diverged", 140, since=121) == ["refused"]
    assert "what is asked of the model has changed" in run.decisions[-1].reason
    assert run.judge(160) == []


def test_episode_that_goes_on_counts_once(gone_back):
    run = gone_back()
    run.engine.paused = True
    assert run.fire("loss_diverged", 120, since=101) == ["silenced"]
    run.judge(130)
    run.engine.paused = False
    assert run.judge(140) == ["roll_back"]


def test_model_that_takes_over_the_label_is_believed(in_vain):
    run = in_vain()
    run.engine.begin_anew("0")
    assert run.fire("loss_diverged", 140, since=121) == [LOWER]
    assert run.decisions[-1].actions[0].back == 0


def test_loss_that_rises_again_later_climbs_the_ladder(gone_back):
    assert gone_back().fire("loss_diverged", 123, since=100 + AT_ONCE + 1) == ["roll_back"]


def test_one_that_was_low_in_between_is_believed(in_vain):
    run = in_vain()
    assert run.fire("loss_diverged", 143, since=120 + AT_ONCE + 1) == ["roll_back"]
    assert run.decisions[-1].actions[0].back == 0
    run.engine.fence()
    assert run.fire("loss_diverged", 163, since=144) == ["halt"]


def test_one_that_never_had_its_turn_tells_of_nothing_that_was_low_in_between(in_vain):
    run = in_vain()
    assert run.fire("loss_diverged", 143, since=120 + AT_ONCE + 1, stepping="1") == []
    run.resolve("loss_diverged", 150)
    assert run.fire("loss_diverged", 160, since=121) == ["creep_back"]


def test_a_few_bad_steps_after_going_back_climb_the_ladder(gone_back):
    run = gone_back()
    assert run.fire("loss_diverged", 100 + LASTING, since=101) == ["roll_back"]
    assert run.decisions[-1].actions[0].back == 0


@pytest.mark.parametrize(
    ("left", "strides", "done"),
    [
        (0.02, Strides(measured=0.0009), "creep_back"),
        (0.02, Strides(first=0.0009), "creep_back"),
        (0.02, Strides(measured=0.0011, first=0.0009), "roll_back"),
        (0.02, Strides(), "roll_back"),
        (0.2, Strides(measured=0.0009), "roll_back"),
    ],
)
def test_loss_that_rises_though_steps_hardly_move_the_weights_is_not_the_rates_fault(course, left, strides, done):
    run = course(DIVERGED, evidence=Known(strides=strides))
    run.fire("loss_diverged", 100, since=81)
    run.engine.fence()
    run.engine.scaled("0", left)
    assert run.fire("loss_diverged", 160, since=141) == [done]


def test_first_rise_of_a_loss_is_answered_however_short_its_steps_are(course):
    run = course(DIVERGED, evidence=Known(strides=Strides(measured=0.0009)))
    run.engine.scaled("0", 0.02)
    assert run.fire("loss_diverged", 100, since=81) == [LOWER]


def test_halt_follows_at_once_where_training_does_harm(in_vain):
    run = in_vain(harmful=True)
    assert run.fire("loss_diverged", 140, since=121) == ["halt"]
    assert run.decisions[-1].actions == (Halt(HARMFUL),)


def test_episode_waits_until_training_does_harm(course):
    harm = []
    run = course(DIVERGED, evidence=Known(harmful=harm))
    run.fire("loss_diverged", 100, since=81)
    run.fire("loss_diverged", 120, since=101)
    assert run.fire("loss_diverged", 140, since=121) == ["refused"]
    harm.append(True)
    assert run.judge(170) == ["halt"]


@pytest.mark.parametrize("rule", ["loss_diverged", "loss_oscillating"])
def test_loss_that_told_nothing_is_not_believed_later(in_vain, rule):
    run = in_vain()
    run.fire("loss_diverged", 140, since=121)
    run.resolve("loss_diverged", 150)
    run.engine.scaled("0", 1.0)
    assert run.fire(rule, 900, since=881) == ["refused"]
    assert run.fire(rule, 950, since=931, optimizer="1") != ["refused"]


def test_jump_after_the_rate_was_given_back_twice_is_not_answered_any_more(course):
    run = course(DIVERGED, JUMPED, evidence=Known(strides=Strides(measured=0.0009)))
    run.fire("loss_diverged", 100, since=81)
    run.engine.fence()
    for step, answer in ((200, "roll_back"), (300, "refused")):
        run.engine.scaled("0", 0.02)
        assert run.fire("loss_diverged", step, since=step - 19) == ["creep_back"]
        run.engine.scaled("0", 1.0)
        run.engine.fence()
        assert run.fire("loss_spike", step + 10, since=step + 8) == [answer]
        run.engine.fence()


def test_what_was_found_out_survives_a_resume(in_vain):
    run = in_vain()
    run.fire("loss_diverged", 140, since=121)
    run.engine.scaled("0", 1.0)
    other = run.resumed(json.loads(json.dumps(run.engine.state())))
    assert other.fire("loss_diverged", 500, since=481) == ["refused"]


def test_refused_rollback_tells_nothing(course):
    lowers = [(RollBack(), ScaleLearningRate(0.2))]
    run = course(Policy(on="loss_diverged", ladder=4 * lowers, cooldown=5))
    run.refusing = ("roll_back",)
    for step in (100, 120, 140, 160):
        assert run.fire("loss_diverged", step, since=step - 19) == [LOWER]
        run.engine.fence()


def test_raise_waits_until_the_run_is_known_to_be_slow(course):
    slow = []
    run = course(Policy(on="gradient_vanishing", ladder=[ScaleLearningRate(3.0)]), evidence=Known(slow=slow))
    assert run.fire("gradient_vanishing", 10, severity="warning") == []
    slow.append(True)
    assert run.judge(40) == ["scale_learning_rate"]


@pytest.fixture
def jumped(course):
    """A run that went back at step 100, since its loss had jumped."""
    run = course(JUMPED, DIVERGED, evidence=Known())
    assert run.fire("loss_spike", 100, since=95) == ["roll_back"]
    run.engine.fence()
    return run


def jump(run, step, *, after=1):
    """The loss jumps, `after` steps after the newest rollback, and is judged at `step`; the rule has a reach of 3."""
    went_back = run.decisions[-1].step
    return run.fire("loss_spike", step, judged=went_back + after, since=went_back + after - 3)


def test_jump_at_the_first_step_after_going_back_is_in_vain(jumped):
    assert jump(jumped, 120) == [LOWER]
    assert jumped.decisions[-1].actions[0].back == 1
    jumped.engine.fence()
    jumped.engine.scaled("0", 0.3)
    assert jump(jumped, 140) == ["creep_back"]
    jumped.engine.scaled("0", 1.0)
    assert jumped.fire("loss_spike", 160) == [LOWER]


def test_jump_at_the_second_step_after_going_back_is_of_its_own_making(jumped):
    for step in (120, 140, 160):
        assert jump(jumped, step, after=2) == [LOWER]
        assert jumped.decisions[-1].actions[0].back == 0
        jumped.engine.fence()


@pytest.mark.parametrize(("after", "last_since", "is_heard"), [(1, 141, True), (2, 150, False)])
def test_divergence_behind_a_jump_is_heard_of_from_the_first_step_on(course, verdict, after, last_since, is_heard):
    """The jump showed first, and is answered. A rate far too high needs one step to ruin what was put back."""
    run = course(JUMPED, DIVERGED, evidence=Known())
    run.fire("loss_spike", 100)
    for episode, step in enumerate((120, 140), start=1):
        run.engine.fence()
        spike = verdict("loss_spike", step, episode + 1, judged=step - 17)
        assert run.judge(step, spike, verdict("loss_diverged", step, episode, since=step - 20 + after)) == [LOWER]
    run.engine.fence()
    assert (run.judge(160, verdict("loss_diverged", 160, 3, since=last_since)) == ["refused"]) is is_heard
