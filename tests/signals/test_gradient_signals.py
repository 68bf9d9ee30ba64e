"""What is told from gradient norms, layers' norms and update ratios."""

import math
import random

import pytest
import torch
from torch import nn

from trimtab.catalog.rules import RULES
from trimtab.signals import (
    Course,
    Crawl,
    DeadShare,
    NormSpikeScore,
    UpdateExcess,
    UpdateRatio,
    VanishingShare,
)
from trimtab.signals.course import Traits
from trimtab.signals.gradients import GROWING, WARM_UP, WARM_UP_OF_LEARNED, of_trained

EXPLODING = RULES["gradient_exploding"].threshold


def norm_scores(norms):
    signal = NormSpikeScore(Course())
    return [signal.update(norm) for norm in norms]


def usual_norms(count=200, seed=0):
    rng = random.Random(seed)
    return [math.exp(rng.gauss(0.0, 0.4)) for _ in range(count)]


def course_of(losses):
    course = Course()
    for loss in losses:
        course.update(loss)
    return course


def test_norm_score_has_no_value_before_it_is_warm():
    found = norm_scores([1.0] * 12)
    assert found[:WARM_UP] == [None] * WARM_UP
    assert found[WARM_UP:] == pytest.approx([0.0] * 4, abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_norm_score_of_usual_norms_stays_under_the_threshold(seed):
    assert max(norm_scores(usual_norms(2000, seed))[WARM_UP:]) < EXPLODING


def test_norm_score_is_the_logarithm_over_the_largest_before():
    assert norm_scores([1.0] * WARM_UP + [math.e**3])[-1] == pytest.approx(3.0, abs=0.01)


def test_norm_score_of_three_times_the_largest_fires_where_it_lasts():
    *_, first, second, third = norm_scores([1.0] * 50 + [6.0, 20.0, 70.0])
    assert max(first, second) < EXPLODING < third


def test_norm_score_takes_a_norm_a_hundred_times_the_first_ones_for_an_explosion_before_it_is_warm():
    signal = NormSpikeScore(Course())
    found = [signal.update(norm) for norm in (6.7, 3.8, 4.2, 3.9, 3e3, 4.0)]
    assert found[:4] == [None] * 4
    assert found[4] > EXPLODING
    assert found[5] is None


def test_norm_score_of_gradients_that_grow_tenfold_while_it_warms_up_has_no_value():
    signal = NormSpikeScore(Course())
    assert [signal.update(norm) for norm in (0.1, 0.3, 0.9, 2.7, 8.0)] == [None] * 5


def test_norm_score_counts_one_reading_as_no_more_than_three_times_the_largest():
    assert norm_scores([1.0] * 50 + [1e6, 100.0])[-1] == pytest.approx(math.log(100 / 3), abs=0.01)


def test_norm_score_counts_a_reading_of_less_than_three_times_the_largest_whole():
    assert norm_scores([1.0] * 50 + [2.0, 3.0])[-1] == pytest.approx(math.log(3 / 2), abs=0.03)


def test_norm_score_counts_an_explosion_of_the_warm_up_as_three_times_the_largest():
    assert norm_scores([2.0] * 5 + [1e6] + [2.0] * 10 + [12.0])[-1] == pytest.approx(math.log(12 / 6), abs=0.03)


def test_norm_that_is_not_finite_has_no_score_and_changes_no_baseline():
    with_gaps, without = NormSpikeScore(Course()), NormSpikeScore(Course())
    for norm in usual_norms():
        assert with_gaps.update(math.inf) is None
        assert with_gaps.update(math.nan) is None
        assert with_gaps.update(norm) == without.update(norm)


def test_vanishing_share_counts_layers_under_a_thousandth_of_the_largest():
    norms = {"a.weight": 1e-5, "b.weight": 5e-4, "c.weight": 0.5, "d.weight": 1.0}
    assert VanishingShare().update(norms) == 0.5


def test_norm_score_of_weights_that_have_learned_waits_for_batches_that_they_do_not_know_yet():
    course = Course()
    course.learned = True
    signal = NormSpikeScore(course)
    found = [signal.update(norm) for norm in [0.01] * 6 + [2.0] + [0.01] * (WARM_UP_OF_LEARNED - 7)]
    assert set(found) == {None}
    assert signal.update(1.5) == 0.0
    assert signal.update(2000.0) > EXPLODING


def test_norm_spike_of_a_run_whose_gradients_begin_at_0_is_measured_against_those_that_follow():
    found = norm_scores([0.0] * 50 + [1.0, 0.0, 2.0] * 5 + [1.0 * math.e**3])
    assert set(found[:50]) == {None}
    assert max(score or 0.0 for score in found[:-1]) < EXPLODING / 2
    assert found[-1] == pytest.approx(3.0 - math.log(2.0), abs=0.05)


def test_steps_of_a_run_whose_loss_is_0_so_far_are_judged_by_it():
    assert UpdateExcess(course_of([0.0] * 60)).update(moved(0.5)) == 0.0


def test_vanishing_share_of_a_healthy_net_is_zero():
    assert VanishingShare().update({"a.weight": 0.01, "b.weight": 0.3, "c.weight": 1.0}) == 0.0


def test_vanishing_share_takes_the_parameters_of_a_module_as_one_layer():
    norms = {"a.weight": 1.0, "a.bias": 0.0, "b.weight": 1.0, "b.bias": 0.0, "c.weight": 1.0, "c.bias": 0.0}
    assert VanishingShare().update(norms) == 0.0


@pytest.mark.parametrize(
    "norms",
    [{}, {"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.0, "c": 0.0}, {"a": math.nan, "b": 1.0, "c": 1.0}],
    ids=["none", "two layers", "all zero", "not finite"],
)
def test_vanishing_share_has_no_value_where_there_is_nothing_to_compare(norms):
    assert VanishingShare().update(norms) is None


def test_vanishing_share_follows_when_other_parameters_are_trained():
    signal = VanishingShare()
    signal.update({"a": 1.0, "b": 1.0, "c": 1.0})
    assert signal.update({"b": 1.0, "c": 1.0, "d": 1e-6, "e": 1e-6}) == 0.5


def test_vanishing_share_leaves_out_layers_that_wake_up_behind_weights_of_zero():
    """As in the branches of a residual network whose last layers begin at zero, which is how they are to begin."""
    torch.manual_seed(0)
    branches = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)) for _ in range(4))
    last = nn.Linear(4, 1)
    for layer in [*(branch[-1] for branch in branches), last]:
        nn.init.zeros_(layer.weight)
    named = [*branches.named_parameters(), *last.named_parameters(prefix="last")]
    optimizer = torch.optim.Adam([p for _, p in named], lr=1e-4)
    signal, levels, were_tiny = VanishingShare(), [], False
    for _ in range(60):
        hidden = torch.randn(32, 4)
        for branch in branches:
            hidden = hidden + branch(hidden)
        optimizer.zero_grad()
        (last(hidden) - 3.0).square().mean().backward()
        norms = {name: p.grad.norm().item() for name, p in named}
        were_tiny |= 0.0 < norms["0.0.weight"] < 1e-3 * max(norms.values())
        levels.append(signal.update(norms))
        optimizer.step()
    assert were_tiny
    assert levels[0] > 0.8
    assert max(levels[5:]) == 0.0


