"""Steps whose gradients were not cleared, as the judge counts them."""

import pytest

from trimtab.catalog.rules import RULES
from trimtab.rules.judge import Judge

RULE = RULES["gradients_uncleared"]


def firing(judge, backwards, step=1):
    """The verdicts about steps of so many backwards each."""
    return [
        verdict
        for at, count in enumerate(backwards, start=step)
        for verdict in judge.step("0", at, 1.0, None, 0.1, count)
        if verdict.state == "firing"
    ]


def test_gradients_that_are_cleared_are_judged_too():
    judge = Judge([RULE])
    firing(judge, [1, 1])
    assert judge.take_levels("0") == {RULE.name: 0.0}


@pytest.mark.parametrize("cleared", [1, 40], ids=["never", "no longer"])
@pytest.mark.parametrize("fenced", [False, True], ids=["", "after a fence"])
def test_each_step_that_applies_more_than_the_one_before_counts(cleared, fenced):
    judge = Judge([RULE])
    if fenced:
        firing(judge, [1] * 20)
        judge.fence(20)
    steps = [1] * cleared + list(range(2, 40))
    (verdict,) = firing(judge, steps, step=21)
    assert (verdict.step, verdict.since) == (20 + cleared + int(RULE.threshold), 21 + cleared)
