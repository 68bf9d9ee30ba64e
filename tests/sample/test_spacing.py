import pytest

from trimtab.sample.spacing import LONGEST, WARM_UP_STEPS, Spacing


def settle(spacing, *, cost_s, step_s, first_cost_s=None):
    """Walk the warm-up as a run does. Returns the steps on which something was done."""
    acted, next_step = [], 0
    for step in range(WARM_UP_STEPS):
        if step == next_step:
            acted.append(step)
            spacing.cost(first_cost_s if first_cost_s is not None and step == 0 else cost_s)
            next_step = spacing.after(step)
        spacing.step(step_s)
    return acted


def test_first_step_is_always_sampled_and_warm_up_looks_at_powers_of_two():
    assert settle(Spacing(0.01), cost_s=1e-3, step_s=1e-3) == [0, 1, 2, 4, 8]


@pytest.mark.parametrize(
    ("cost_s", "step_s", "interval"), [(1e-4, 1e-1, 1), (1e-3, 1e-1, 1), (1e-3, 1e-2, 16), (1e-3, 1e-3, 128)]
)
def test_interval_is_the_smallest_power_of_two_within_the_share(cost_s, step_s, interval):
    spacing = Spacing(0.01)
    settle(spacing, cost_s=cost_s, step_s=step_s)
    assert spacing.settled
    assert spacing.interval == interval


def test_what_is_done_once_does_not_count():
    spacing = Spacing(0.01)
    settle(spacing, cost_s=1e-4, step_s=1e-1, first_cost_s=10.0)
    assert spacing.interval == 1


def test_settled_interval_is_kept_whatever_the_costs():
    spacing = Spacing(0.01)
    settle(spacing, cost_s=1e-3, step_s=1e-2)
    for _ in range(100):
        spacing.cost(100.0)
        spacing.step(1e-6)
    assert spacing.interval == 16


def test_settled_steps_are_multiples_of_the_interval():
    spacing = Spacing(0.01)
    settle(spacing, cost_s=1e-3, step_s=1e-2)
    assert [spacing.after(step) for step in (16, 17, 31, 32)] == [32, 32, 32, 48]


def test_first_steps_of_a_later_training_are_looked_at_as_those_of_the_first():
    spacing, acted, due = Spacing(0.01), [], 100
    settle(spacing, cost_s=1e-3, step_s=1e-2)
    for step in range(100, 140):
        if step >= due:
            acted.append(step - 100)
            due = spacing.after(step, 100)
    assert acted == [0, 1, 2, 4, 8, 12, 16, 28]  # and multiples of 16, as always


def test_later_training_is_looked_at_no_less_often_than_the_interval_says():
    spacing = Spacing(0.01)
    settle(spacing, cost_s=1e-4, step_s=1e-1)
    assert [spacing.after(step, 100) for step in (104, 108)] == [105, 109]


def test_fixed_interval_knows_no_later_training():
    assert Spacing(0.01, fixed=3).after(100, 100) == 102


def test_fixed_interval_is_exact_from_the_first_step_on():
    spacing, acted, due = Spacing(0.01, fixed=3), [], 0
    for step in range(10):
        if step >= due:
            acted.append(step)
            due = spacing.after(step)
    assert acted == [0, 3, 6, 9]


def widened(spacing, step_s):
    spacing.widen(step_s)
    return spacing.interval


def test_widening_doubles_what_has_become_dearer_than_its_share():
    spacing = Spacing(0.01)
    assert widened(spacing, 1e-9) == 1
    settle(spacing, cost_s=1e-3, step_s=1e-2)
    assert widened(spacing, 1e-2) == 16
    assert widened(spacing, 5e-3) == 32
    assert widened(spacing, 5e-3) == 32
    for _ in range(8):
        spacing.cost(1e-2)
    assert widened(spacing, 5e-3) == 64


def test_fixed_interval_is_never_widened():
    spacing = Spacing(0.01, fixed=3)
    spacing.cost(1.0)
    assert widened(spacing, 1e-9) == 3


def test_no_budget_means_the_longest_interval():
    spacing = Spacing(0.0)
    settle(spacing, cost_s=1e-3, step_s=1e-3)
    assert spacing.interval == LONGEST
    assert widened(spacing, 1e-9) == LONGEST
