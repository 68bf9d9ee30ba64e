"""How many steps in a row apply ever more backwards."""

import pytest

from trimtab.catalog.rules import RULES
from trimtab.signals import UnclearedSteps


def counts(backwards):
    signal = UnclearedSteps()
    return [signal.update(each) for each in backwards]


def test_each_step_applies_those_before_it_too():
    assert counts(range(1, 6)) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_gradients_that_several_losses_bring_count_no_less():
    assert counts(range(3, 15, 3)) == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("backwards", [[1] * 40, [4] * 40, [4, 4, 4, 2] * 10, [8, 4, 2, 1]])
def test_steps_of_as_many_or_fewer_are_cleared(backwards):
    assert set(counts(backwards)) <= {0.0, 1.0}


def test_accumulation_that_grows_over_a_warm_up_is_told_apart():
    grows = [1 + step // 4 for step in range(64)]
    assert max(counts(grows)) < RULES["gradients_uncleared"].threshold


def test_a_fence_forgets_what_was_dropped():
    signal = UnclearedSteps()
    for backwards in range(1, 10):
        signal.update(backwards)
    signal.fence()
    assert [signal.update(backwards) for backwards in (1, 2)] == [0.0, 1.0]
