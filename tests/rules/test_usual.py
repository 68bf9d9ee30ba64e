import math

import pytest

from trimtab.rules.usual import AFTER, UsualNorm


def usual(*norms):
    it = UsualNorm()
    for norm in norms:
        it.update(norm)
    return it.value


def test_nothing_is_usual_before_enough_norms_were_seen():
    assert usual(*[2.0] * AFTER) is None
    assert usual(*[2.0] * (AFTER + 1)) == pytest.approx(2.0)


def test_gradients_of_any_size_have_their_own_measure():
    assert usual(*[1e-6] * (AFTER + 1)) == pytest.approx(1e-6)


def test_no_gradient_at_all_is_no_measure():
    assert usual(*[2.0, 0.0] * AFTER, 2.0) == pytest.approx(2.0)


def test_first_norm_counts_as_one_of_all_that_came_early():
    assert usual(8.0, *[2.0] * AFTER) == pytest.approx(2.0 * 4 ** (1 / AFTER), rel=0.01)


def test_norms_that_stay_near_are_followed():
    assert usual(*[2.0] * AFTER, *[6.0] * 300) == pytest.approx(6.0, rel=0.01)
    assert usual(*[2.0] * AFTER, *[2.0 * math.exp(2.5)] * 300) == pytest.approx(2.0)


def test_infinite_norm_of_finite_elements_is_no_measure():
    assert usual(math.inf, *[2.0] * (AFTER + 1)) == pytest.approx(2.0)
