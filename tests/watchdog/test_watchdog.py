"""A run without a sign of life is hung after a while that depends on its steps. No clock runs here."""

import itertools
import threading

import pytest

from trimtab import watchdog
from trimtab.guard import Guard
from trimtab.watchdog import FIRST_STEP_S, LEAST_S, Watchdog, where

EVERY = 5.0


class Yard:
    """A watchdog, a run that moves when it is told to, and what was said."""

    def __init__(self, **options):
        options.setdefault("number", itertools.count(1).__next__)
        self.now = 0.0
        self.steps, self.life = 0, 0
        self.said, self.alive = [], []
        self.dog = Watchdog(
            lambda: (self.steps, self.life), lambda: 7,
            on_hung=lambda verdict, frames: self.said.append(verdict),
            on_recovered=self.said.append, on_alive=lambda: self.alive.append(self.now),
            guard=Guard(lambda place, text: None), interval_s=EVERY, clock=lambda: self.now, **options,
        )  # fmt: skip

    def wait(self, seconds):
        """Time passes, in which nothing happens."""
        while seconds > 0:
            self.now += min(seconds, EVERY)
            seconds -= EVERY
            self.dog.look()

    def train(self, steps, step_s=1.0):
        for _ in range(steps):
            self.wait(step_s - EVERY)
            self.now += min(step_s, EVERY)
            self.steps += 1
            self.dog.look()

    @property
    def states(self):
        return [verdict.state for verdict in self.said]


@pytest.fixture
def yard():
    return Yard()


def test_run_that_stops_stepping_is_hung_once(yard):
    yard.train(100)
    yard.wait(LEAST_S - EVERY)
    assert yard.said == []
    yard.wait(3 * LEAST_S)
    (verdict,) = yard.said
    assert (verdict.rule, verdict.episode, verdict.state, verdict.severity) == ("run_hung", 1, "firing", "critical")
    assert (verdict.step, verdict.value, verdict.threshold, verdict.level) == (7, 1.0, 1.0, 1.0)


def test_threshold_is_a_multiple_of_the_limit():
    yard = Yard(threshold=2.0)
    yard.train(100)
    yard.wait(2 * LEAST_S - EVERY)
    assert yard.said == []
    yard.wait(EVERY)
    assert (yard.said[0].value, yard.said[0].threshold, yard.said[0].level) == (2.0, 2.0, 1.0)


def test_next_step_resolves_it_and_the_next_hang_is_another_episode(yard):
    yard.train(100)
    for _ in range(2):
        yard.wait(2 * LEAST_S)
        yard.train(100)
    assert yard.states == ["firing", "resolved"] * 2
    assert [verdict.episode for verdict in yard.said] == [1, 1, 2, 2]
    assert yard.said[1].value == pytest.approx(2.0, abs=EVERY / LEAST_S)


def test_slow_steps_are_waited_for(yard):
    yard.train(20, step_s=100.0)
    assert yard.dog.limit_s == 2000.0
    yard.wait(1995.0)
    assert yard.said == []
    yard.wait(10.0)
    assert yard.states == ["firing"]


def test_first_step_may_take_longer(yard):
    yard.wait(FIRST_STEP_S - EVERY)
    assert yard.said == []
    yard.train(1)
    yard.wait(LEAST_S)
    assert yard.states == ["firing"]


def test_first_step_that_never_comes_is_told(yard):
    yard.wait(FIRST_STEP_S)
    assert yard.states == ["firing"]


def test_compiling_before_the_first_step_is_no_measure_of_the_others(yard):
    yard.wait(2000.0)
    yard.train(1)
    assert yard.dog.limit_s == LEAST_S


def test_validation_is_a_sign_of_life(yard):
    yard.train(10)
    for _ in range(20):
        yard.wait(100.0)
        yard.life += 1
    assert yard.said == []
    assert yard.dog.limit_s == LEAST_S


def test_pause_that_comes_again_is_a_habit_and_one_alone_is_not(yard):
    yard.train(10)
    for _ in range(5):
        yard.wait(800.0)
        yard.train(10)
    assert yard.states == ["firing", "resolved"] * 2
    yard.wait(1700.0)
    assert len(yard.said) == 5


def test_time_in_which_the_process_was_stopped_does_not_count(yard):
    yard.train(10)
    yard.now += 100_000.0
    yard.dog.look()
    assert yard.said == []


def test_fast_steps_are_counted_between_two_looks(yard):
    for _ in range(10):
        yard.now += EVERY
        yard.steps += 5000
        yard.dog.look()
    assert list(yard.dog._steps_s) == pytest.approx([1e-3] * 9)


def test_thread_looks_by_itself_and_tells_where_training_is(monkeypatch):
    monkeypatch.setattr(watchdog, "FIRST_STEP_S", 0.01)
    heard, told, hangs = threading.Event(), [], []
    dog = Watchdog(
        lambda: (0, None if hangs else object()), lambda: 0,
        on_hung=lambda verdict, text: (told.append(text), heard.set()), on_recovered=told.append,
        number=lambda: 1,
        guard=Guard(lambda place, text: None), interval_s=0.001,
    )  # fmt: skip

    def a_collective_that_never_returns():
        hangs.append(True)
        heard.wait(30.0)

    dog.start()
    a_collective_that_never_returns()
    dog.close()
    (text,) = told
    assert "No sign of life for 0 s, over the limit of 0 s. Training is in wait (" in text
    assert text.index("wait (") < text.index("a_collective_that_never_returns (test_watchdog.py:")
    assert "trimtab-watchdog" not in {thread.name for thread in threading.enumerate()}


def test_frames_are_told_innermost_first_and_none_of_a_thread_that_is_gone():
    first, second, *_ = where(threading.get_ident()).split(" < ")
    assert first.startswith("of_threads (frames.py:")
    assert second.startswith("where (watchdog.py:")
    assert where(-1) == ""


def test_closing_twice_or_without_a_start_is_no_error(yard):
    yard.dog.close()
    yard.dog.start()
    yard.dog.close()
    yard.dog.close()


def test_episodes_are_numbered_by_whoever_counts_them():
    yard = Yard(number=iter((5, 6)).__next__)
    for _ in range(2):
        yard.train(100)
        yard.wait(2 * LEAST_S)
    assert yard.states == ["firing", "resolved", "firing"]
    assert [verdict.episode for verdict in yard.said] == [5, 5, 6]


def test_each_look_that_saw_the_run_move_on_is_told(yard):
    yard.train(1)
    yard.wait(3 * EVERY)
    yard.life += 1
    yard.wait(EVERY)
    assert yard.alive == [1.0, 1.0 + 4 * EVERY]
