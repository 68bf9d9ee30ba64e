from __future__ import annotations

import random
import time

import pytest
from paired import Plan, Side, blocks_for, compare, difference, estimate, ratio


class Machine:
    """A clock that a step moves by 100 us, give or take; slower and slower, and now and then by far too much."""

    def __init__(self, seed: int, interruptions: float = 0.01) -> None:
        self.random = random.Random(seed)
        self.interruptions = interruptions
        self.now = 0.0

    def work(self, seconds: float = 100e-6) -> None:
        drift = 1 + self.now / 10
        interruption = 5e-3 if self.random.random() < self.interruptions else 0.0
        self.now += seconds * drift * self.random.lognormvariate(0, 0.1) + interruption

    def clock(self) -> float:
        return self.now


def rounds_of(machine: Machine, **added: float):
    def side(more: float) -> Side:
        return Side(lambda: machine.work(100e-6 + more))

    sides = {"bare": side(0), "control": side(0), **{name: side(more) for name, more in added.items()}}
    return compare(sides, Plan(10), budget_s=0, fewest=300, most=300, clock=machine.clock)


def test_method_finds_five_microseconds_on_a_noisy_machine() -> None:
    found = difference(rounds_of(Machine(1), slower=5e-6), "slower", "bare", "control")
    assert 2e-6 < found.low <= found.middle <= found.high < 10e-6


def test_method_finds_nothing_between_bare_and_bare() -> None:
    controls = [difference(rounds_of(Machine(seed)), "control", "bare") for seed in range(20)]
    holding_zero = sum(control.low <= 0 <= control.high for control in controls)
    assert holding_zero >= 17  # 19 are expected of intervals of 95 %
    assert all(control.high - control.low < 10e-6 for control in controls)


def test_method_finds_a_busy_wait_in_processor_time() -> None:
    def work(seconds: float) -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    sides = {"bare": Side(lambda: work(20e-6)), "slower": Side(lambda: work(25e-6))}
    rounds = compare(sides, Plan(10), budget_s=0, fewest=100, most=100, clock=time.thread_time)
    assert difference(rounds, "slower", "bare").low > 0
    assert ratio(rounds, "slower", "bare").low > 0


def test_rare_work_counts_in_full_when_rounds_hold_it() -> None:
    machine, calls = Machine(3, interruptions=0), 0

    def one_in_forty() -> None:
        nonlocal calls
        calls += 1
        machine.work(500e-6 if calls % 40 == 0 else 100e-6)  # 10 % more on average

    sides = {"bare": Side(machine.work), "rare": Side(one_in_forty)}
    rounds = compare(sides, Plan(10, blocks=20), budget_s=0, fewest=100, most=100, clock=machine.clock)
    found = ratio(rounds, "rare", "bare")
    assert 0.05 < found.low < 0.10 < found.high < 0.15


def test_steps_that_settle_and_switches_are_not_counted() -> None:
    now, order = 0.0, []

    def passes(name: str, seconds: float):
        def happen() -> None:
            nonlocal now
            now += seconds
            order.append(name)

        return happen

    seconds = {"step": 1, "enter": 100, "begin": 100, "finish": 3, "leave": 100}
    side = Side(**{name: passes(name, taken) for name, taken in seconds.items()})
    rounds = compare({"side": side}, Plan(steps=2, settle=1), budget_s=0, clock=lambda: now)
    assert order[:7] == ["enter", "step", "begin", "step", "step", "finish", "leave"]
    assert rounds[0]["side"] == pytest.approx((2 * 1 + 3) / 2)


def test_sides_take_turns_in_random_order() -> None:
    order: list[str] = []
    sides = {name: Side(lambda name=name: order.append(name)) for name in "abc"}
    compare(sides, Plan(1), budget_s=0, fewest=50)
    turns = ["".join(order[start : start + 3]) for start in range(0, 150, 3)]
    assert set(turns) == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_interval_holds_the_median_in_95_percent() -> None:
    source = random.Random(7)
    held = 0
    for _ in range(400):
        found = estimate([source.expovariate(1.0) for _ in range(15)])
        held += found.low <= 0.6931 <= found.high
    assert held >= 0.93 * 400


def test_interval_of_thousands_of_values_is_found() -> None:
    found = estimate([float(value) for value in range(5001)])
    assert (found.low, found.middle, found.high) == (2430.0, 2500.0, 2570.0)  # 1.96 standard deviations are 69.3


def test_interval_of_five_values_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 6"):
        estimate([1.0] * 5)


def test_round_is_long_enough_and_a_multiple_of_the_interval() -> None:
    assert blocks_for(1.0, step_s=0.001, steps=10) == 100
    assert blocks_for(1.0, step_s=0.3, steps=1, multiple=16) == 16