def test_vanishing_share_counts_layers_that_woke_up_once_they_cease_to_grow():
    signal = VanishingShare()
    signal.update({"a": 0.0, "b": 1.0, "c": 1.0})
    for step in range(200):
        assert signal.update({"a": 1e-9 * (step + 2 * (step % 2)), "b": 1.0, "c": 1.0}) == 0.0 or step == 0
    levels = [signal.update({"a": 1e-7, "b": 1.0, "c": 1.0}) for _ in range(2 * GROWING)]
    assert levels[0] == 0.0
    assert levels[GROWING:] == [1 / 3] * GROWING


def test_vanishing_share_counts_layers_whose_gradient_comes_to_be_zero_at_times():
    signal, rng = VanishingShare(), random.Random(0)
    levels = [signal.update({"a": 1e-7 * rng.randrange(3), "b": 1.0, "c": 1.0}) for _ in range(4 * GROWING)]
    assert levels[2 * GROWING :] == [1 / 3] * 2 * GROWING


def test_dead_share_counts_exact_zeros_only():
    norms = {"a.weight": 0.0, "a.bias": 0.0, "b.weight": 1e-30, "c.weight": 1.0, "d.weight": 1.0}
    assert DeadShare().update(norms) == 0.25
    assert DeadShare().update({**norms, "a.weight": 1e-30}) == 0.0


