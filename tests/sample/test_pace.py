import pytest

from trimtab.sample.pace import Pace
from trimtab.sample.spacing import WARM_UP_STEPS


def settled(*, step_s, gradients_every=None):
    pace = Pace(0.01, gradients_every)
    for _ in range(WARM_UP_STEPS):
        pace.gradients.cost(1e-4)
        pace.settle(step_s)
    assert not pace.warming_up
    return pace


@pytest.mark.parametrize("dear", ["gradients", "accuracy", "updates"])
def test_what_is_dear_is_done_seldom_after_the_warm_up_and_the_rest_as_often_as_before(dear):
    pace = Pace(0.01, None)
    for _ in range(WARM_UP_STEPS):
        for name in ("gradients", "accuracy", "updates"):
            getattr(pace, name).cost(1.0 if name == dear else 0.0)
        assert pace.warming_up
        pace.settle(1e-3)
    assert not pace.warming_up
    assert {name for name in ("gradients", "accuracy", "updates") if getattr(pace, name).interval > 1} == {dear}


@pytest.mark.parametrize(
    ("acts", "step_s", "interval"), [(True, 0.05, 2), (True, 1e-4, 64), (False, 1e-4, 256), (False, 0.3, 2)]
)
def test_rules_are_judged_as_often_as_steps_are_long(acts, step_s, interval):
    assert settled(step_s=step_s).judging_interval(acts) == interval


@pytest.mark.parametrize("acts", [True, False])
def test_slow_warm_up_does_not_decide_how_often_a_fast_run_is_judged(acts):
    pace = settled(step_s=1.0)
    assert pace.judging_interval(acts) == 1
    pace.widen(1e-3)
    assert pace.step_s == 1e-3
    assert pace.judging_interval(acts) == settled(step_s=1e-3).judging_interval(acts) > 1


def test_steps_that_have_become_slower_leave_judging_as_it_is():
    pace = settled(step_s=1e-3)
    pace.widen(1.0)
    assert pace.step_s == 1e-3


def test_no_time_decides_where_a_run_that_acts_has_a_fixed_interval():
    pace = settled(step_s=1.0, gradients_every=8)
    pace.widen(1e-3)
    assert pace.step_s is None
    assert pace.judging_interval(acts=True) == 8
