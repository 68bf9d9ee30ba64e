"""What is done at the end of a step, and what is withdrawn instead."""

from types import SimpleNamespace

import pytest

from trimtab.actions import Change
from trimtab.guard import Guard
from trimtab.policies import Decision, Engine
from trimtab.steering.execution import Execution, Moment


class Doubles:
    name, stage = "doubles", "after_step"

    def apply(self, controls):
        return Change({"size": 1}, {"size": 2})


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
    actuators = SimpleNamespace(steering=steering, controls=lambda *args, **options: None)
    return Execution(actuators, Engine([]), Guard(print), lambda event: None, ["0"], lambda *args: None, print)


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