def test_layer_that_woke_and_died_is_dead_at_once():
    signal = DeadShare()
    levels = [signal.update({"a": norm, "b": 1.0, "c": 1.0}) for norm in (0.0, 0.1, 0.2, 0.0)]
    assert levels == [1 / 3, 0.0, 0.0, 1 / 3]


def test_update_ratio_is_the_median_in_thousandths():
    assert UpdateRatio().update({"a": 1e-3, "b": 2e-3, "c": 0.9}) == pytest.approx(2.0)
    assert UpdateRatio().update({}) is None


def test_update_ratio_is_that_of_the_layers_that_move_where_most_are_frozen():
    assert UpdateRatio().update({"a": 0.0, "b": 0.0, "c": 2e-3}) == pytest.approx(2.0)
    assert UpdateRatio().update({"a": 0.0, "b": 0.0}) == 0.0


def moved(ratio):
    return {"a.weight": ratio, "a.bias": 10.0, "b.weight": ratio, "b.bias": 10.0, "c.weight": ratio}


LOSING = [3.0, 2.5, *[2.0] * 30, *[2.4] * 10]  # a fifth of what it had gained


def test_update_excess_is_what_one_step_changes_of_a_typical_layer():
    signal = UpdateExcess(course_of([2.3, 4.0]))
    assert signal.update(moved(0.8)) == 0.8
    assert signal.update(moved(0.001)) == 0.001


def test_update_excess_goes_by_steps_alone_where_no_loss_is_seen():
    assert UpdateExcess(Course()).update(moved(0.8)) == 0.8


def test_update_excess_adds_long_steps_up_while_the_loss_loses_its_gain():
    course = course_of(LOSING)
    signal = UpdateExcess(course)
    for _ in range(5):
        signal.update(moved(0.06))
        for loss in [2.4] * 8:
            course.update(loss)
    assert signal.update(moved(0.06)) == pytest.approx(1.7 * 0.36)


def test_update_excess_adds_no_steps_up_that_come_close_together():
    """The first ones of a run are all measured, and are the longest."""
    signal = UpdateExcess(course_of(LOSING))
    assert [signal.update(moved(0.06)) for _ in range(6)][-1] == pytest.approx(1.7 * 0.06)


@pytest.mark.parametrize("losses", [[3.0 - 0.02 * i for i in range(40)], [4.6, 4.0], [2.3, 5.0, *[2.2] * 20]])
def test_update_excess_of_any_steps_is_none_while_the_loss_comes_down(losses):
    signal = UpdateExcess(course_of(losses))
    assert {signal.update(moved(0.9)) for _ in range(6)} == {0.0}


def test_update_excess_of_steps_along_single_gradients_waits_until_half_of_the_gain_is_lost():
    course = course_of(LOSING)
    course.traits = Traits(averages=False)
    signal = UpdateExcess(course)
    assert signal.update(moved(0.9)) == 0.0
    for loss in [2.9] * 10:
        course.update(loss)
    assert signal.update(moved(0.9)) == pytest.approx(1.7 * 1.8)


def test_update_excess_of_steps_along_single_gradients_waits_until_swings_are_known():
    course = course_of([4.6, 6.3])
    course.traits = Traits(averages=False)
    assert UpdateExcess(course).update(moved(0.6)) == 0.0
    course.traits = Traits()
    assert UpdateExcess(course).update(moved(0.6)) == 0.6


NOISY = [40.0, 37.0, 43.0, 38.0, 42.0, 37.0, 41.0, 40.0, 43.0, 44.0, 43.0]  # a scale that steps have yet to come to


