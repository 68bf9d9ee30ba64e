"""Numbers in, verdicts out: real rules on series made for them."""

import dataclasses
import math
import random

import pytest

from trimtab.catalog.rules import RULES
from trimtab.guard import Guard
from trimtab.rules.bench import LASTS
from trimtab.rules.judge import FAILURES, SKIPS, Judge, Traits
from trimtab.rules.rates import SETTLE
from trimtab.rules.rule import Rule, resolve
from trimtab.signals import UpdateExcess
from trimtab.signals.course import UNSEEN
from trimtab.types import GradientReading, Strides


def reading(norm=1.0, **layers):
    return GradientReading(norm=norm, finite=math.isfinite(norm), layer_norms=layers or {"a": norm})


def edges(verdicts):
    return [(verdict.rule, verdict.state) for verdict in verdicts]


RATE = 0.1


class Steps:
    """A judge, and the steps of one optimizer."""

    def __init__(self, rules, **options):
        self.judge = Judge(rules, **options)
        self.at = 0

    def take(self, losses, gradients=None, rate=RATE, optimizer="0"):
        verdicts = []
        for loss in losses:
            verdicts += self.judge.step(optimizer, self.at, loss, gradients, rate)
            self.at += 1
        return verdicts

    @property
    def findings(self):
        return self.judge.findings("0")


def shipped(*names):
    return [RULES[name] for name in names]


SPIKE = 0.3 + 10 * RULES["loss_spike"].threshold * 2.0  # 2.0: what `falling` comes down


def falling(count=60):
    return [0.3 + 2.0 * 0.95**i + 0.02 * (i % 2) for i in range(count)]


def test_verdict_says_what_fired_and_where():
    (verdict,) = Steps(resolve()).take([2.0, math.nan])
    rule = RULES["loss_nonfinite"]
    assert (verdict.rule, verdict.optimizer, verdict.state, verdict.episode) == (rule.name, "0", "firing", 1)
    assert (verdict.severity, verdict.threshold) == (rule.severity, rule.threshold)
    assert (verdict.value, verdict.level, verdict.step, verdict.since) == (math.inf, math.inf, 1, 1)


def test_verdict_of_a_rule_with_a_hold_has_the_value_that_its_level_rests_on():
    steps = Steps([Rule("high", signal=lambda loss: loss, threshold=2.0, hold=3)])
    (began,) = steps.take([9.0, 3.0, 8.0])
    assert (began.state, began.value, began.level) == ("firing", 3.0, 1.5)
    (ended,) = steps.take([1.0, 0.5, 1.0])
    assert (ended.state, ended.value, ended.level) == ("resolved", 0.5, 0.25)


def test_episode_gives_one_verdict_when_it_begins_and_one_when_it_ends():
    steps = Steps(shipped("loss_nonfinite"))
    assert edges(steps.take([math.nan, math.nan, math.nan])) == [("loss_nonfinite", "firing")]
    assert edges(steps.take([1.0, 1.0])) == [("loss_nonfinite", "resolved")]
    assert [verdict.episode for verdict in steps.take([math.inf, 1.0])] == [2, 2]


def test_healthy_run_gives_no_verdict_of_any_rule():
    steps = Steps(resolve())
    norms = reading(1.0, **{"a.weight": 0.5, "b.weight": 0.6, "c.weight": 0.4})
    assert steps.take(falling(400), norms) == []
    assert steps.judge.healthy("0")


def test_spike_of_the_loss_fires_and_the_run_is_no_longer_healthy():
    steps = Steps(shipped("loss_spike"))
    assert edges(steps.take([*falling(), SPIKE])) == [("loss_spike", "firing")]
    assert not steps.judge.healthy("0")


def test_rules_that_presume_a_loss_that_comes_down_are_not_judged_where_it_says_nothing():
    steps = Steps(resolve())
    assert "loss_spike" in steps.judge.distrust_loss()
    steps.take(falling())
    assert edges(steps.take([SPIKE, math.nan])) == [("loss_nonfinite", "firing")]
    assert "loss_spike" not in steps.judge.take_levels("0")


def test_episode_of_a_rule_that_is_left_out_does_not_stay_open():
    steps = Steps(resolve())
    steps.take([*falling(), *[5.0] * 30])
    assert "loss_diverged" in steps.judge.firing()
    steps.judge.distrust_loss()
    assert ("loss_diverged", "resolved") in edges(steps.take([5.0]))
    assert steps.judge.firing() == []
    assert steps.judge.healthy("0")


def test_episode_about_a_loss_does_not_stay_open_where_optimizers_turn_out_to_work_against_each_other():
    steps = Steps(resolve())
    steps.take([*falling(), *[5.0] * 30])
    for optimizer in ("0", "1"):
        steps.judge.contest.backward(optimizer, steps)
    steps.take([1.0], optimizer="1")
    assert ("loss_diverged", "resolved") in edges(steps.take([5.0]))


def test_rule_that_was_chosen_is_judged_also_where_the_loss_says_nothing():
    steps = Steps(resolve(), chosen=["loss_spike"])
    assert "loss_spike" not in steps.judge.distrust_loss()
    assert edges(steps.take([*falling(), SPIKE])) == [("loss_spike", "firing")]


def test_health_is_judged_at_the_newest_point_of_a_rule_that_waits():
    steps = Steps(shipped("loss_diverged"))
    steps.take(falling())
    assert steps.judge.healthy("0")
    assert steps.take([2.3] * 10) == []
    assert not steps.judge.healthy("0")


