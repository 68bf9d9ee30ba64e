"""What policies have done so far, for a run that goes on from it."""

import json

from trimtab.actions import Halt, RollBack, SkipStep
from trimtab.policies import Policy
from trimtab.policies.accounts import FAILURES, Accounts

AIDING = Policy(on="loss_nonfinite", ladder=[SkipStep(), SkipStep(), RollBack(), RollBack()], cooldown=30, memory=50)


def test_steps_that_are_counted_anew_leave_every_place_and_wait_as_long():
    known = Accounts()
    known.done(AIDING, "0", 2, 1000, 1000)  # a lasting rung, and then first aid
    known.done(AIDING, "0", 0, 1002, 1002)
    goes_on = Accounts.restore(json.loads(json.dumps(known.state())), ahead=900)
    for step in (1003, 1004, 1005, 1029, 1030, 1050, 1051):
        assert known.position(AIDING, "0", step, step) == goes_on.position(AIDING, "0", step - 900, step - 900)
        for critical in (False, True):
            here = known.waiting(AIDING, "0", step, critical=critical)
            assert here == goes_on.waiting(AIDING, "0", step - 900, critical=critical)
    assert goes_on.remaining(AIDING) == AIDING.budget - 1


def test_policy_that_halted_a_run_or_failed_too_often_goes_on_where_it_stood_when_that_is_resumed():
    stopping = Policy(on="loss_diverged", ladder=[RollBack(), Halt()], cooldown=0)
    known = Accounts()
    known.done(stopping, "0", 0, 10, 10)
    known.done(stopping, "0", 1, 20, 20)
    known.failures[AIDING.name] = FAILURES
    assert known.over(stopping, "0")
    assert known.over(AIDING, "0")
    goes_on = Accounts.restore(json.loads(json.dumps(known.state())), ahead=0)
    assert not goes_on.over(stopping, "0")
    assert not goes_on.over(AIDING, "0")
    assert goes_on.position(stopping, "0", 30, 30) == (0, 1)
    assert goes_on.remaining(stopping) == stopping.budget - 2


def test_model_that_takes_over_a_label_has_accounts_of_its_own():
    stopping = Policy(on="loss_diverged", ladder=[RollBack(), Halt()], cooldown=9)
    known = Accounts()
    for optimizer in ("0", "1", ""):
        known.done(stopping, optimizer, 0, 10, 10)
        known.done(stopping, optimizer, 1, 20, 20)
    known.begin_anew("0")
    assert [known.over(stopping, optimizer) for optimizer in ("0", "1", "")] == [False, True, False]
    assert known.remaining(stopping) == stopping.budget - 2
    assert known.position(stopping, "0", 21, 21) == (0, 0)
    assert known.position(stopping, "1", 21, 21) == (0, 1)
    assert [known.waiting(stopping, optimizer, 21, critical=False) for optimizer in ("0", "1")] == [False, True]