def test_update_excess_is_none_while_the_loss_has_gained_less_than_it_swings():
    assert UpdateExcess(course_of(NOISY)).update(moved(0.9)) == 0.0


def test_update_excess_of_a_loss_without_a_gain_counts_where_it_rises_far():
    assert UpdateExcess(course_of([*NOISY, 70.0, 75.0, 80.0, 80.0, 80.0])).update(moved(0.9)) > 0.9


def test_update_excess_of_a_loss_without_a_gain_counts_where_that_is_no_better_than_a_guess():
    course = course_of(NOISY)
    course.chance = 40.0
    assert UpdateExcess(course).update(moved(0.9)) > 0.9
    course.chance = 100.0
    assert UpdateExcess(course).update(moved(0.9)) == 0.0


def test_update_excess_of_usual_steps_stays_far_under_the_threshold():
    signal = UpdateExcess(course_of(LOSING))
    assert max(signal.update(moved(3e-3)) for _ in range(20)) < RULES["update_too_large"].threshold / 10


def test_update_excess_leaves_out_what_began_at_zero():
    signal = UpdateExcess(course_of(LOSING))
    slow = {"a.weight": 1e-5, "b.weight": 1e-5, "c.weight": 1e-5}
    signal.update(slow)
    found = signal.update({**slow, "d": 1.0, "e": 1.0, "f": 1.0, "g": 1.0})
    assert found < RULES["update_too_large"].threshold / 10


def test_update_excess_remembers_the_first_ratio_that_there_was():
    signal = UpdateExcess(course_of(LOSING))
    for ratio in (0.0, 0.7, 0.2):
        signal.update(moved(ratio))
    signal.fence()
    assert signal.first == 0.7


@pytest.mark.parametrize(
    ("ratios", "measured"),
    [
        ((0.001, 0.02, 0.01), 0.02),  # none is too long
        ((0.001, 0.001, 0.001, 0.6), 0.6),  # what was usual before a rate was raised says nothing of it
        ((0.05, 0.1, 0.3, 0.8), 0.3),
        ((0.04, 0.1, 0.9), 0.1),
        ((0.1, 0.1, 0.1, 0.5, 0.6, 0.7, 0.8), 0.6),  # six of them count
    ],
)
def test_update_excess_knows_how_long_steps_are_that_are_too_long(ratios, measured):
    signal = UpdateExcess(Course())
    assert signal.measured is None
    for ratio in ratios:
        signal.update(dict.fromkeys(("a.weight", "b.weight", "c.weight"), ratio))
    assert signal.measured == measured
    signal.fence()
    assert signal.measured is None


def test_update_excess_counts_a_reading_once_however_often_it_is_shown():
    signal, same = UpdateExcess(course_of([*[2.0] * 30, *[2.4] * 10])), moved(0.05)
    first = signal.update(same)
    assert [signal.update(same) for _ in range(10)] == [first] * 10


@pytest.mark.parametrize("names", [("weight", "bias"), ("0.weight", "0.bias"), ("w", "b")])
def test_update_excess_has_no_value_of_a_linear_model(names):
    assert UpdateExcess(Course()).update(dict.fromkeys(names, 5.0)) is None


def test_update_excess_of_a_network_of_two_layers_is_between_theirs():
    ratios = {"hidden.weight": 0.4, "hidden.bias": 9.0, "head.weight": 0.8}
    assert UpdateExcess(course_of([2.3, 4.0])).update(ratios) == pytest.approx(0.6)


def test_update_excess_forgets_its_readings_at_a_fence():
    signal, newest = UpdateExcess(course_of([2.0] * 40)), moved(0.9)
    signal.update(newest)
    signal.fence()
    assert signal.update(newest) is None


def test_crawl_of_a_model_that_is_frozen_but_for_one_layer_goes_by_that_one():
    ratios = {"a": 0.0, "b": 0.0, "c": 1e-3}
    assert Crawl(course_of([2.3] * 60)).update(ratios) == pytest.approx(1.0)
    assert Crawl(course_of([2.3] * 60)).update(dict.fromkeys(ratios, 0.0)) == math.inf


