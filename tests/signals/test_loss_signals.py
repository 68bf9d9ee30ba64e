"""Each fires on a series made for it, and stays under its rule's threshold on a healthy one."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.catalog.rules import RULES
from trimtab.signals import Course, Divergence, Nonfinite, Oscillation, Progress, SpikeScore, StillHigh
from trimtab.signals.course import KNOWN, Traits
from trimtab.signals.loss import PATIENCE, WARM_UP

OF_THE_COURSE = [SpikeScore, Divergence, Oscillation, Progress, StillHigh]
SPIKE = RULES["loss_spike"].threshold
DIVERGED = RULES["loss_diverged"].threshold
OSCILLATING = RULES["loss_oscillating"].threshold
HIGH = RULES["loss_high"].threshold


def flat(count, level=2.3, noise=0.05):
    rng = random.Random(1)
    return [level + rng.gauss(0.0, noise) for _ in range(count)]


@pytest.mark.parametrize("signal", OF_THE_COURSE)
def test_a_loss_signal_has_no_value_before_it_is_warm(signal, scores, healthy):
    found = scores(signal, healthy(60))
    assert found[:WARM_UP] == [None] * WARM_UP
    assert None not in found[WARM_UP:]


@pytest.mark.parametrize(
    ("signal", "threshold"), [(SpikeScore, SPIKE), (Divergence, DIVERGED), (Oscillation, OSCILLATING)]
)
@pytest.mark.parametrize("seed", range(5))
def test_a_healthy_run_stays_under_half_the_threshold(signal, threshold, seed, scores, healthy):
    assert max(scores(signal, healthy(600, seed))[WARM_UP:]) < threshold / 2


@pytest.mark.parametrize("signal", OF_THE_COURSE)
@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(st.sampled_from([-1.0, 0.0, 0.3, 20.0]), min_size=30, max_size=80),
    factor=st.sampled_from([2.0**-20, 0.25, 8.0, 2.0**20]),
    shift=st.integers(-256, 256),
)
def test_a_loss_signal_is_the_same_for_any_unit_and_any_zero(signal, seed, steps, factor, shift):
    noise = random.Random(seed)  # without it two averages may tie, and the last bit says which is the best
    losses = [level + noise.gauss(0.0, 0.5) for level in itertools.accumulate(steps)]

    def found(values):
        course = Course()
        judge = signal(course)
        scored = []
        for value in values:
            scored.append(judge.update(value))
            course.update(value)
        return [-1.0 if score is None else score for score in scored]

    there = found([factor * (loss + shift) for loss in losses])
    assert there == pytest.approx(found(losses), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("loss", "expected"), [(math.nan, math.inf), (-math.inf, math.inf), (1e300, 0.0), (-3.0, 0.0)])
def test_nonfinite_is_infinite_for_what_is_not_finite_and_else_zero(loss, expected):
    assert Nonfinite().update(loss) == expected


def test_spike_score_is_in_units_of_what_the_loss_has_come_down(scores, healthy):
    *_, score = scores(SpikeScore, [*healthy(), 0.3 + 25 * 2.0])
    assert 20.0 < score < 30.0


def test_spike_score_of_a_falling_loss_is_zero(scores):
    falling = [10.0 - 0.02 * i for i in range(200)]
    assert set(scores(SpikeScore, falling)[WARM_UP:]) == {0.0}


def test_spike_score_of_a_jump_that_lasts_counts_more(scores, healthy):
    jump = 0.3 + SPIKE / 2 * 2.0
    *_, once, _, thrice = scores(SpikeScore, [*healthy(), jump, jump, jump])
    assert once < SPIKE < thrice


def test_spike_score_of_a_jump_that_lasts_is_that_of_one_that_does_not_while_little_is_known(scores, healthy):
    early, late = (scores(SpikeScore, [*healthy()[:count], *[6.0] * 3])[-1] for count in (60, 200))
    assert early < SPIKE < late


def test_spike_score_forgets_at_a_fence_how_long_a_jump_has_lasted(healthy):
    course = Course()
    for loss in healthy():
        course.update(loss)
    signal = SpikeScore(course)
    signal.update(9.0)
    signal.update(9.0)
    before = SpikeScore(course).update(9.0)
    signal.fence()
    assert signal.update(9.0) == before


def test_divergence_passes_the_threshold_when_the_loss_is_back_where_it_began(scores, healthy):
    found = scores(Divergence, healthy() + flat(60))
    assert 0.8 <= found[-1] < 1.3


def test_divergence_of_one_spike_stays_under_the_threshold(scores, healthy):
    assert max(scores(Divergence, [*healthy(), 100.0, *healthy()[-30:]])[300:]) < DIVERGED


def test_divergence_takes_no_baseline_from_a_bad_stretch(scores, healthy):
    assert min(scores(Divergence, healthy() + flat(800))[-500:]) > DIVERGED


@pytest.mark.parametrize("every", [3, 7])
def test_rare_batches_that_cost_many_times_what_the_others_do_are_no_divergence(every, scores):
    """One label in a hundred is of the other class: the loss begins as low as it can be known to be."""
    noise = random.Random(0)
    losses = [(5.0 if i % every == every - 1 else 0.01) * (1 + 0.1 * noise.random()) for i in range(1500)]
    assert max(filter(None, scores(Divergence, losses))) < DIVERGED


@pytest.fixture
def creeping(healthy):
    """`creeping(rise, lost)`: what divergence says where a loss goes up again, slowly, by a share of what it came down,
    and validation by another."""

    def creeping(rise, lost=1.0):
        noise = random.Random(5)
        course = Course()
        signal = Divergence(course)
        for loss in healthy():
            course.update(loss)
        course.validation_lost = lost
        found = []
        for i in range(300):
            found.append(signal.update(loss := 0.3 + 2.0 * rise * min(1.0, i / 100) + noise.gauss(0.0, 0.05)))
            course.update(loss)
        return found, course, signal

    return creeping


def test_divergence_of_a_slow_rise_by_a_quarter_passes_the_threshold_and_lasts(creeping):
    found, *_ = creeping(0.25)
    assert min(found[-100:]) > DIVERGED


def test_divergence_of_a_slow_rise_by_a_tenth_stays_under_the_threshold(creeping):
    found, *_ = creeping(0.1)
    assert max(found) < DIVERGED


def test_divergence_of_a_slow_rise_that_validation_does_not_share_is_what_it_is(creeping):
    for lost in (0.0, 0.1):
        found, *_ = creeping(0.3, lost)
        assert 0.2 < found[-1] < DIVERGED


def test_divergence_of_a_slow_rise_is_no_more_than_of_a_loss_that_is_back_where_it_began(creeping):
    found, *_ = creeping(0.6)
    assert max(found) == 1.0


def test_divergence_of_a_slow_rise_is_excused_where_validation_gets_better(creeping):
    _, course, signal = creeping(0.3)
    course._good = True
    before = signal.update(0.9)
    course.validated(improved=True)
    assert before > DIVERGED > 0.2 > signal.update(0.9)


def test_divergence_after_a_fence_goes_by_no_average_of_few_values_and_by_no_validation_before_it(healthy):
    course = Course()
    signal = Divergence(course)
    for loss in healthy():
        course.update(loss)
    course.validation_lost = 1.0
    course.fence()
    found = []
    for i in range(80):
        found.append(signal.update(0.8))
        course.update(0.8)
        if i == 20:
            course.validation_lost = 1.0
    assert max(found[1:50]) < DIVERGED < found[60]
    course.fence()
    for _ in range(60):
        course.update(0.8)
    assert signal.update(0.8) < DIVERGED


def test_oscillation_fires_on_a_loss_that_swings_to_and_fro(scores, healthy):
    swinging = [0.3 + 2.0 * (i % 2) for i in range(100)]
    assert scores(Oscillation, healthy() + swinging)[-1] > OSCILLATING


def test_oscillation_of_a_loss_that_was_as_noisy_from_the_start_is_usual(scores):
    assert max(scores(Oscillation, flat(300, noise=1.0))[WARM_UP:]) < OSCILLATING


def test_oscillation_does_not_remember_swings_from_before_a_fence(healthy):
    course = Course()
    signal = Oscillation(course)

    def score(loss):
        found = signal.update(loss)
        course.update(loss)
        return found

    for loss in [*healthy(), *[2.3, 0.3] * 10]:
        before = score(loss)
    signal.fence()
    assert before > OSCILLATING
    assert max(score(loss) or 0.0 for loss in healthy()[-30:]) < OSCILLATING


def test_oscillation_of_one_batch_far_off_is_no_swinging(scores, healthy):
    far = [*healthy(), 800.0, *healthy()[-60:]]
    assert max(scores(Oscillation, far)[300:]) < OSCILLATING / 2


def test_oscillation_takes_a_single_jump_for_no_reversal(scores):
    smooth = [0.3 + 2.0 * math.exp(-i / 60) for i in range(200)]
    assert max(scores(Oscillation, smooth + [2.0] * 50)[WARM_UP:]) < OSCILLATING / 100


def test_progress_is_missing_on_a_flat_loss_and_certain_on_a_falling_one(scores, healthy):
    assert scores(Progress, flat(200))[-1] > 0.3
    assert scores(Progress, healthy(200))[-1] == 0.0


def test_progress_that_was_certain_once_stays_so(scores, healthy):
    assert scores(Progress, healthy(200) + flat(200, 9.0))[-1] == 0.0


def test_still_high_fires_on_a_loss_that_stays_where_it_began_only_after_its_patience(scores):
    constant = [2.3] * (WARM_UP + PATIENCE + 10)
    found = scores(StillHigh, constant)
    assert found[WARM_UP + PATIENCE // 2] < HIGH
    assert found[-1] == 1.0


def test_loss_that_begins_at_0_is_judged_from_where_it_is_something(scores):
    """As of a triplet loss whose pairs are all far enough apart at first."""
    idle, begun = [0.0] * (WARM_UP + PATIENCE + 10), [0.0, 0.02, 0.0, 0.0, 0.05, 0.01] * 20
    for signal in (SpikeScore, Divergence, Oscillation, Progress, StillHigh):
        found = scores(signal, idle + begun)
        assert set(found[: len(idle) + WARM_UP]) <= {None, 0.0}
        assert max(found[len(idle) + 1 + WARM_UP :]) < SPIKE
    assert scores(StillHigh, [0.0] * 100 + flat(WARM_UP + PATIENCE, 2.3))[-1] > HIGH


def test_still_high_fires_at_once_where_the_loss_exploded_and_came_back(scores):
    exploded = [2.3, 80.0, 900.0, 50.0, 5.0, *flat(60, 2.5)]
    assert scores(StillHigh, exploded)[-1] >= HIGH


@pytest.mark.parametrize(("stride", "is_high"), [(0.0, True), (0.006, False), (0.05, True)])
def test_loss_of_single_samples_with_a_lucky_first_one_has_exploded_only_if_steps_may_have_been_long(stride, is_high):
    """A regression of batches of one sample: the first loss is 0.08 by chance, and swings shrink as it learns."""
    draws = random.Random(0)
    lucky = [0.08, *(7.0 * draws.gauss(0, 1) ** 2 for _ in range(40))]
    learned = [1.0 * draws.gauss(0, 1) ** 2 for _ in range(150)]
    course = Course()
    signal = StillHigh(course)
    course.stride, scores = stride, []
    for loss in (*lucky, *learned):
        scores.append(signal.update(loss) or 0.0)
        course.update(loss)
    assert (max(scores) >= HIGH) == is_high


def test_still_high_is_zero_once_the_loss_has_come_down(scores, healthy):
    assert scores(StillHigh, healthy(400))[-1] == 0.0


def test_still_high_waits_anew_after_a_fence():
    course = Course()
    signal = StillHigh(course)
    for loss in [2.3] * (WARM_UP + PATIENCE):
        signal.update(loss)
        course.update(loss)
    signal.fence()
    assert signal.update(2.3) == 1 / PATIENCE


def test_a_constant_loss_neither_spikes_nor_diverges_nor_swings(scores):
    for signal in (SpikeScore, Divergence, Oscillation):
        assert set(scores(signal, [2.3] * 100)[WARM_UP:]) == {0.0}


@pytest.fixture
def at_chance():
    """`at_chance(losses, stride)`: the score of a run whose labels cost 2.3 at chance, after the last of the losses."""

    def at_chance(losses, stride=0.14, chance=2.3, validation=2.3, averages=True, is_exact=True, falls=False):
        course = Course()
        course.traits = Traits(averages=averages)
        course.chance, course.validation, course.chance_is_exact = chance, validation, is_exact
        course.validation_falls = falls
        signal = StillHigh(course)
        found = None
        for loss in losses:
            found = signal.update(loss)
            course.update(loss)
            course.stride = stride
        return found

    return at_chance


FALLEN = [4.6, 4.0, 3.5, 3.0, 2.8, 2.6, 2.5, 2.4]  # so that it has come down, and is no longer where it began


def test_still_high_fires_on_a_loss_that_came_down_to_chance_and_stays_there(at_chance):
    assert at_chance(FALLEN + flat(120)) == 1.0
    assert at_chance(FALLEN + flat(120), chance=None) == 0.0


def test_still_high_at_chance_takes_time_and_long_steps(at_chance):
    assert at_chance(FALLEN + flat(40)) < HIGH / 2
    assert at_chance(FALLEN + flat(400), stride=0.02) < HIGH / 2


def test_still_high_at_chance_is_certain_five_times_as_soon_with_unusual_steps(at_chance):
    usual = at_chance(FALLEN + flat(26), stride=0.14)
    assert usual < HIGH / 5
    assert at_chance(FALLEN + flat(26), stride=0.17) == pytest.approx(3 * usual)
    assert at_chance(FALLEN + flat(26), stride=0.2) == pytest.approx(5 * usual)
    assert at_chance(FALLEN + flat(26), stride=2.0) == pytest.approx(5 * usual)
    assert at_chance(FALLEN + flat(26), stride=2.0, averages=False) == usual


def test_still_high_is_certain_five_times_as_soon_where_the_loss_is_clearly_worse_than_chance(at_chance):
    worse = FALLEN + flat(26, 1.2 * 2.3)
    usual = at_chance(FALLEN + flat(26))
    assert at_chance(worse, validation=None) == pytest.approx(5 * usual)
    assert at_chance(worse, validation=1.2 * 2.3) == pytest.approx(5 * usual)
    assert at_chance(worse, validation=None, averages=False) == usual
    between, stride = FALLEN + flat(40, 1.02 * 2.3, noise=0.001), 0.05
    assert at_chance(between, stride, validation=None) == pytest.approx(2.6 * at_chance(between, stride), rel=0.05)


def test_still_high_gives_a_loss_time_that_comes_down_to_chance_or_is_at_it_in_validation(at_chance):
    usual = at_chance(FALLEN + flat(26))
    coming_down = [2.3 * (1.2 + 2.0 * 0.97**step) for step in range(34)]
    assert at_chance(coming_down, validation=None) == usual
    assert at_chance(FALLEN + flat(26, 1.2 * 2.3), validation=2.3) == usual


def test_still_high_gives_numbers_the_time_to_come_on_their_scale(at_chance):
    far = [2.3 * (1.2 + 2.0 * 0.97**step) for step in range(100)]
    at_last = {"validation": None, "is_exact": False}
    assert at_chance(far + flat(400, 1.2 * 2.3), **at_last) < HIGH / 2
    assert at_chance(far + flat(40), **at_last) < HIGH
    assert at_chance(far + flat(120), **at_last) >= HIGH
    on_its_way = [2.3 * (0.5 + 2.0 * 0.985**step) for step in range(200)]
    assert max(at_chance(on_its_way[:until], **at_last) for until in range(60, 200, 10)) < HIGH
    assert at_chance(FALLEN + flat(400, 1.05 * 2.3), stride=0.02, **at_last) < HIGH / 2


def test_still_high_leaves_numbers_alone_where_validation_gets_better_from_pass_to_pass(at_chance):
    rests = FALLEN + flat(120, noise=0.2)
    assert at_chance(rests, is_exact=False) >= HIGH
    assert at_chance(rests, is_exact=False, falls=True) == 0.0
    assert at_chance(rests, falls=True) >= HIGH
    exploded = FALLEN + flat(120)
    assert at_chance(exploded, is_exact=False, falls=True) >= HIGH


def test_still_high_at_chance_waits_longer_where_the_loss_is_somewhat_below(at_chance):
    below = 0.93 * 2.3
    assert at_chance(FALLEN + flat(95)) >= HIGH
    assert at_chance(FALLEN + flat(95, below)) < HIGH
    assert at_chance(FALLEN + flat(160, below)) >= HIGH
    assert at_chance(FALLEN + flat(1000, 0.92 * 2.3)) >= HIGH
    assert at_chance(FALLEN + flat(1000, 0.89 * 2.3)) < HIGH


def test_still_high_at_chance_is_excused_by_a_validation_far_below(at_chance):
    assert at_chance(FALLEN + flat(400), validation=0.8 * 2.3) == 0.0
    assert at_chance(FALLEN + flat(400), validation=0.85 * 2.3) < HIGH / 2


def test_still_high_at_chance_is_stricter_where_no_validation_is_heard(at_chance):
    assert at_chance(FALLEN + flat(120), validation=None) == 1.0
    assert at_chance(FALLEN + flat(400, 0.95 * 2.3), validation=None) < HIGH
    assert at_chance(FALLEN + flat(400, 0.95 * 2.3)) >= HIGH


def test_still_high_is_over_for_good_once_the_loss_was_far_below_chance(at_chance):
    assert at_chance([*FALLEN, *flat(60), *flat(60, 1.5), *flat(400)]) == 0.0


def test_still_high_waits_at_chance_anew_after_a_fence_and_by_steps_made_since():
    course = Course()
    course.chance = 2.3
    signal = StillHigh(course)
    for loss in FALLEN + flat(150):
        signal.update(loss)
        course.update(loss)
        course.stride = 0.2
    signal.fence()
    course.fence()
    assert course.stride == 0.0
    course.stride = 0.2
    assert signal.update(2.3) < 0.1


@pytest.fixture
def learned():
    """`learned(losses)`: the divergence of weights that have learned by another loss, after each of `losses`."""

    def scores(losses):
        course = Course()
        course.learned = True
        signal, found = Divergence(course), []
        for loss in losses:
            found.append(signal.update(loss))
            course.update(loss)
        return found

    return scores


KNOWS_ITS_TASK = [0.03 if index % 10 == 5 else 1e-5 for index in range(150)]  # next to nothing for most batches


def test_divergence_of_weights_that_have_learned_is_measured_by_their_first_swings(learned):
    found = learned(KNOWS_ITS_TASK + [0.004] * 40)
    assert set(found[:KNOWN]) == {None}
    assert max(found[KNOWN:]) < RULES["loss_diverged"].threshold / 2
    assert learned(KNOWS_ITS_TASK + [1.0] * 40)[-1] > RULES["loss_diverged"].threshold


@pytest.mark.parametrize("level", [2.296875, -2.296875])
def test_last_bit_of_half_precision_is_no_jump_of_a_loss_that_has_never_moved(level, scores):
    losses = [level] * 120 + [level + 2.0**-6] * 40
    assert max(scores(SpikeScore, losses)[WARM_UP:]) < SPIKE
    assert max(scores(Divergence, losses)[WARM_UP:]) < DIVERGED


def test_jump_of_a_loss_that_has_never_moved_is_seen(scores):
    losses = [2.3] * 40 + [4.0] * 30
    assert max(scores(SpikeScore, losses)[WARM_UP:]) > SPIKE
    assert scores(Divergence, losses)[-1] > DIVERGED
