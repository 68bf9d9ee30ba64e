import pytest

from trimtab.signals import Course
from trimtab.signals.course import BASELINE, BEGINNING, REACH, SETTLED, SURE, TRACED, UNSEEN, Traits


def course_of(losses):
    course = Course()
    for loss in losses:
        course.update(loss)
    return course


def course_that_rises():
    """By 0.3 of a fall of 0.4, at whose end validation was better than ever."""
    course = course_of([0.0, *(-0.01 * i for i in range(40)), *[-0.4] * 60])
    course.validated(improved=True)
    for loss in [-0.1] * 300:
        course.update(loss)
    return course


def test_course_excuses_a_rise_in_which_validation_gets_better():
    course = course_that_rises()
    course.validated(improved=False)
    assert course.lost == pytest.approx(0.3, rel=0.1)
    course.validated(improved=True)
    assert course.lost == pytest.approx(0.0, abs=0.01)


def test_what_was_excused_is_over_with_the_next_best():
    course = course_that_rises()
    course.validated(improved=True)
    assert course.excused > 0.2
    for loss in [-1.0] * 300 + [-0.5] * 60:
        course.update(loss)
    assert course.lost == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(("back_to", "kept"), [(BASELINE, True), (BASELINE - 1, False)])
def test_course_that_is_turned_back_to_before_there_was_a_baseline_is_learned_anew(back_to, kept):
    course = course_of([2.0 - 0.01 * i for i in range(100)])
    course.turn_back(100 - back_to)
    assert bool(course.count) == kept


def test_course_excuses_no_rise_where_validation_was_bad_from_the_start():
    course = Course()
    for loss in [2.0] * 10 + [9.0] * 90:
        course.update(loss)
    for improved in (True, True):
        course.validated(improved)
    assert course.excused == 0.0


def test_first_is_the_mean_of_the_beginning():
    course = course_of([9.0, 7.0, 8.0, 6.0, 9.0, 7.0, 6.0, 4.0] + [1.0] * 20)
    assert course.first == pytest.approx(56 / BEGINNING)


def test_first_is_the_very_first_value_where_the_beginning_explodes():
    assert course_of([2.0] + [500.0] * 7).first == 2.0


def test_best_is_the_lowest_average_ever_reached(healthy):
    losses = healthy()
    before = course_of(losses)
    after = course_of(losses + [5.0] * 100)
    assert 0.25 < before.best < 0.4
    assert after.best == before.best


def test_a_value_far_away_moves_the_average_no_further_than_the_reach(healthy):
    course = course_of(healthy())
    fast, reach = course.fast, REACH * max(course.swing, course.peak)
    course.update(1e9)
    assert 0.0 < course.fast - fast <= reach


def test_a_value_far_below_moves_the_average_no_further_than_the_reach(healthy):
    course = course_of(healthy())
    fast, reach = course.fast, REACH * max(course.swing, course.peak)
    course.update(-1e9)
    assert -reach <= course.fast - fast < 0.0


def test_a_fence_starts_averages_anew_and_keeps_the_baselines(healthy):
    course = course_of(healthy())
    kept = (course.first, course.best, course.lowest, course.swing, course.peak)
    course.fence()
    course.update(1.0)
    assert (course.fast, course.middle, course.slow) == (1.0, 1.0, 1.0)
    assert (course.first, course.best, course.lowest, course.swing, course.peak) == kept


def test_an_explosion_among_the_first_values_is_no_beginning():
    course = course_of([4.7, 4.5, 4.4, 4.0, 88.7, 71.0, 5.6, 4.0] + [3.0] * 20)
    assert course.first < 5.0
    assert course.middle < 5.0


def test_turning_back_to_before_there_was_a_baseline_learns_all_anew():
    course = course_of([4.0] * 10 + [200.0] * 10)
    course.turn_back(20)
    assert course.count == 0
    course.update(4.0)
    assert (course.first, course.best) == (4.0, 4.0)


def test_turning_back_gives_up_what_was_better_since(healthy):
    losses = [4.0 - 0.01 * i for i in range(300)]
    course, at_200 = course_of(losses), course_of(losses[:192])
    first = course.first
    course.turn_back(100)
    assert course.best == at_200.best
    assert course.lowest == at_200.lowest
    assert course.first == first


def test_slow_average_is_a_plain_mean_until_it_has_settled():
    losses = [2.0 - 0.01 * i for i in range(SETTLED - 1)]
    assert course_of(losses).slow == pytest.approx(sum(losses) / len(losses))


def test_worsened_is_how_far_the_slow_average_is_above_its_lowest():
    course = course_of([1.0] * 200)
    for _ in range(600):
        course.update(1.5)
    assert course.lowest == 1.0
    assert course.worsened == pytest.approx(0.5, rel=1e-3)


def test_worsened_is_not_known_until_the_slow_average_has_settled():
    course = course_of([1.0] * 100)
    course.fence()
    for _ in range(SETTLED - 1):
        course.update(2.0)
        assert course.worsened == 0.0
    course.update(2.0)
    assert course.worsened == pytest.approx(1.0)