def test_crawl_is_not_taken_for_motion_where_what_began_at_zero_moves():
    signal = Crawl(course_of([2.3] * 60))
    signal.update({"a.weight": 1e-6, "b.weight": 1e-6})
    found = signal.update({"a.weight": 1e-6, "a.bias": 0.5, "b.weight": 1e-6, "b.bias": 0.5, "c.weight": 0.5, "d": 0.5})
    assert found > RULES["loss_stalled"].threshold


def test_crawl_goes_by_what_began_at_zero_where_nothing_else_moves():
    signal = Crawl(course_of([2.3] * 60))
    signal.update({"a.weight": 0.0})
    assert signal.update({"a.weight": 0.0, "head": 1e-3}) == pytest.approx(1.0)


def test_crawl_is_high_where_neither_loss_nor_weights_move():
    slow = Crawl(course_of([2.3] * 60))
    assert slow.update({"a": 1e-6, "b": 1e-6, "c": 1e-6}) > RULES["loss_stalled"].threshold
    assert slow.update({"a": 1e-3, "b": 1e-3, "c": 1e-3}) == pytest.approx(1.0)


def test_crawl_takes_weights_that_moved_and_came_to_rest_for_converged():
    rested = Crawl(course_of([2.3] * 60))
    rested.update({"a": 1e-3, "b": 1e-3, "c": 1e-3})
    assert rested.update({"a": 1e-9, "b": 1e-9, "c": 1e-9}) < RULES["loss_stalled"].threshold / 5


def test_crawl_is_zero_once_the_loss_has_come_down(healthy):
    assert Crawl(course_of(healthy())).update({"a": 1e-9}) == 0.0


def test_crawl_has_no_value_while_losses_are_few():
    assert Crawl(course_of([2.3] * 10)).update({"a": 1e-9}) is None


def test_ratios_are_of_parameters_that_have_a_gradient_to_speak_of():
    """A bias before a normalisation has none, but for rounding errors."""
    ratios = {"0.weight": 0.02, "0.bias": 1e-8, "1.weight": 0.01, "1.bias": 0.001, "scale": 0.5}
    norms = {"0.weight": 2.0, "0.bias": 1e-6, "1.weight": 1e-4, "1.bias": 1e-7, "scale": 1e-9}
    assert list(of_trained(ratios, norms)) == ["0.weight", "1.weight", "1.bias", "scale"]
    assert of_trained(ratios, {}) == ratios


def test_bias_of_a_module_whose_weight_is_in_one_within_it_is_of_the_same_layer():
    """Graph convolutions keep it so, and it has no gradient where a normalisation follows."""
    norms = {"0.bias": 1e-9, "0.lin.weight": 1.0, "1.bias": 1e-9, "1.lin.weight": 1.0, "2.bias": 0.5, "3.weight": 1.0}
    assert VanishingShare().update(norms) == 0.0
    assert list(of_trained(dict.fromkeys(norms, 0.01), norms)) == ["0.lin.weight", "1.lin.weight", "2.bias", "3.weight"]


def test_module_with_more_than_a_bias_is_a_layer_beside_those_within_it():
    norms = {"0.scale": 1e-9, "0.bias": 1e-9, "0.lin.weight": 1.0, "1.weight": 1.0, "2.weight": 1.0}
    assert VanishingShare().update(norms) == 0.25


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_ratios_of_weights_that_are_no_numbers_are_no_measure_of_the_rate(broken):
    excess, crawl = UpdateExcess(Course()), Crawl(course_of([2.0, 2.1] * 30))
    for ratio in (broken, 1e-6):
        ratios = dict.fromkeys(["a.weight", "b.weight", "c.weight"], ratio)
        excess.read(ratios)
        slow = crawl.update(ratios)
    assert excess.first == 1e-6
    assert slow > 10


@pytest.mark.parametrize("names", ["abc", "cba", "bca"])
def test_update_ratio_does_not_depend_on_where_a_nan_stands(names):
    values = {"a": math.nan, "b": 1e-3, "c": 2e-3}
    assert UpdateRatio().update({name: values[name] for name in names}) == pytest.approx(2.0)
