"""What policies have done so far, for a run that goes on from it."""

import json

from trimtab.actions import RollBack, SkipStep
from trimtab.policies import Policy
from trimtab.policies.accounts import Accounts

AIDING = Policy(on="loss_nonfinite", ladder=[SkipStep(), SkipStep(), RollBack(), RollBack()], cooldown=30, memory=50)


def test_steps_that_are_counted_anew_leave_every_place_and_wait_as_long():
    known = Accounts()
    known.done(AIDING, "0", 2, 1000, 1)  # a lasting rung, and then first aid
    known.done(AIDING, "0", 0, 1002, 1)
    goes_on = Accounts.restore(json.loads(json.dumps(known.state())), ahead=900)
    for step in (1003, 1004, 1005, 1029, 1030, 1050, 1051):
        assert known.position(AIDING, "0", step, 1) == goes_on.position(AIDING, "0", step - 900, 1)
        for critical in (False, True):
            here = known.waiting(AIDING, "0", step, critical=critical)
            assert here == goes_on.waiting(AIDING, "0", step - 900, critical=critical)
    assert goes_on.remaining(AIDING) == AIDING.budget - 1
