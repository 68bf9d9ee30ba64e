import math

import pytest

from trimtab.catalog.rules import RULES
from trimtab.signals import GeneralizationGap, Validated, ValidationLost, ValidationsSinceBest

OVERFITTING = RULES["overfitting"].threshold


def gaps(*results):
    signal = GeneralizationGap()
    return [signal.update(Validated(*result)) for result in results]


def since_best(values, **options):
    signal = ValidationsSinceBest(**options)
    return [signal.update(value) for value in values]


def test_gap_has_no_value_before_the_second_pass():
    first, second = gaps((2.0, 2.0), (1.5, 1.5))
    assert (first, second) == (None, 0.0)


def test_gap_is_in_units_of_what_validation_has_gained():
    *_, gap = gaps((2.0, 2.0, 2.0), (1.0, 1.0), (1.2, 0.7))
    assert gap == pytest.approx(0.5)


def test_gap_has_no_value_while_there_are_few_losses_and_yet_the_best_pass_is_known():
    rising = [(1.39, 1.38), (1.40, 1.37), (1.41, 1.36)]
    early = [(*losses, 1.40, True, False) for losses in rising]
    found = gaps((1.40, 1.40, 1.40), *early, (1.42, 1.35, 1.40))
    assert found[1:4] == [None] * 3
    assert found[4] == gaps((1.40, 1.40, 1.40), *[(*losses, 1.40) for losses in rising], (1.42, 1.35, 1.40))[4] > 0.0


def test_gap_alone_is_no_overfitting():
    found = gaps((2.0, 2.0), (1.0, 0.5), (1.0, 0.1), (1.0, 0.01), (1.005, 0.001))
    assert max(found[1:]) < 0.02


def test_gap_of_a_rise_that_the_run_came_back_from_before_is_none():
    noisy = [(0.5, 0.3), (0.4, 0.2), (0.5, 0.1), (0.39, 0.1)]
    *_, once = gaps((2.0, 2.0), *noisy[:2], (0.49, 0.05))
    *_, again = gaps((2.0, 2.0), *noisy, (0.49, 0.05))
    assert once > 0.0
    assert again == 0.0


def test_gap_of_a_pass_that_was_good_by_chance_is_none():
    """Of a small regression: 100 samples to validate on, and one pass far better than those before and after it."""
    losses = [0.501, 0.499, 0.499, 0.473, 0.492, 0.489, 0.493, 0.494, 0.491]
    found = gaps(*((loss, 0.44, 0.87) for loss in losses))
    lasting = [min(found[at - 2 : at + 1]) for at in range(3, len(found))]
    assert max(lasting) < OVERFITTING / 2


def test_gap_of_a_pass_that_was_good_by_chance_counts_once_the_rise_goes_on():
    *_, gap = gaps((2.0, 2.0), (1.0, 0.5), (0.99, 0.4), (0.90, 0.3), (0.91, 0.25), (0.95, 0.2))
    assert gap > 0.0


def test_gap_of_a_rise_after_a_fall_that_went_on_is_no_chance():
    *_, first, second, third = gaps(
        (2.3, 2.3), (0.77, 0.5), (0.55, 0.3), (0.46, 0.1), (0.48, 0.05), (0.485, 0.03), (0.49, 0.0)
    )
    assert min(first, second, third) > OVERFITTING


def test_gap_of_a_slow_rise_that_goes_on_is_the_whole_gap():
    rising = [(0.40 + 0.01 * i, 0.0) for i in range(5)]
    found = gaps((2.0, 2.0), (0.5, 0.2), *rising)
    assert min(found[-3:]) > OVERFITTING


def test_gap_of_a_slow_rise_is_none_while_the_rate_is_all_but_gone():
    rising = [(0.40 + 0.01 * i, 0.0, None, False) for i in range(5)]
    assert max(gaps((2.0, 2.0), (0.5, 0.2), *rising)[2:]) < OVERFITTING


def test_gap_of_a_rise_that_goes_on_counts_however_far_training_gets():
    found = gaps((4.0, 4.0), (2.94, 2.17), (3.4, 0.9), (3.9, 0.4), (4.9, 0.0))
    assert min(found[2:]) > OVERFITTING


def test_gap_is_zero_at_a_pass_that_comes_back():
    *_, gap = gaps((2.0, 2.0), (0.5, 0.2), (0.9, 0.1), (0.8, 0.1))
    assert gap == 0.0


def test_gap_of_a_run_that_generalizes_stays_under_the_threshold():
    found = gaps(*((2.0 * 0.8**i + 0.02, 2.0 * 0.8**i) for i in range(20)))
    assert max(found[1:]) < OVERFITTING