def test_verdict_reaches_back_to_where_the_trouble_may_have_begun():
    judge, reach = Judge(shipped("update_too_large")), RULES["update_too_large"].reach
    torn = GradientReading(norm=1.0, finite=True, layer_norms={}, update_ratios=dict.fromkeys("abc", 2.0))
    (late,) = judge.step("0", 3 * reach, None, torn, 0.1)
    (early,) = judge.step("1", reach // 2, None, torn, 0.1)
    assert (late.step, late.since, early.since) == (3 * reach, 2 * reach, 0)


def test_steps_are_as_long_as_those_of_weights_whose_biases_have_no_gradient_by_their_nature():
    """As where every layer is followed by a normalisation without parameters of its own."""
    judge, layers = Judge(shipped("update_too_large")), [f"{i}.weight" for i in range(3)]
    biases = [name.replace("weight", "bias") for name in layers]
    torn = GradientReading(
        norm=1.0,
        finite=True,
        layer_norms=dict.fromkeys(layers, 0.6) | dict.fromkeys(biases, 1e-8),
        update_ratios=dict.fromkeys(layers, 2.0) | dict.fromkeys(biases, 1e-8),
    )
    assert [v.rule for v in judge.step("0", 1, None, torn, 0.1)] == ["update_too_large"]


def test_long_steps_along_single_gradients_may_cost_more_of_the_gain():
    judge = Judge(resolve(), traits=lambda optimizer: Traits(averages=optimizer == "adam"))
    torn = GradientReading(norm=1.0, finite=True, layer_norms={}, update_ratios=dict.fromkeys("abc", 0.8))
    fired = set()
    for at, loss in enumerate([3.0, 2.5, *[2.0] * 30, *[2.3] * 10]):
        for optimizer in ("adam", "sgd"):
            fired |= {(v.rule, v.optimizer) for v in judge.step(optimizer, at, loss, torn, 0.1)}
    assert fired == {("update_too_large", "adam")}


def test_run_without_a_loss_is_not_called_healthy():
    judge = Judge(resolve())
    judge.step("0", 0, None, reading(), 0.1)
    assert not judge.healthy("0")
    assert not judge.healthy("never seen")


def test_optimizers_are_judged_apart():
    steps = Steps(shipped("loss_nonfinite"))
    (one,) = steps.take([math.nan], optimizer="0")
    (other,) = steps.take([math.nan], optimizer="1")
    assert [(one.optimizer, one.episode), (other.optimizer, other.episode)] == [("0", 1), ("1", 1)]


def test_gradients_that_are_not_finite_fire_though_the_norm_may_be():
    judge = Judge(shipped("gradient_nonfinite"))
    unfinished = GradientReading(norm=1.0, finite=False, layer_norms={})
    assert edges(judge.step("0", 0, 1.0, unfinished, 0.1)) == [("gradient_nonfinite", "firing")]


def test_value_that_is_not_finite_enters_no_baseline():
    clean, broken = Steps(resolve()), Steps(resolve())
    for loss in falling(100):
        clean.take([loss], reading(loss))
        broken.take([loss], reading(loss))
        broken.take([math.nan], reading(math.inf))
    found, expected = broken.judge.signals(), clean.judge.signals()
    for name in ("loss_divergence", "gradient_spike_score"):
        assert found[name, "0"] == expected[name, "0"]
    assert broken.judge.usual_norm("0") == clean.judge.usual_norm("0")


def test_change_of_the_learning_rate_suspends_relative_rules():
    steps = Steps(shipped("loss_spike"))
    steps.take(falling())
    assert steps.take([SPIKE] * 3, rate=0.2) == []
    steps = Steps(shipped("loss_spike"))
    steps.take(falling())
    assert edges(steps.take([SPIKE], rate=0.19)) == [("loss_spike", "firing")]


def test_change_of_the_learning_rate_does_not_suspend_nonfinite():
    steps = Steps(shipped("loss_nonfinite"))
    steps.take(falling())
    assert edges(steps.take([math.nan], rate=1.0)) == [("loss_nonfinite", "firing")]


def test_relative_rules_are_judged_again_once_the_rate_has_settled():
    steps = Steps(shipped("loss_spike"))
    steps.take(falling())
    steps.take(falling()[-1:] * (2 * SETTLE), rate=0.01)
    assert edges(steps.take([SPIKE], rate=0.01)) == [("loss_spike", "firing")]


def test_rule_for_steady_rates_waits_while_the_rate_warms_up():
    steps = Steps(shipped("loss_high"))
    for step in range(1000):
        assert steps.take([2.3], rate=1e-3 * 1.005**step) == []
    assert edges(steps.take([2.3] * 40, rate=0.15)) == [("loss_high", "firing")]


def test_rule_for_steady_rates_ends_where_the_rate_is_all_but_gone():
    steps = Steps(shipped("loss_high"))
    assert edges(steps.take([2.3] * 1500)) == [("loss_high", "firing")]
    falling = [steps.take([2.3], rate=0.1 * 0.99**n) for n in range(300)]
    assert [edges(found) for found in falling if found] == [[("loss_high", "resolved")]]


def test_loss_that_is_still_where_it_began_means_that_nothing_since_was_good():
    steps = Steps(shipped("loss_high"))
    verdict = steps.take([2.3] * 1500)[0]
    assert (verdict.state, verdict.since) == ("firing", 0)


def test_skips_from_before_a_fence_are_none_of_those_in_a_row():
    """Whoever goes back puts GradScaler's scale back, too, which is too large once more."""
    judge = Judge(shipped("gradient_nonfinite"))
    for step in range(SKIPS):
        judge.skipped("0", step)
    judge.fence(SKIPS, back_to=0)
    assert judge.skipped("0", SKIPS + 1) == []


def test_scaler_that_skips_three_times_in_a_row_fires():
    judge = Judge(shipped("gradient_nonfinite"))
    found = [edges(judge.skipped("0", step)) for step in range(SKIPS)]
    assert found == [[], [], [("gradient_nonfinite", "firing")]]


def test_scaler_that_looks_for_its_scale_fires_nothing():
    judge = Judge(shipped("gradient_nonfinite"))
    for step in range(0, 30, 3):
        assert judge.skipped("0", step) == judge.skipped("0", step + 1) == []
        assert judge.step("0", step + 2, 1.0, reading(), 0.1) == []


def test_usual_norm_is_the_geometric_mean_of_the_norms_before():
    steps = Steps([])
    for norm in [0.5, 2.0] * 30:
        steps.take([1.0], reading(norm))
    assert steps.judge.usual_norm("0") == pytest.approx(1.0, rel=0.1)
    before = steps.judge.usual_norm("0")
    steps.take([1.0], reading(1e6))
    assert steps.judge.usual_norm("0") == pytest.approx(before, rel=0.1)


def test_usual_norm_is_not_learned_from_gradients_that_go_on_exploding():
    steps = Steps([])
    for norm in [0.5, 2.0] * 30:
        steps.take([1.0], reading(norm))
    before = steps.judge.usual_norm("0")
    for _ in range(200):
        steps.take([1.0], reading(100.0))
    assert steps.judge.usual_norm("0") == pytest.approx(before, rel=0.1)


def moved(ratio, further=None, rate=RATE):
    """Of three layers, of which one may have moved further, by a step at this rate."""
    ratios = dict.fromkeys(("a.weight", "b.weight", "c.weight"), ratio) | {"c.weight": further or ratio}
    return GradientReading(norm=1.0, finite=True, layer_norms={"a": 1.0}, update_ratios=ratios, update_rate=rate)


def test_update_ratio_is_judged_with_the_losses_of_the_next_steps():
    steps = Steps(shipped("loss_stalled"))
    steps.take([2.3] * 40)
    assert steps.take([2.3], moved(1e-6)) == []
    assert edges(steps.take([2.3] * 20)) == [("loss_stalled", "firing")]


@pytest.mark.parametrize(("then", "now", "fires"), [(1e-3, 1e-3, True), (1e-4, 1e-3, False), (0.0, 1e-3, False)])
def test_update_ratio_of_a_warm_up_is_not_that_of_the_rate_it_has_led_to(then, now, fires):
    """Ratios are taken seldom in a fast loop, so that one of the first steps may be judged after the warm-up."""
    steps = Steps(shipped("loss_stalled"))
    steps.take([2.3] * 40, rate=now)
    found = steps.take([2.3], moved(5e-5, rate=then), rate=now) + steps.take([2.3] * 20, rate=now)
    assert bool(edges(found)) == fires


def test_update_ratio_from_before_a_fence_is_not_judged_after_it():
    steps = Steps(shipped("loss_stalled"))
    steps.take([2.3] * 40)
    steps.take([2.3], moved(1e-6))
    steps.judge.fence(steps.at)
    assert steps.take([2.3] * 20) == []


def test_update_ratio_is_not_judged_for_ever():
    steps = Steps(shipped("update_too_large"))
    steps.take([2.3] * 30 + [2.2] * 5)
    steps.take([2.2], moved(0.9))
    assert steps.take([2.2] * 20 + [9.0] * 20) == []


def test_first_stride_is_that_at_the_rate_of_now():
    steps = Steps(shipped("update_too_large"))
    assert steps.findings.strides("update_too_large") == Strides()
    steps.take([2.3], rate=0.001)
    steps.take([2.3], moved(0.02, rate=0.001), rate=0.01)  # the ratio is of a step before
    assert steps.findings.strides("update_too_large").first == pytest.approx(0.2)


@pytest.mark.parametrize(("ratio", "first"), [(0.5, 0.1), (5.0, 1.0), (50.0, 2.0)])
def test_first_steps_of_rmsprop_tell_its_rate_by_how_much_longer_they_are(ratio, first):
    """Twice the rate beside the weights is what those steps come to, one with another."""
    steps = Steps(shipped("loss_high"), traits=lambda optimizer: Traits(averages=False, decay=0.99))
    steps.take([2.3])
    steps.take([2.3], moved(ratio))  # the ratio is of the step before
    steps.take([2.3], moved(0.7 * ratio))
    found = steps.findings.strides("loss_high")
    assert (found.first, found.measured) == (pytest.approx(first), pytest.approx(ratio / 10, rel=0.02))


def test_strides_are_the_newest_but_for_a_rule_to_which_nothing_was_ever_good():
    steps = Steps(shipped("update_too_large", "loss_high"))
    for ratio in (0.4, *[0.01] * UpdateExcess.READINGS):
        steps.take([2.3], moved(ratio, further=2 * ratio))
    assert steps.findings.strides("update_too_large")[:2] == (0.01, 0.02)
    assert steps.findings.strides("loss_high")[:2] == (0.4, 0.8)
    steps.judge.fence(steps.at)
    assert steps.findings.strides("loss_high")[:2] == (0.0, 0.0)


def test_strides_are_known_without_a_rule_about_them():
    steps = Steps(shipped("loss_spike"))
    steps.take([2.3], moved(0.4))
    assert steps.findings.strides("loss_spike").measured == 0.4


def test_furthest_stride_is_that_of_any_layer():
    steps = Steps(shipped("update_too_large"))
    ratios = {"a.weight": 0.02, "b.weight": 7.0, "c.weight": 0.03}
    steps.take([2.3], GradientReading(norm=1.0, finite=True, layer_norms={}, update_ratios=ratios))
    strides = steps.findings.strides("update_too_large")
    assert (strides.measured, strides.furthest) == (0.03, 7.0)
    steps.judge.fence(1)
    assert steps.findings.strides("update_too_large").furthest == 0.0


def test_loss_at_chance_after_long_steps_is_high_from_the_beginning():
    steps = Steps(shipped("loss_high"))
    steps.judge.chance("0", 2.3)
    verdicts = steps.take([2.31, 2.29] * 10, moved(0.2)) + steps.take([2.31, 2.29] * 60)
    assert [(v.rule, v.state, v.since) for v in verdicts] == [("loss_high", "firing", 0)]


@pytest.mark.parametrize(
    ("losses", "chance", "stride", "lost"),
    [
        ([2.31, 2.29] * 20, None, 0.01, False),
        ([2.31, 2.29] * 20, None, 0.05, True),
        ([2.31, 2.29] * 20, 2.3, 0.01, True),
        ([2.3, 40.0, 900.0, 300.0, 9.0, *[2.31, 2.29] * 60], None, None, True),
        ([2.3, 40.0, 900.0, 300.0, 9.0, *[2.31, 2.29] * 60], None, 0.01, False),  # no step has done that
        ([2.3, 2.3, 900.0, 2.3, 2.3, *[2.31, 2.29] * 60], None, 0.01, False),  # a batch like no other
    ],
)
def test_weights_are_lost_where_the_loss_exploded_or_is_at_chance_or_steps_were_long(losses, chance, stride, lost):
    steps = Steps(shipped("loss_high", "loss_spike"))
    steps.judge.chance("0", chance)
    steps.take(losses, moved(stride) if stride else None)
    assert steps.findings.is_lost("loss_high") == lost
    assert steps.findings.is_lost("loss_spike")


@pytest.mark.parametrize(("stride", "lost"), [(0.01, False), (0.05, True)])
def test_regression_at_chance_is_lost_only_after_long_steps(stride, lost):
    steps = Steps(shipped("loss_high"))
    steps.judge.chance("0", 2.3, is_exact=False)
    steps.take([2.31, 2.29] * 20, moved(stride))
    assert steps.findings.is_lost("loss_high") == lost


@pytest.mark.parametrize(
    ("losses", "validation", "lost"),
    [
        ([2.31, 2.29] * 20, [2.31, 2.28, 2.25], False),
        ([2.31, 2.29] * 20, [2.25, 2.28, 2.25, 2.2], False),
        ([2.31, 2.29] * 20, [2.31, 2.30, 2.29], True),  # by chance
        ([2.31, 2.29] * 20, [2.31, 2.33, 2.2], True),
        ([2.31, 2.29] * 20, [2.31, 2.2], True),
        ([2.3, 40.0, 900.0, 300.0, 9.0, *[2.31, 2.29] * 60], [2.31, 2.28, 2.2], True),
        ([2.3, 40.0, 900.0, 300.0, 9.0, *[2.31, 2.29] * 60], [2.31, 2.28, 2.1], False),
    ],
)
def test_weights_are_not_lost_where_validation_gets_better_from_pass_to_pass(losses, validation, lost):
    steps = Steps(shipped("loss_high"))
    steps.judge.chance("0", 2.3)
    steps.take(losses, moved(0.05))
    for loss in validation:
        steps.judge.validation(len(losses), loss, None, None)
    assert steps.findings.is_lost("loss_high") == lost
    assert lost or steps.findings.validation_improves
    steps.judge.forget_validation()
    assert steps.findings.is_lost("loss_high")


@pytest.mark.parametrize(("back", "recovered"), [(0, []), (90, ["loss_spike", "loss_diverged"])])
def test_loss_that_has_jumped_or_diverged_may_come_down_by_itself(back, recovered):
    steps = Steps(shipped("loss_spike", "loss_diverged", "loss_oscillating"))
    steps.take([2.3 * 0.97**i for i in range(150)])
    fired = {verdict.rule for verdict in steps.take([3.0] * 60 + [0.02] * back)}
    assert {"loss_spike", "loss_diverged"} <= fired
    assert [
        rule for rule in ("loss_spike", "loss_diverged", "loss_oscillating") if steps.findings.has_recovered(rule)
    ] == (recovered)
    assert not steps.judge.findings("1").has_recovered("loss_spike")


@pytest.mark.parametrize(
    ("after", "chance", "states", "recovered"),
    [
        ([3.01, 2.99] * 20, None, ["firing"], False),
        ([3.0, 4.0] * 20, None, ["firing"], False),
        ([3.0 - 0.05 * i for i in range(12)], None, ["firing"], False),  # a few good batches, it may be
        ([2.2] * 40, None, ["firing", "resolved"], True),
        ([2.2] * 40, 2.2, ["firing", "resolved"], False),  # to where it may be stuck again
        ([2.2] * 40, 4.0, ["firing", "resolved"], True),
    ],
)
def test_loss_that_exploded_at_first_may_come_down_by_itself(after, chance, states, recovered):
    steps = Steps(shipped("loss_high"))
    steps.judge.chance("0", chance)
    exploded = [*[3.01, 2.99] * 3, 60.0, 90.0, *[3.01, 2.99] * 18]
    assert [verdict.state for verdict in steps.take([*exploded, *after], moved(0.05))] == states
    assert steps.findings.has_recovered("loss_high") == recovered


@pytest.mark.parametrize("seed", range(4))
def test_loss_that_comes_down_slowly_is_high_once(seed):
    noise = random.Random(seed)
    steps = Steps(shipped("loss_high"))
    said = edges(steps.take(2.9 - 3e-5 * step + noise.gauss(0.0, 0.1) for step in range(5000)))
    assert said == [("loss_high", "firing"), ("loss_high", "resolved")]


def test_loss_that_has_come_down_by_itself_may_return():
    steps = Steps(shipped("loss_spike", "loss_diverged"))
    steps.take([*falling(), 100.0, *(0.3 + 0.05 * i for i in range(20))])
    assert steps.findings.has_returned("loss_spike")
    assert not steps.findings.has_recovered("loss_spike")
    assert not steps.findings.has_returned("loss_diverged")
    assert not steps.judge.findings("1").has_returned("loss_spike")


@pytest.mark.parametrize("normalizes", [True, False])
def test_loss_that_is_low_again_says_nothing_of_what_the_optimizer_remembers(normalizes):
    steps = Steps(shipped("loss_spike"), traits=lambda optimizer: Traits(normalizes=normalizes))
    steps.take([*falling(), 1e5, 0.3, 0.3])
    assert steps.findings.has_recovered("loss_spike") == (not normalizes)


def test_loss_is_worse_than_it_was_where_it_has_to_come_down():
    steps = Steps(resolve())
    steps.take([*falling(200), *[0.4] * 60])
    assert steps.findings.is_worse
    assert not steps.judge.findings("1").is_worse
    steps.judge.distrust_loss()
    assert not steps.findings.is_worse


def test_vanishing_gradients_are_no_reason_for_a_higher_rate_where_the_loss_is_on_its_way_to_chance():
    """As that of a language model, which comes down from far above it."""
    steps = Steps(shipped("gradient_vanishing"))
    steps.judge.chance("0", 2.3)
    steps.take([4.2 - 0.05 * i for i in range(30)])
    assert not steps.findings.is_slow("gradient_vanishing")


def test_vanishing_gradients_are_a_reason_for_a_higher_rate_only_where_the_loss_is_at_chance():
    steps = Steps(shipped("gradient_vanishing"))
    steps.take([2.31, 2.29] * 20)
    assert not steps.findings.is_slow("gradient_vanishing")
    steps.judge.chance("0", 2.3)
    assert steps.findings.is_slow("gradient_vanishing")
    steps.take([1.0] * 40)
    assert not steps.findings.is_slow("gradient_vanishing")
    assert steps.findings.is_slow("loss_stalled")


def test_vanishing_gradients_are_no_reason_for_a_higher_rate_where_layers_have_none_at_all():
    steps = Steps(shipped("gradient_vanishing", "layer_dead"))
    steps.judge.chance("0", 2.3)
    dead, small = (reading(a=least, b=least, c=1.0) for least in (0.0, 1e-5))
    assert edges(steps.take([2.31, 2.29] * 20, dead)) == [("gradient_vanishing", "firing")]
    assert not steps.findings.is_slow("gradient_vanishing")
    steps.take([2.31], small)
    assert steps.findings.is_slow("gradient_vanishing")


def test_validation_that_has_lost_what_it_had_gained_says_of_each_optimizer_that_it_does_harm():
    steps = Steps(shipped("loss_diverged"))
    steps.take([3.0 - 0.05 * i for i in range(40)])
    for loss in (1.0, 2.5):
        steps.judge.validation(steps.at, loss, None, 1.0)
    assert not steps.findings.is_harmful
    steps.judge.validation(steps.at, 2.6, None, 1.0)
    assert steps.findings.is_harmful
    assert not steps.judge.findings("another").is_harmful


def test_rule_by_function_is_given_the_loss_and_fires():
    seen = []
    rule = Rule("mine", lambda loss: seen.append(loss) or loss, threshold=5.0, hold=2, severity="critical")
    verdicts = Steps([rule]).take([1.0, 6.0, 7.0])
    assert edges(verdicts) == [("mine", "firing")]
    assert (verdicts[0].step, verdicts[0].since, verdicts[0].severity) == (2, 1, "critical")
    assert seen == [1.0, 6.0, 7.0]


def test_rule_by_function_that_returns_none_has_no_point():
    steps = Steps([Rule("mine", lambda loss: None, threshold=1.0)])
    assert steps.take([9.0, 9.0]) == []
    assert steps.judge.take_levels("0") == {}


@pytest.mark.parametrize("bad", [lambda loss: 1 / 0, lambda loss: "high"], ids=["raises", "returns no number"])
def test_rule_by_function_that_fails_is_left_out_after_five_times(bad):
    called = []
    steps = Steps([Rule("bad", lambda loss: called.append(loss) or bad(loss), 1.0)], attempt=Guard.attempt)
    assert steps.take([1.0] * 20) == []
    assert len(called) == FAILURES


def test_rule_by_function_that_fails_leaves_the_others_judging():
    rules = [Rule("bad", lambda loss: 1 / 0, 1.0), Rule("good", lambda loss: loss, 1.0), *shipped("loss_nonfinite")]
    steps = Steps(rules, attempt=Guard.attempt)
    assert {verdict.rule for verdict in steps.take([math.nan])} == {"good", "loss_nonfinite"}


@pytest.mark.parametrize(("relative", "expected"), [(True, []), (False, [("mine", "firing")])])
def test_relative_rule_by_function_is_suspended_too(relative, expected):
    steps = Steps([Rule("mine", lambda loss: loss, threshold=5.0, relative=relative)])
    steps.take(falling())
    assert edges(steps.take([50.0], rate=1.0)) == expected


def test_rule_by_logged_value_fires_on_that_value_alone():
    judge = Judge([Rule("perplexed", "logged:perplexity", threshold=100.0)])
    assert judge.logged(1, "accuracy", 500.0) == []
    (verdict,) = judge.logged(2, "perplexity", 500.0)
    assert (verdict.rule, verdict.optimizer, verdict.step) == ("perplexed", "", 2)


def test_rule_by_a_built_in_signal_fires_at_its_own_threshold():
    steps = Steps([Rule("small_spike", "loss_spike_score", threshold=2.0), *shipped("loss_spike")])
    assert edges(steps.take([*falling(), 0.3 + 3 * 2.0])) == [("small_spike", "firing")]


def test_overfitting_fires_after_three_passes_with_a_gap():
    judge = Judge(shipped("overfitting"))
    good = [judge.validation(step, 2.0 - 0.3 * step, None, 2.0 - 0.3 * step) for step in range(5)]
    bad = [edges(judge.validation(step, 1.5, None, 0.3)) for step in range(5, 8)]
    assert good == [[]] * 5
    assert bad == [[], [], [("overfitting", "firing")]]


@pytest.mark.parametrize(("chance", "fires"), [(2.30, False), (2.60, True), (None, True)])
def test_overfitting_is_no_name_for_a_training_loss_that_rests_at_chance(chance, fires):
    judge = Judge(shipped("overfitting"))
    for step in range(40):
        judge.step("0", step, 2.35 if step < 5 else 2.303, None, 0.1)
    judge.chance("0", chance)
    passes = [edges(judge.validation(step, loss, None, 2.303)) for step, loss in enumerate([2.306, *[2.315] * 5])]
    assert ([("overfitting", "firing")] in passes) is fires


def test_overfitting_is_judged_from_a_beginning_in_the_unit_of_validation():
    rule = shipped("overfitting")
    penalised, plain = Judge(rule), Judge(rule)
    for judge in (penalised, plain):
        judge.step("0", 0, 40.0, None, 0.1)  # the objective, in a unit of its own
    found = [
        [edges(judge.validation(step, 1.5 if step else 1.3, None, 0.3, beginning)) for step in range(6)]
        for judge, beginning in ((penalised, 2.3), (plain, None))
    ]
    assert [("overfitting", "firing")] in found[0]
    assert found[1] == [[]] * 6


@pytest.mark.parametrize(("rates", "fires"), [([0.1] * 40, True), ([0.001 * i for i in range(1, 41)], False)])
def test_slow_rise_of_validation_is_no_overfitting_while_the_rate_warms_up(rates, fires):
    judge = Judge(shipped("overfitting"))
    for step, rate in enumerate(rates):
        judge.step("0", step, 2.0, None, rate)
    losses = [1.4, 1.3, *[1.33] * 5]
    passes = [edges(judge.validation(step, loss, None, 0.3, 2.3)) for step, loss in enumerate(losses)]
    assert ([("overfitting", "firing")] in passes) == fires


CREPT = [0.3 + 0.02 * (i % 2) + 0.6 * min(1.0, i / 100) for i in range(200)]  # up by three tenths of that fall


@pytest.mark.parametrize(("last", "expected"), [(0.4, []), (1.2, [("loss_diverged", "firing")]), (math.nan, [])])
def test_loss_that_creeps_up_has_diverged_where_validation_is_worse_too(last, expected):
    steps = Steps(shipped("loss_diverged"))
    steps.take(falling(200))
    for loss in (0.4, last):
        steps.judge.validation(steps.at, loss, None, 0.3)
    assert edges(steps.take(CREPT)) == expected


def test_validation_of_another_training_says_nothing_of_a_loss_that_creeps_up():
    steps = Steps(shipped("loss_diverged"))
    steps.take(falling(200))
    steps.judge.validation(steps.at, 0.1, None, 0.3)
    steps.judge.begin_anew("0", steps.at)
    steps.take(falling(200))
    steps.judge.validation(steps.at, 1.2, None, 0.3)
    assert steps.take(CREPT) == []


@pytest.mark.parametrize("improves", [True, False])
def test_loss_that_rises_while_what_is_monitored_improves_has_not_diverged(improves):
    """As with a penalty that grows."""
    steps, fired = Steps(shipped("loss_diverged"), monitor=("accuracy", "max")), []
    steps.take(falling(200))
    for time in range(20):
        steps.judge.validation(steps.at, None, 0.5 + 0.01 * time if improves else 0.5, None)
        fired += edges(steps.take([0.3 + 0.1 * time + 0.02 * (i % 2) for i in range(20)]))
    assert (fired == []) is improves


def test_patience_of_the_monitored_loss_runs_out():
    judge = Judge(shipped("no_improvement"))
    found = [edges(judge.validation(step, 1.0, None, None)) for step in range(12)]
    assert found.index([("no_improvement", "firing")]) == 10


def test_pass_that_betters_the_best_by_less_than_asked_for_is_no_improvement():
    judge = Judge([dataclasses.replace(RULES["no_improvement"], min_delta=0.5)])
    found = [edges(judge.validation(step, 1.0 - 0.01 * step, None, None)) for step in range(12)]
    assert found.index([("no_improvement", "firing")]) == 10


def test_monitor_says_whether_the_newest_pass_is_the_best():
    judge = Judge([], monitor=("accuracy", "max"))
    improved = []
    for step, accuracy in enumerate([0.5, 0.7, None, 0.6, 0.8]):  # one pass was by the loss alone
        judge.validation(step, 1.0, accuracy, None)
        improved.append(judge.improved)
    assert improved == [True, True, False, False, True]


def test_monitor_may_be_a_logged_value():
    judge = Judge(shipped("no_improvement"), monitor=("bleu", "max"))
    found = [edges(judge.logged(step, "bleu", 30.0)) for step in range(12)]
    assert found.index([("no_improvement", "firing")]) == 10


def test_record_is_judged_by_the_names_of_signals():
    judge = Judge(shipped("input_bound", "backend_failing"))
    assert edges(judge.record(0, data_wait_share=0.1, backend_errors=1.0)) == [("backend_failing", "firing")]
    found = [edges(judge.record(step, data_wait_share=0.9)) for step in range(1, 11)]
    assert found == [[]] * 9 + [[("input_bound", "firing")]]


def test_rule_of_ones_own_may_judge_what_is_measured_of_the_run():
    judge = Judge([Rule("batch_too_small", signal="gradient_noise_ratio", threshold=4.0, hold=2)])
    found = [edges(judge.record(step, gradient_noise_ratio=ratio)) for step, ratio in enumerate([5.0, 1.0, 4.0, 6.0])]
    assert found == [[], [], [], [("batch_too_small", "firing")]]
    assert judge.signals() == {("gradient_noise_ratio", ""): 6.0}


def test_rule_of_the_watchdog_is_not_judged_here():
    judge = Judge(shipped("run_hung"))
    assert judge.record(0, hung_seconds_ratio=9.0) == []


def test_fence_of_one_optimizer_closes_its_episodes_alone():
    steps = Steps(shipped("loss_nonfinite"))
    steps.take([math.nan], optimizer="0")
    steps.take([math.nan], optimizer="1")
    steps.judge.fence(2, "0")
    assert edges(steps.take([1.0], optimizer="0")) == []
    assert edges(steps.take([1.0], optimizer="1")) == [("loss_nonfinite", "resolved")]


def test_levels_taken_are_the_worst_since_the_last_time():
    steps = Steps([Rule("mine", lambda loss: loss, threshold=2.0)])
    steps.take([1.0, 4.0, 1.0])
    assert steps.judge.take_levels("0") == {"mine": 2.0}
    assert steps.judge.take_levels("0") == {}


def test_restored_run_numbers_its_episodes_on():
    first = Steps(shipped("loss_nonfinite"))
    first.take([math.nan, 1.0, math.nan])
    resumed = Steps(shipped("loss_nonfinite"))
    resumed.judge.restore(first.judge.state())
    assert resumed.judge.state() == first.judge.state()
    assert [verdict.episode for verdict in resumed.take([math.nan])] == [3]


def test_episodes_of_a_rule_that_a_run_in_between_does_not_judge_are_numbered_on():
    first = Steps(shipped("loss_nonfinite"))
    first.take([math.nan, 1.0, math.nan])
    between, last = Steps(shipped("loss_spike")), Steps(shipped("loss_nonfinite"))
    between.judge.restore(first.judge.state())
    between.take([1.0])
    last.judge.restore(between.judge.state())
    assert [verdict.episode for verdict in last.take([math.nan])] == [3]


def test_restoring_never_numbers_backwards():
    steps = Steps(shipped("loss_nonfinite"))
    before = steps.judge.state()
    steps.take([math.nan, 1.0])
    steps.judge.restore({**before, "0": {"loss_nonfinite": 0}})
    assert [verdict.episode for verdict in steps.take([math.nan])] == [2]


def test_episodes_of_another_training_are_numbered_on():
    steps = Steps(shipped("loss_nonfinite"))
    steps.take([math.nan])
    steps.judge.begin_anew("0", steps.at)
    assert [verdict.episode for verdict in steps.take([1.0, math.nan])] == [2]


def test_rule_of_which_nothing_was_seen_stands_at_no_level():
    steps = Steps(shipped("loss_nonfinite"))
    assert steps.findings.level("loss_nonfinite") == 0.0
    steps.take([math.nan])
    assert steps.findings.level("loss_spike") == 0.0
    assert steps.findings.level("loss_nonfinite") == math.inf


@pytest.mark.parametrize(("after", "fired"), [(LASTS - 1, False), (LASTS, True), (LASTS + 20, True)])
def test_update_ratio_is_judged_with_the_losses_of_so_many_steps_after_it(after, fired):
    steps = Steps([Rule("far", signal="update_ratio", threshold=1.0, hold=1 + LASTS)])
    torn = GradientReading(norm=1.0, finite=True, layer_norms={}, update_ratios=dict.fromkeys("abc", 0.8))
    verdicts = steps.take([2.3], torn) + steps.take([2.3] * after)
    assert edges(verdicts) == [("far", "firing")] * fired


def test_update_ratio_is_judged_for_no_longer():
    steps = Steps([Rule("far", signal="update_ratio", threshold=1.0, hold=2 + LASTS)])
    torn = GradientReading(norm=1.0, finite=True, layer_norms={}, update_ratios=dict.fromkeys("abc", 0.8))
    assert steps.take([2.3], torn) + steps.take([2.3] * 50) == []


@pytest.mark.parametrize(("severity", "healthy"), [("info", True), ("warning", False), ("critical", False)])
def test_rule_that_is_only_told_makes_no_run_unhealthy(severity, healthy):
    steps = Steps([Rule("told", signal=lambda loss: 2.0, threshold=1.0, severity=severity)])
    steps.take([1.0] * 3)
    assert steps.judge.healthy("0") == healthy


def test_losses_of_another_kind_are_not_judged_by_those_before():
    steps = Steps(shipped("loss_spike", "loss_diverged"))
    steps.take(falling(200))
    steps.judge.forget_losses(steps.at - 1)
    assert steps.take([40.0 * loss for loss in falling(200)]) == []
    assert ("loss_spike", "firing") in edges(steps.take([40.0 * SPIKE] * 3))


def test_episodes_are_numbered_on_when_losses_are_of_another_kind():
    steps = Steps(shipped("loss_nonfinite"))
    steps.take([math.nan])
    steps.judge.forget_losses(steps.at - 1)
    assert [verdict.episode for verdict in steps.take([math.nan])] == [2]


def test_rate_is_still_compared_with_its_highest_when_losses_are_of_another_kind():
    judge = Steps(shipped("gradient_vanishing")).judge
    dead = reading(a=1.0, b=0.0, c=0.0)
    for step in range(60):
        judge.step("0", step, 1.0, None, 0.1)
    judge.forget_losses(59)
    assert [judge.step("0", step, 1.0, dead, 0.001) for step in range(60, 120)] == [[]] * 60


def test_validation_goes_on_when_losses_are_of_another_kind():
    judge = Judge(shipped("no_improvement"))
    for step in range(10):
        judge.validation(step, 1.0, None, None)
    judge.forget_losses(9)
    assert edges(judge.validation(10, 1.0, None, None)) == [("no_improvement", "firing")]


def test_best_of_a_validation_of_another_kind_is_no_best():
    judge = Judge(shipped("no_improvement"))
    judge.validation(0, 0.1, None, None)
    judge.forget_validation()
    assert [edges(judge.validation(step, 2.0 / step, None, None)) for step in range(1, 12)] == [[]] * 11
    assert judge.improved


def test_loss_that_is_another_one_need_not_come_down():
    steps = Steps(shipped("loss_high"))
    steps.take(falling(200))
    steps.judge.forget_losses(steps.at - 1)
    flat = [0.02 + 0.001 * (i % 3) for i in range(2000)]
    assert edges(Steps(shipped("loss_high")).take(flat)) == [("loss_high", "firing")]
    assert steps.take(flat) == []


def test_what_began_with_the_run_began_with_the_loss_that_it_has_now():
    rule = dataclasses.replace(RULES["loss_nonfinite"], reach=RULES["loss_high"].reach)
    steps = Steps([rule])
    steps.take(falling(200))
    steps.judge.forget_losses(199)
    assert [verdict.since for verdict in steps.take([math.nan])] == [200]


def test_divergence_that_creeps_began_where_the_loss_began_to_rise():
    steps = Steps(shipped("loss_diverged"))
    steps.take(falling(300))
    steps.judge.validation(steps.at, 0.3, None, None)
    began = steps.at
    steps.take([1.0] * 30)
    steps.judge.validation(steps.at, 1.0, None, None)
    (verdict,) = steps.take([1.0] * 60)
    assert verdict.step - RULES["loss_diverged"].hold > verdict.since
    assert began - UNSEEN <= verdict.since <= began


def test_divergence_right_after_a_fence_is_told_as_such():
    steps = Steps(shipped("loss_diverged"))
    steps.take(falling(300))
    steps.judge.fence(steps.at)
    began = steps.at
    (verdict,) = steps.take([2.0] * 40)
    assert verdict.since == began + 1


def test_overfitting_is_judged_also_where_one_of_the_first_losses_was_not_finite():
    steps = Steps(shipped("overfitting"))
    steps.take(falling())
    verdicts = []
    for at, loss in enumerate([1.0, 0.8, 0.9, 1.2, 1.5, 1.8]):
        verdicts += steps.judge.validation(at, loss, None, 0.5, math.nan)
    assert edges(verdicts) == [("overfitting", "firing")]
    assert steps.judge.findings("0").is_harmful


@pytest.mark.parametrize(
    ("logged", "hint"), [(["blue"], "Did you mean 'blue'?"), (["wer"], "Log it, or name one of accuracy, loss, wer.")]
)
def test_monitored_value_that_never_came_is_told_with_those_that_did(logged, hint):
    told = Judge([], ("bleu", "max")).not_monitored(logged)
    assert told == f"monitor='bleu': no such value has been seen, so that no state is kept as the best. {hint}"