def test_turning_back_forgets_how_wild_it_was_since(healthy):
    losses = healthy()
    course, usual = course_of(losses), course_of(losses)
    for loss in [500.0, 1.0] * 20:
        course.update(loss)
    assert course.peak > 10 * usual.peak
    course.turn_back(41)
    assert course.peak <= 2 * usual.peak
    assert course.swing <= 2 * usual.swing


def test_turning_back_by_little_in_a_long_run_keeps_the_best():
    course = course_of([1.0 + 3.0 * 0.99**i for i in range(20_000)])
    best = course.best
    course.turn_back(4)
    assert course.best == pytest.approx(best, rel=1e-6)


LOSSES = [2.0 * 0.97**i + 0.1 * (-1) ** i for i in range(200)]  # they swing by 0.1


@pytest.mark.parametrize(
    ("since", "over"),
    [
        ([50.0], False),
        ([50.0, 0.1], False),
        ([50.0, 0.1, 0.0], True),  # one bad batch, of which the weights took no harm
        ([50.0, 0.1, 0.0, 50.0, 0.1, 0.0], True),  # ... that comes again and again
        ([3.0, 2.8, 2.9, 2.7, 2.8, 2.9, 3.0, 2.8], False),
        ([3.0, 2.2, 1.7, 1.3, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2], True),
        ([50.0, *[0.9, 1.0] * 20], False),  # most of the way, and yet half of what was learned is lost
        ([50.0, 0.1, 0.0, *[0.1, 0.0] * 20, 3.0], False),  # another jump, which is not over
        ([*[50.0, 0.1, 0.0] * 2, 50.0], False),
        ([*[50.0, 0.1, 0.0] * 3, 50.0], True),
        ([*[50.0, 0.1, 0.0] * 3, 50.0, 3.0], False),
        ([0.1, 0.0], False),  # there was none
    ],
)
def test_jump_is_over_when_the_loss_has_come_down_by_itself(since, over):
    assert course_of([*LOSSES, *since]).has_recovered == over


ENORMOUS = [5000.0, 0.1, 0.0]  # one batch, and the next ones as before


@pytest.mark.parametrize(
    ("since", "normalizes", "over"),
    [
        (ENORMOUS, True, False),  # its square shortens the steps of Adam for long
        (ENORMOUS, False, True),
        ([*ENORMOUS, *[0.1, 0.0] * 20], True, False),
        ([500.0, 0.1, 0.0], True, True),
        ([*ENORMOUS, *[0.1, 0.0] * 5, *ENORMOUS], True, True),  # batches like that come again and again
    ],
)
def test_enormous_jump_is_not_over_where_the_optimizer_remembers_its_gradient(since, normalizes, over):
    course = course_of(LOSSES)
    course.traits = Traits(normalizes=normalizes)
    for loss in since:
        course.update(loss)
    assert course.has_recovered == over


@pytest.mark.parametrize(
    ("since", "worse"),
    [
        ([0.2] * 10, False),  # nobody knows yet
        ([0.2] * 30, True),
        ([0.05] * 30, False),  # by less than it swings
        ([-0.2] * 30, False),
        ([*[0.2] * 30, *[-0.1] * 60], False),
    ],
)
def test_loss_is_worse_when_its_mean_since_a_fence_is_above_its_lowest(since, worse):
    course = course_of(LOSSES)
    course.fence()
    for loss in since:
        course.update(loss)
    assert course.is_worse == worse


RISING = [0.1 + 0.04 * i for i in range(20)]  # a fifth of what was learned is lost by the end


@pytest.mark.parametrize(
    ("since", "returned"),
    [
        ([50.0, *RISING], True),  # the optimizer goes on along the gradients of a batch like no other
        ([50.0, *RISING[:6]], False),  # nobody knows yet
        ([50.0, *RISING, *[0.3 + 0.5 * 0.9**i for i in range(30)]], True),  # of what the rest is still to be seen
        ([50.0, *RISING, *[0.0, 0.1] * 20], False),  # it has come down for good
        ([50.0, *RISING, *[0.6] * 90], False),  # long ago by now
        ([50.0, *[0.1, 0.0] * 20], False),
        ([50.0, *[0.1, 0.0] * 20, *RISING], False),  # later than the optimizer remembers
        ([3.0, 2.2, 1.7, 1.3, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2, *RISING], False),  # another target
        ([50.0, *[0.1, 0.1, 0.7] * 8], False),  # some batches cost more
        ([20.0, *[0.1, 0.0] * 10, 50.0, *RISING], False),  # rare batches, each much like the others
        ([2.0, *[0.1, 0.0] * 10, 50.0, *RISING], True),
        (RISING, False),  # there was no jump
    ],
)
def test_loss_that_rises_after_the_jump_of_one_batch_has_returned(since, returned):
    course = course_of([*LOSSES, *since])
    assert course.has_returned == returned
    assert not (course.has_returned and course.has_recovered)


def test_loss_has_not_returned_where_each_step_is_of_one_batch_alone():
    course = course_of([*LOSSES, 50.0, *RISING])
    course.traits = Traits(averages=False)
    assert not course.has_returned


