import time

import pytest

from trimtab.sample.meter import TIMED_EVERY, WARM_UP_STEPS, Meter


def step(meter, *hooks, costly=0.0):
    """One step whose hooks take so many seconds; in the last one the step ends. Returns whether it was timed."""
    timed = meter.timing
    if costly:
        meter.add(costly)
    for index, seconds in enumerate(hooks, start=1):
        began = time.perf_counter() - seconds if meter.timing else 0.0
        if index == len(hooks):
            meter.steps += 1
            if meter.steps >= meter.turn_at:
                meter.turn()
        if began:
            meter.hook(began)
    return timed


def test_one_step_in_many_is_timed():
    meter = Meter()
    timed = sum(step(meter, 1.0, 2.0) for _ in range(10 * TIMED_EVERY))
    assert WARM_UP_STEPS <= timed <= 15 + WARM_UP_STEPS


def test_steps_that_were_not_timed_cost_as_much_as_those_that_were():
    meter = Meter()
    for _ in range(10 * TIMED_EVERY):
        step(meter, 1.0, 2.0)
    assert meter.seconds == pytest.approx(3.0 * 10 * TIMED_EVERY, rel=0.01)


def test_one_step_that_was_out_of_the_ordinary_does_not_count_for_the_others():
    meter = Meter()
    for index in range(20 * TIMED_EVERY):
        step(meter, 1000.0 if index == 2 else 1.0)
    assert meter.seconds == pytest.approx(20 * TIMED_EVERY, rel=0.01)


def test_first_steps_are_no_measure_for_the_later_ones():
    meter = Meter()
    for index in range(40):
        step(meter, 1000.0 if index < 10 else 1.0)
    before = meter.seconds
    for _ in range(20):
        step(meter, 1.0)
    assert meter.seconds - before == pytest.approx(20.0, rel=0.01)


@pytest.mark.parametrize("busy", [19, 39])
def test_one_step_that_waits_for_a_core_does_not_count_for_those_after_it(busy):
    meter = Meter()
    for index in range(1, 71):
        step(meter, 1000.0 if index == busy else 1.0)
    assert meter.seconds == pytest.approx(70.0, rel=0.05)


def test_costly_work_counts_once_though_the_hook_around_it_is_timed():
    meter, costs = Meter(), 0
    for _ in range(20 * TIMED_EVERY):
        costly = 100.0 if meter.timing else 0.0
        costs += costly
        step(meter, 1.0 + costly, costly=costly)
    assert meter.seconds == pytest.approx(costs + 20 * TIMED_EVERY, rel=0.01)


def test_nothing_done_costs_nothing():
    assert Meter().seconds == 0.0
