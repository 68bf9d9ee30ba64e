"""The method: how differences of a hundredth are told on a machine that drifts by more.

Two runs of the same program differ by several per cent, because memory lies elsewhere and the machine has changed its
pace. So every side (bare, bare again, watched, ...) runs in one process, on one model, in short blocks that take turns
in random order. A round has the same number of blocks of every side and gives one figure; what is reported is the
median over rounds, with the order statistics that hold it with 95 % probability. The second bare side is the control:
its interval should hold zero, and its width says what could be told at all.

A median over blocks would hide whatever is done once in a while. A round must therefore be long enough to hold
everything that comes back: who calls chooses the number of blocks so.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

TAILS = 40  # one case in so many lies on either side of an interval that holds 95 %
FEWEST_ROUNDS = 6  # fewer have no interval of 95 %

Round = Mapping[str, float]  # side to seconds a step


def nothing() -> None:
    """What a side does where it has nothing to do."""


@dataclass(frozen=True, slots=True)
class Side:
    """One way to run the loop."""

    step: Callable[[], object]
    enter: Callable[[], object] = nothing  # at the start of a block, not timed
    begin: Callable[[], object] = nothing  # after the steps that do not count, not timed
    finish: Callable[[], object] = nothing  # timed: waits for work that the block has put on other threads
    leave: Callable[[], object] = nothing  # not timed


@dataclass(frozen=True, slots=True)
class Plan:
    """How a side's steps are cut: `settle` steps that do not count, then `steps` that do, `blocks` times a round."""

    steps: int
    settle: int = 0
    blocks: int = 1


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median and the interval that holds it with 95 % probability."""

    middle: float
    low: float
    high: float
    values: Sequence[float] = field(default=(), repr=False, compare=False)

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit."""
        return Estimate(self.middle * factor, self.low * factor, self.high * factor, self.values)

    def raised(self, by: float) -> Estimate:
        """The same, `by` higher."""
        return Estimate(self.middle + by, self.low + by, self.high + by, self.values)


def estimate(values: Sequence[float]) -> Estimate:
    """The median of `values`, and two of them that hold the true one with 95 % probability, whatever its distribution.

    Raises:
        ValueError: fewer than six values, of which not even the extremes would do.
    """
    if len(values) < FEWEST_ROUNDS:
        raise ValueError(f"{len(values)} values: a 95 % interval needs at least {FEWEST_ROUNDS}. Measure longer.")
    ordered = sorted(values)
    rank = _rank(len(ordered))
    return Estimate(statistics.median(ordered), ordered[rank], ordered[-1 - rank], tuple(values))


def _rank(count: int) -> int:
    """How many of the smallest values lie below the interval: a coin shows fewer heads in one of 40 cases."""
    fewer, ways, rank = 1, 1, 0  # of 2**count: integers, which thousands of values cannot make vanish
    while fewer <= 2**count // TAILS:
        rank += 1
        ways = ways * (count - rank + 1) // rank
        fewer += ways
    return rank - 1


def compare(
    sides: Mapping[str, Side],
    plan: Plan,
    *,
    budget_s: float,
    fewest: int = FEWEST_ROUNDS,
    most: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
    shuffle: random.Random | None = None,
) -> list[Round]:
    """Let the sides take turns for about `budget_s` seconds. Returns one entry a round.

    There are at least `fewest` rounds, whatever the budget, and at most `most`. The garbage collector is left as users
    have it.
    """
    shuffle = shuffle or random.Random(2)
    rounds: list[Round] = []
    until = clock() + budget_s
    while len(rounds) < fewest or (clock() < until and (most is None or len(rounds) < most)):
        rounds.append(_round(sides, plan, clock, shuffle))
    return rounds


def ratio(rounds: Sequence[Round], side: str, *bare: str) -> Estimate:
    """What `side` takes more than `bare` (the mean of those named), as a fraction of it."""
    return estimate([each[side] / statistics.fmean(each[name] for name in bare) - 1 for each in rounds])


def difference(rounds: Sequence[Round], side: str, *bare: str) -> Estimate:
    """What a step of `side` takes more than one of `bare`, in seconds."""
    return estimate([each[side] - statistics.fmean(each[name] for name in bare) for each in rounds])


def blocks_for(round_s: float, step_s: float, steps: int, multiple: int = 1) -> int:
    """Blocks of `steps` steps that make a round of `round_s` seconds, its steps a multiple of `multiple`."""
    wanted = math.ceil(round_s / step_s / multiple) * multiple
    return max(1, math.ceil(wanted / steps))


def _round(sides: Mapping[str, Side], plan: Plan, clock: Callable[[], float], shuffle: random.Random) -> Round:
    spent = dict.fromkeys(sides, 0.0)
    for _ in range(plan.blocks):
        for name in shuffle.sample(list(sides), len(sides)):
            spent[name] += _block(sides[name], plan, clock)
    return {name: seconds / (plan.blocks * plan.steps) for name, seconds in spent.items()}


def _block(side: Side, plan: Plan, clock: Callable[[], float]) -> float:
    step = side.step
    side.enter()
    try:
        for _ in range(plan.settle):
            step()
        side.begin()
        started = clock()
        for _ in range(plan.steps):
            step()
        side.finish()
        return clock() - started
    finally:
        side.leave()
