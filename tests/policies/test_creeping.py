"""How a lowered learning rate comes back."""

import itertools
import json

import pytest

from trimtab.policies.creeping import PATIENCE, RETRY, CreepBack, Creeping


def creep(creeping, steps):
    """Healthy steps, each increment carried out. Returns the scales."""
    scales = []
    for _ in range(steps):
        scale = creeping.healthy_steps(1)
        if scale is not None:
            creeping.raised(scale)
            scales.append(scale)
    return scales


def fallen(*scales):
    creeping = Creeping()
    for scale in scales:
        creeping.fell(scale)
    return creeping


def test_scale_that_never_fell_stays():
    assert creep(Creeping(), 3 * PATIENCE) == []


def test_raised_scale_is_not_lowered():
    creeping = Creeping()
    creeping.raised(3.0)
    assert creep(creeping, 3 * PATIENCE) == []


def test_increase_is_additive_and_ends_where_it_is_safe():
    assert creep(fallen(0.5), RETRY - 1) == pytest.approx([0.55, 0.60, 0.65, 0.70, 0.5**0.5])


def test_very_low_scale_grows_by_a_quarter_at_most():
    scales = creep(fallen(0.01), RETRY - 1)
    assert max(b / a for a, b in itertools.pairwise(scales)) <= 1.25 + 1e-9
    assert scales[-1] == pytest.approx(0.1)


def test_second_fall_lowers_what_is_safe():
    assert creep(fallen(0.5, 0.25), RETRY - 1)[-1] == pytest.approx((0.5 * 0.25) ** 0.5)


def test_fall_never_lifts_what_is_safe():
    creeping = fallen(0.1, 0.05)
    creeping.raised(0.4)
    creeping.fell(0.35)
    assert creeping.ceiling == pytest.approx((0.1 * 0.05) ** 0.5)


def test_scale_at_which_it_fell_is_not_one_to_raise_it_to():
    assert [fallen(0.5).allows(scale) for scale in (0.99, 1.0, 1.01)] == [True, False, False]


def test_long_health_at_the_ceiling_lifts_it_half_of_the_way():
    creeping = fallen(0.25)
    creep(creeping, PATIENCE + 500)
    assert creeping.scale == pytest.approx(0.5)
    creep(creeping, 2 * RETRY)
    assert creeping.scale > 0.7
    assert creeping.ceiling < 1


def test_trouble_begins_the_patience_anew():
    creeping = fallen(0.5)
    creep(creeping, PATIENCE - 1)
    creeping.trouble()
    assert creep(creeping, PATIENCE - 1) == []


def test_fall_begins_the_patience_anew():
    creeping = fallen(0.5)
    creep(creeping, PATIENCE - 1)
    creeping.fell(0.25)
    assert creep(creeping, PATIENCE - 1) == []


def test_what_a_person_chose_is_home():
    creeping = fallen(0.1)
    creeping.chosen(0.2)
    assert creep(creeping, 3 * PATIENCE) == []
    creeping.fell(0.1)
    assert creep(creeping, 3 * PATIENCE)[-1] < 0.2


def test_state_survives_json():
    creeping = fallen(0.3)
    creep(creeping, 700)
    assert Creeping.restore(json.loads(json.dumps(creeping.state()))) == creeping


def test_creep_back_is_bounded_by_where_the_scale_belongs():
    class Controls:
        def scale_learning_rate(self, factor, *, ceiling):
            return factor, ceiling

    assert CreepBack(1.1, ceiling=0.8).apply(Controls()) == (1.1, 0.8)
