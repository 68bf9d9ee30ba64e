"""When snapshots are due, by what they cost."""

import pytest

from trimtab.actuators.turns import FIRST_INTERVAL, GROWTH, Turns

STEP_S = 1e-3


def train(turns, costs):
    """The steps at which snapshots were taken that cost so many seconds."""
    taken, costs = [], list(costs)
    for step in range(FIRST_INTERVAL, 100_000):
        if turns.has_come(step):
            taken.append(step)
            turns.taken(step, costs.pop(0), STEP_S)
        if not costs:
            return taken
    raise AssertionError(f"no snapshot was due any more after {taken}")


def test_copy_that_had_to_wait_once_does_not_put_off_the_next_ones():
    usual = 8 * 0.0025 * STEP_S
    turns = Turns()
    train(turns, [usual] * 5 + [1000 * usual])
    assert turns.interval == 8


@pytest.mark.parametrize("slow", [0, 1])
def test_first_copies_that_had_to_wait_put_off_the_next_by_little(slow):
    usual = 8 * 0.0025 * STEP_S
    turns = Turns()
    train(turns, [1000 * usual] * (slow + 1))
    assert turns.interval == FIRST_INTERVAL * GROWTH ** (slow + 1)
    train(turns, [usual, usual])
    assert turns.interval == 8


def test_copies_that_always_cost_much_are_soon_as_seldom_as_they_must_be():
    turns = Turns()
    taken = train(turns, [0.01] * 7)
    assert taken == [16, 64, 256, 1024, 4096, 8192, 12288]
    assert turns.interval == 4096 >= 0.01 / (0.0025 * STEP_S) > 2048
