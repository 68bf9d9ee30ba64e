"""What is done at the end of a step, and what is withdrawn instead."""

from types import SimpleNamespace

import pytest

from trimtab.actions import Change, Refused
from trimtab.guard import Guard
from trimtab.policies import Decision, Engine
from trimtab.steering.execution import ATTEMPTS, ATTEMPTS_AGAIN, Execution, Moment


class Doubles:
    name, stage = "doubles", "after_step"

    def apply(self, controls):
        return Change({"size": 1}, {"size": 2})


class GoesBack:
    name, stage = "goes_back", "cycle_end"

    def apply(self, controls):
        return Change({"weights_of_step": 7}, {"weights_of_step": 3})


class CannotGoBack(GoesBack):
    def apply(self, controls):
        raise Refused("There is no snapshot.")


class NumbersItsSettings(Doubles):
    """By group."""

    def apply(self, controls):
        return Change({0: 0.1}, {0: 0.05})


class RanksThatPart:
    """Of whose votes none is like the others'."""

    def __init__(self, execution):
        self._execution = execution

    def vote(self, value):
        return False

    def part(self, reason):
        self._execution.others = None
        self._execution.withdraw(7, "refused", reason)


@pytest.fixture
def execution():
    """Of one optimizer, whose actions change nothing real."""
    steering = SimpleNamespace(target=lambda label: 1.0)
    snapshots = SimpleNamespace(may_restore=lambda parts: True)
    actuators = SimpleNamespace(
        steering=steering, snapshots=snapshots, parts=lambda: None, controls=lambda *args, **options: None
    )
    return Execution(actuators, Engine([]), Guard(print), lambda event: None, ["0"], lambda *args: None, print, str)


def test_decisions_that_are_withdrawn_over_the_first_one_are_not_carried_out(execution):
    execution.others = RanksThatPart(execution)
    for policy in ("first", "second", "third"):
        decision = Decision(policy=policy, optimizer="0", step=7, since=7, actions=(Doubles(),))
        execution.take_up(decision, Moment(7, False, False))
    assert execution.stepped("0", 7)
    assert [(each.policy, each.outcome) for each in execution.adjustments] == [
        ("first", "applied"),
        ("second", "refused"),
        ("third", "refused"),
    ]
    assert not execution.waits


@pytest.mark.parametrize(("action", "times"), [(GoesBack(), 1), (CannotGoBack(), 0)])
def test_gradients_are_taken_to_be_dropped_only_where_the_weights_went_back(execution, action, times):
    dropped = []
    execution.cycle = SimpleNamespace(dropped=lambda: dropped.append(True))
    decision = Decision(policy="both", optimizer="0", step=7, since=7, actions=(action, Doubles()))
    execution.take_up(decision, Moment(7, False, False))
    execution.stepped("0", 7)
    assert [each.outcome for each in execution.adjustments] == ["applied" if times else "refused", "applied"]
    assert len(dropped) == times


def test_settings_that_an_action_of_the_users_numbers_are_recorded_by_name(execution):
    """Backends know names alone: a number among the labels of a metric would fail every scrape."""
    decision = Decision(policy="own", optimizer="0", step=7, since=7, actions=(NumbersItsSettings(),))
    execution.take_up(decision, Moment(7, False, False))
    execution.stepped("0", 7)
    (recorded,) = execution.adjustments
    assert (recorded.before, recorded.after) == ({"0": 0.1}, {"0": 0.05})


def test_a_loop_in_which_a_graph_is_always_pending_is_searched_less_the_next_time(execution):
    looks = []
    execution._actuators.snapshots.may_restore = lambda parts: looks.append(True)

    def looks_until_refused(step):
        looks.clear()
        decision = Decision(policy="back", optimizer="0", step=step, since=step, actions=(CannotGoBack(),))
        execution.take_up(decision, Moment(step, False, False))
        for later in range(step, step + 100):
            execution.stepped("0", later)
        return len(looks)

    first, *others = [looks_until_refused(step) for step in (100, 200, 300)]
    assert first == ATTEMPTS + 1
    assert others == [ATTEMPTS_AGAIN + 1] * 2
    assert [each.outcome for each in execution.adjustments] == ["refused"] * 3
