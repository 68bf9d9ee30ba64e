import pytest

from trimtab.signals import Course
from trimtab.signals.course import BEGINNING, REACH


def course_of(losses):
    course = Course()
    for loss in losses:
        course.update(loss)
    return course


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
    kept = (course.first, course.best, course.swing, course.peak)
    course.fence()
    course.update(1.0)
    assert (course.fast, course.middle, course.slow) == (1.0, 1.0, 1.0)
    assert (course.first, course.best, course.swing, course.peak) == kept
