"""A loss is judged as if every step had as many backwards: in loops that divide by their number, and that do not."""

import math
import random

import pytest

from trimtab.rules.accumulation import Accumulation


def noisy(seed, noise):
    draw = random.Random(seed)
    return lambda: 2.0 * math.exp(draw.gauss(0.0, noise))


def judged(counts, size, *, divides):
    """What is judged of steps with so many backwards, each of a loss of this size."""
    accumulation = Accumulation()
    for count in counts:
        parts = [size() for _ in range(count)]
        yield accumulation.judged(sum(parts) / (count if divides else 1), count)


WARM_UP = [1] * 20 + [2] * 20 + [3] * 20 + [4] * 60  # as Ultralytics has it


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.2, 0.5])
@pytest.mark.parametrize("divides", [True, False])
def test_warm_up_of_the_number_changes_nothing(divides, noise, seed):
    found = list(judged(WARM_UP, noisy(seed, noise), divides=divides))
    assert sum(found[-40:]) / 40 == pytest.approx(2.0 * math.exp(noise**2 / 2), rel=0.2)


@pytest.mark.parametrize("divides", [True, False])
def test_number_may_become_less(divides):
    found = list(judged([8] * 30 + [2] * 30, noisy(0, 0.2), divides=divides))
    assert sum(found[-20:]) / sum(found[:20]) == pytest.approx(1.0, rel=0.15)


def test_short_step_at_the_end_of_each_epoch_is_like_the_others_whoever_divides_by_the_usual_number():
    size, accumulation = noisy(0, 0.1), Accumulation()
    counts = ([8] * 10 + [3]) * 5
    found = [accumulation.judged(sum(size() / 8 for _ in range(count)), count) for count in counts]
    assert found[43] == pytest.approx(found[42], rel=0.3)
    assert found[54] == pytest.approx(found[53], rel=0.3)


def test_second_loss_that_is_added_at_times_is_no_larger_number():
    accumulation = Accumulation()
    found = [accumulation.judged(2.3 if step % 4 == 3 else 2.0, 2 if step % 4 == 3 else 1) for step in range(40)]
    assert set(found) == {2.0, 2.3}


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_loss_that_is_no_measure_teaches_nothing(bad):
    accumulation = Accumulation()
    found = [accumulation.judged(loss, count) for loss, count in [(2.0, 1), (bad, 2), (4.0, 2), (4.0, 2), (2.0, 1)]]
    assert math.isnan(found[1]) if math.isnan(bad) else found[1] == bad
    assert found[-1] == found[-2] == found[0]


def test_negative_losses_have_a_size_too():
    assert list(judged([1] * 10 + [4] * 10, lambda: -3.0, divides=False))[-1] == -3.0


def test_loss_that_changes_with_the_number_is_seen_to():
    accumulation = Accumulation()
    found = [accumulation.judged(loss, count) for loss, count in [(2.0, 1)] * 20 + [(4.0, 2)] * 20 + [(40.0, 2)]]
    assert found[-1] == 10 * found[-2]


@pytest.mark.parametrize("seed", range(5))
def test_losses_that_fall_as_their_number_rises_are_sums_all_the_same(seed):
    """After the first changes the sum stays about the same, as where somebody divides and nothing is learned."""
    draw, accumulation = random.Random(seed), Accumulation()
    counts = [1] * 16 + [2] * 16 + [3] * 10 + [count for count in range(4, 17) for _ in range(5)] + [16] * 10
    sizes = [45.0 * min(1.0, 4 / count) * math.exp(draw.gauss(0.0, 0.2)) for count in counts]
    found = [accumulation.judged(size * count, count) for size, count in zip(sizes, counts, strict=True)]
    assert found[-20:] == pytest.approx(sizes[-20:])


@pytest.mark.parametrize("sizes", [(1e200, 1e-200), (1e-200, 1e200), (5e-324, 5e-324)])
def test_losses_of_any_size_are_compared(sizes):
    accumulation = Accumulation()
    for count, size in zip((1, 3, 1, 3), sizes * 2, strict=True):
        assert 0.0 < accumulation.judged(size, count) < math.inf