def test_what_jumped_before_a_fence_is_forgotten():
    course = course_of([*LOSSES, 50.0, 0.1, 0.0])
    course.fence()
    assert not course.has_recovered
    course.update(0.1)
    assert not course.has_recovered


def test_loss_that_has_returned_is_another_one_after_a_fence():
    course = course_of([*LOSSES, 50.0, *RISING])
    course.fence()
    assert not course.has_returned


@pytest.mark.parametrize(
    ("rise", "back_to", "good"),
    [
        (300, 280, True),
        (300, 299, False),  # nothing was remembered after it: it may have been bad by then
        (200, 290, False),
        (290, 100, True),
    ],
)
def test_weights_are_known_to_have_been_good_where_the_loss_was_before_they_were_kept_and_after(rise, back_to, good):
    losses = [2.0 * 0.97**i if i < rise else 3.0 for i in range(320)]
    course = course_of(losses)
    course.fence()
    course.turn_back(320 - back_to)
    assert course.were_good == good
    course.fence()
    assert not course.were_good


def test_validation_gets_worse_where_two_passes_since_a_fence_have_lost_and_the_second_is_no_better():
    course = course_of([1.0] * BASELINE)
    found = []
    for lost in (0.9, 0.75, 0.7, 0.72):
        course.take_validation(2.0, lost, falls=False)
        found.append(course.validation_worsens)
    assert found == [0.0, 0.0, 0.7, 0.7]
    assert course.harmful
    course.fence()
    course.take_validation(2.0, 0.9, falls=False)
    assert (course.validation_worsens, course.validation_lost) == (0.0, 0.9)
    assert not course.harmful


@pytest.mark.parametrize(
    ("losses", "harmful"),
    [([2.4] * 60, True), ([2.4] * 40, False), ([8.0 - 0.09 * i for i in range(60)], False), ([1.5] * 60, False)],
)
def test_loss_that_rests_at_chance_after_a_fence_does_harm(losses, harmful):
    course = course_of([1.0] * BASELINE)
    course.chance = 2.3
    course.fence()
    for loss in losses:
        course.update(loss)
    assert course.harmful == harmful


@pytest.mark.parametrize(
    ("loss", "chance", "count", "found"),
    [(2.3, 2.3, 40, True), (2.0, 2.3, 40, False), (2.3, None, 40, False), (2.3, 2.3, BASELINE - 1, False)],
)
def test_loss_is_at_chance_where_that_is_known_and_there_is_a_baseline(loss, chance, count, found):
    course = course_of([loss] * count)
    course.chance = chance
    assert course.at_chance == found


def noisy(level, count, size=0.02):
    return [level + size * (-1) ** i for i in range(count)]


def course_that_has_fallen():
    return course_of([*(2.0 - 0.01 * i for i in range(150)), *noisy(0.5, 200)])


def test_rise_is_counted_from_where_the_slow_average_leaves_its_lowest():
    fallen = course_that_has_fallen()
    assert fallen.rising <= UNSEEN + 2
    for loss in noisy(0.9, 60):
        fallen.update(loss)
    assert 60 <= fallen.rising <= 60 + UNSEEN
    for loss in noisy(0.9, 1000):
        fallen.update(loss)
    assert fallen.rising == TRACED + UNSEEN


def test_a_rise_that_a_fence_interrupts_is_counted_from_some_values_after_it():
    course = course_that_has_fallen()
    for losses in (noisy(0.9, 60), noisy(0.9, 41)):
        course.fence()
        for loss in losses:
            course.update(loss)
    assert course.rising == 40 - UNSEEN


@pytest.mark.parametrize(("losses", "found"), [([2.4] * 30, True), ([4.0 - 0.05 * i for i in range(30)], False)])
def test_loss_that_comes_down_to_chance_does_not_rest_there(losses, found):
    course = Course()
    course.chance = 2.3
    for loss in losses:
        course.update(loss)
    assert course.at_chance
    assert course.rests_at_chance == found


@pytest.mark.parametrize(
    ("first", "then", "chance", "validation", "worse"),
    [
        (9.0, 3.0, 2.0, None, True),
        (9.0, 3.0, 2.0, 3.0, True),
        (9.0, 3.0, 2.0, 2.1, False),
        (9.0, 2.1, 2.0, None, False),
        (1.0, 3.0, 2.0, None, False),
        (9.0, 3.0, None, None, False),
    ],
)
def test_loss_was_always_worse_than_a_constant_where_neither_it_nor_validation_was_near(
    first, then, chance, validation, worse
):
    course = course_of([first] * 40 + [then] * (SURE - 41))
    course.chance, course.validation = chance, validation
    assert not course.always_worse
    course.update(then)
    assert course.always_worse is worse


@pytest.mark.parametrize(("then", "worse"), [(2.1, False), (3.0, True)])
def test_loss_was_near_a_constant_also_where_its_weights_were_given_up(then, worse):
    course = course_of([9.0] * 40 + [then] * 100)
    course.chance = 2.0
    course.fence()
    course.turn_back(140)
    for _ in range(SURE):
        course.update(9.0)
    assert course.always_worse is worse
