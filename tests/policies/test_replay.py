"""A record that is made again."""

import itertools

import pytest

from trimtab.actions import ClipGradients, Halt, RollBack, ScaleLearningRate, SkipStep
from trimtab.errors import ConfigError
from trimtab.policies import reading
from trimtab.policies.replay import Replay
from trimtab.types import Adjustment


def recorded(step, action, outcome="applied", **more):
    described = reading.describe(action)
    more.setdefault("moment", "before_step" if action.stage == "before_step" else "after_step")
    return Adjustment(
        ts=0.0, step=step, policy="p", action=described.pop("action"), arguments=described, optimizer="0",
        outcome=outcome, **more,
    )  # fmt: skip


def test_adjustments_come_at_their_steps_and_once():
    replay = Replay([recorded(10, ScaleLearningRate(0.3)), recorded(20, ScaleLearningRate(0.1, ramp=5))])
    found = [(step, [d.actions for d in replay.due(step, "0", applied=True)]) for step in range(30)]
    assert [pair for pair in found if pair[1]] == [
        (10, [(ScaleLearningRate(0.3),)]),
        (20, [(ScaleLearningRate(0.1, ramp=5),)]),
    ]
    assert replay.left == 0


def test_what_touches_a_step_comes_before_it():
    replay = Replay([recorded(10, SkipStep()), recorded(10, ClipGradients(2.0, steps=3)), recorded(10, Halt())])
    assert [d.actions[0] for d in replay.due(10, "0", applied=False)] == [SkipStep(), ClipGradients(2.0, steps=3)]
    assert [d.actions[0] for d in replay.due(10, "0", applied=True)] == [Halt()]


def test_rollback_goes_to_the_snapshot_that_it_went_to():
    replay = Replay([recorded(70, RollBack(back=2), after={"weights_of_step": 32})])
    (decision,) = replay.due(70, "0", applied=True)
    assert (decision.actions, decision.since, replay.snapshots) == ((RollBack(),), 34, {32})


def test_what_was_not_applied_is_not_repeated():
    outcomes = ("dry_run", "refused", "silenced", "failed")
    assert Replay([recorded(10, SkipStep(), outcome) for outcome in outcomes]).left == 0


def test_step_that_is_passed_over_makes_up_for_it():
    replay = Replay([recorded(step, SkipStep()) for step in (10, 11, 40)])
    assert [d.step for d in replay.due(12, "0", applied=False)] == [10, 11]


def test_what_was_done_to_a_second_attempt_waits_for_it():
    replay = Replay([recorded(10, SkipStep()), recorded(9, ScaleLearningRate(0.3)), recorded(10, SkipStep())])
    due = [replay.due(step, "0", applied=applied) for step, applied in ((9, True), (10, False), (9, True), (10, False))]
    assert [[d.actions[0].name for d in each] for each in due] == [
        [], ["skip_step"], ["scale_learning_rate"], ["skip_step"],
    ]  # fmt: skip


def test_another_optimizers_turn_is_not_taken():
    replay = Replay([recorded(10, SkipStep())])
    assert replay.due(10, "1", applied=False) == []
    assert len(replay.due(10, "0", applied=False)) == 1


def test_rung_that_waited_is_one_again():
    replay = Replay([recorded(70, RollBack(), after={"weights_of_step": 70}), recorded(70, ScaleLearningRate(0.3))])
    (decision,) = replay.due(70, "0", applied=True)
    assert (decision.actions, decision.since) == ((RollBack(), ScaleLearningRate(0.3)), 72)


def test_rung_that_waited_goes_to_the_snapshot_that_it_went_to():
    both = [recorded(70, RollBack(), after={"weights_of_step": 32}), recorded(70, ScaleLearningRate(0.3))]
    (decision,) = Replay(both).due(70, "0", applied=True)
    assert decision.since == 34


def test_what_a_person_adjusted_is_adjusted_again():
    scaled = Adjustment(
        ts=0.0, step=10, policy="person", action="scale_learning_rate", arguments={"factor": 0.5}, outcome="applied"
    )
    assert Replay([scaled]).due(10, "0", applied=True)[0].actions == (ScaleLearningRate(0.5),)


def test_pause_of_a_person_is_no_adjustment():
    switches = [Adjustment(ts=0.0, step=1, policy="person", action=a, outcome="applied") for a in ("pause", "resume")]
    assert Replay(switches).left == 0


def test_unknown_action_is_said_at_once():
    with pytest.raises(ConfigError, match="the policies that it was made with"):
        Replay([Adjustment(ts=0.0, step=1, policy="p", action="halve", outcome="applied")])


def test_record_has_nothing_imported_or_called(tmp_path):
    made = tmp_path / "made"
    given = {"action": "builtins:open", "arguments": {"file": str(made), "mode": "w"}}
    with pytest.raises(ConfigError, match="there is no action 'builtins:open'"):
        Replay([Adjustment(ts=0.0, step=1, policy="p", outcome="applied", **given)])
    assert not made.exists()


def test_action_without_its_arguments_is_said_at_once():
    with pytest.raises(ConfigError, match="the adjustment at step 1: scale_learning_rate"):
        Replay([Adjustment(ts=0.0, step=1, policy="p", action="scale_learning_rate", outcome="applied")])


def test_replayed_run_is_the_run(course, spike, nonfinite):
    """Whatever the engine decided, the record says all of it."""
    run = course(spike, nonfinite)
    for step in (5, 6, 7, 40, 60):
        run.fire("gradient_nonfinite" if step < 10 else "loss_spike", step)
    record = [recorded(d.step, action) for d in run.decisions for action in d.actions]
    replay = Replay(record)
    found = [replay.due(step, "0", applied=applied) for step, applied in itertools.product(range(61), (False, True))]
    repeated = [(d.step, action) for due in found for d in due for action in d.actions]
    assert repeated == [(d.step, action) for d in run.decisions for action in d.actions]
