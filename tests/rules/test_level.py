import math
import random

import pytest

from trimtab.rules.level import Level


def fed(level, values, begin=0):
    """The edges, by step."""
    found = ((step, level.update(step, value)) for step, value in enumerate(values, begin))
    return {step: edge for step, edge in found if edge}


def test_level_is_undefined_before_hold_points():
    level = Level(1.0, hold=3)
    assert fed(level, [9.0, 9.0]) == {}
    assert level.level is None
    assert fed(level, [9.0], begin=2) == {2: "firing"}


def test_level_is_the_least_of_the_last_hold_points_over_the_threshold():
    rng, level, points = random.Random(0), Level(4.0, hold=7), []
    for step in range(500):
        points.append(float(rng.randint(0, 9)))
        level.update(step, points[-1])
        if step >= 6:
            assert level.level == min(points[-7:]) / 4.0


def test_level_at_the_threshold_fires():
    assert fed(Level(2.0), [1.99, 2.0]) == {1: "firing"}


def test_level_of_a_point_that_is_not_finite_is_infinite():
    for value in (math.nan, math.inf, -math.inf):
        level = Level(5.0)
        assert level.update(0, value) == "firing"
        assert level.level == math.inf


def test_since_is_the_step_of_the_first_point_that_the_level_rests_on():
    level = Level(1.0, hold=3)
    assert fed(level, [0.0, 2.0, 2.0, 2.0, 2.0], begin=10) == {13: "firing"}
    assert level.since == 11


def test_episode_ends_only_under_the_clear_threshold():
    assert fed(Level(10.0, clear=0.8), [11.0, 9.0, 8.0, 7.9]) == {0: "firing", 3: "resolved"}


def test_episode_ends_after_hold_calm_points_in_a_row():
    edges = fed(Level(1.0, hold=3), [2.0, 2.0, 2.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0])
    assert edges == {2: "firing", 8: "resolved"}


def test_episodes_are_numbered_from_one():
    level, seen = Level(1.0), []
    for step, value in enumerate([2.0, 0.0, 2.0, 2.0, 0.0, 2.0]):
        if level.update(step, value) == "firing":
            seen.append(level.episode)
    assert seen == [1, 2, 3]


def test_fence_forgets_points_and_closes_the_episode():
    level = Level(1.0, hold=2)
    fed(level, [2.0, 2.0])
    level.fence()
    assert (level.level, level.firing, level.take()) == (None, False, None)
    assert fed(level, [2.0, 2.0], begin=2) == {3: "firing"}
    assert (level.episode, level.since) == (2, 2)


def test_take_gives_the_worst_level_since_it_was_last_asked():
    level = Level(2.0)
    fed(level, [1.0, 6.0, 2.0])
    assert level.take() == 3.0
    assert level.take() is None
    fed(level, [1.0])
    assert level.take() == pytest.approx(0.5)