def test_gap_is_zero_where_validation_is_better_than_training():
    assert gaps((2.0, 2.1), (1.0, 1.4), (0.8, 1.2))[1:] == [0.0, 0.0]


def test_gap_is_zero_where_nothing_ever_moves():
    assert gaps((2.0, 2.0), (2.0, 2.0), (2.0, 2.0))[1:] == [0.0, 0.0]


def test_gap_is_zero_where_validation_is_not_the_same_task():
    assert gaps((2.0, 2.0), (1.95, 0.3), (1.95, 0.1))[1:] == [0.0, 0.0]


def test_gap_is_zero_where_training_gives_a_constant_answer():
    """Dead ReLUs: validation has other shares of classes, by which little is lost, and little was to be gained."""
    losses = [(2.310, 2.312), (2.305, 2.304), (2.310, 2.302), (2.312, 2.302), (2.314, 2.302)]
    named = gaps(*((*each, 2.35) for each in losses))
    at_chance = gaps(*((*each, 2.35, True, True, True) for each in losses))
    assert min(named[-2:]) > OVERFITTING
    assert at_chance[1:] == [0.0] * 4


def test_gap_of_a_weak_signal_counts_once_training_comes_down():
    losses = [(0.690, 0.690), (0.680, 0.685), (0.690, 0.682), (0.70, 0.66), (0.71, 0.65)]
    found = gaps(*((*each, 0.693, True, True, True) for each in losses))
    assert found[2] == 0.0
    assert min(found[3:]) > OVERFITTING


def test_gap_is_measured_from_the_beginning_of_the_run():
    *_, of_passes = gaps((1.0, 1.0), (0.5, 0.5), (0.6, 0.4))
    *_, of_the_run = gaps((1.0, 1.0, 3.0), (0.5, 0.5, 3.0), (0.6, 0.4, 3.0))
    assert of_passes == pytest.approx(0.2 / 0.5)
    assert of_the_run == pytest.approx(of_passes * 0.5 / 2.5)


def test_gap_leaves_out_passes_that_are_missing_or_not_finite():
    whole = gaps((2.0, 2.0), (1.0, 1.0), (1.2, 0.7))
    broken = gaps((2.0, 2.0), (math.nan, 1.0), (-math.inf, 1.0), (1.0, None), (1.0, 1.0), (1.2, 0.7))
    assert broken[1:4] == [None] * 3
    assert broken[-1] == whole[-1]


def test_validation_lost_is_the_share_of_what_it_had_gained():
    lost = ValidationLost()
    assert [lost.update(loss, 2.5) for loss in (1.5, 0.5, 1.0, 0.5)] == [0.0, 0.0, 0.25, 0.0]


def test_validation_lost_goes_by_its_largest_loss_where_no_beginning_is_known():
    lost = ValidationLost()
    assert [lost.update(loss, None) for loss in (2.5, 0.5, 1.0)] == [0.0, 0.0, 0.25]


def test_validation_lost_of_what_never_gained_is_nothing():
    lost = ValidationLost()
    assert [lost.update(loss, 1.0) for loss in (1.0, 3.0)] == [0.0, 0.0]


def test_since_best_counts_passes_without_a_new_best():
    assert since_best([3.0, 2.0, 2.0, 2.5, 1.0]) == [0.0, 0.0, 1.0, 2.0, 0.0]


def test_since_best_takes_more_for_better_where_asked():
    assert since_best([0.5, 0.6, 0.55], mode="max") == [0.0, 0.0, 1.0]


def test_since_best_takes_less_than_min_delta_for_no_improvement():
    assert since_best([1.0, 0.95, 0.85], min_delta=0.1) == [0.0, 1.0, 0.0]


def test_since_best_takes_a_value_that_is_not_finite_for_no_best():
    assert since_best([math.nan, 1.0, -math.inf, 0.5]) == [None, 0.0, 1.0, 0.0]


def test_since_best_counts_anew_after_a_fence_and_keeps_the_best():
    signal = ValidationsSinceBest()
    for value in (1.0, 2.0, 2.0):
        signal.update(value)
    signal.fence()
    assert signal.update(1.5) == 1.0


def test_validation_that_rests_where_it_began_does_not_rise():
    """As where a model that was trained before learns the rest of its training data, and nothing else changes."""
    resting = [(0.5 + 1e-9 * count, 0.1, 1.0) for count in range(6)]
    assert max(gaps(*resting)[1:]) == pytest.approx(0.0, abs=1e-6)
    rising = [(0.5 + 0.1 * count, 0.1, 1.0) for count in range(6)]
    assert max(gaps(*rising)[1:]) > OVERFITTING
