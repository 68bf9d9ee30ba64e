"""Turns the records of a run into curves that can be drawn. Needs numpy, which comes with the extra `report`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trimtab.logs import RunLog, Step

Numbers: TypeAlias = NDArray[np.float64]

MOST_POINTS = 1500
LARGEST = 1e250  # that is drawn: an axis has its margin to hold as well, and a float ends at 1.8e308


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity over global steps. Every array has one entry a point; NaN stands where a value was not finite.

    `low` and `high` are the extremes of what a point stands for, and equal `values` where it stands for one step.
    """

    of: str  # which optimizer and group, empty when there is but one
    steps: Numbers
    values: Numbers
    low: Numbers
    high: Numbers

    @property
    def nonfinite(self) -> Numbers:
        """The steps at which the value was NaN or Inf."""
        return self.steps[np.isnan(self.values)]

    def thinned(self, most: int = MOST_POINTS) -> Curve:
        """At most about `most` points: means, with the extremes of what they stand for. A NaN spoils its point."""
        every = -(-len(self.steps) // most)
        if every <= 1:
            return self
        starts = np.arange(0, len(self.steps), every)
        counts = np.diff(np.append(starts, len(self.steps)))
        return replace(
            self,
            steps=self.steps[starts + counts - 1],
            values=np.add.reduceat(self.values, starts) / counts,
            low=np.fmin.reduceat(self.low, starts),
            high=np.fmax.reduceat(self.high, starts),
        )

    def smoothed(self, window: int, *, geometric: bool = False) -> Numbers:
        """The running mean over `window` points around each, over fewer at the ends, NaN where the value is.

        `geometric` suits positive values on a logarithmic axis: one outlier does not lift all of its window.
        """
        known = np.isfinite(self.values) & (self.values > 0.0 if geometric else True)
        values = np.where(known, self.values, 1.0)
        kernel = np.ones(window)
        sums = np.convolve(np.where(known, np.log(values) if geometric else values, 0.0), kernel, mode="same")
        means = sums / np.maximum(np.convolve(known, kernel, mode="same"), 1.0)
        return np.where(known, np.exp(means) if geometric else means, np.nan)


def curves(log: RunLog, field: str, phase: str) -> list[Curve]:
    """The curves of one field of `Step`: one for each optimizer, and for learning rates one for each group.

    Groups whose learning rates never differ are one curve.
    """
    points: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for record in log.steps:
        if record.phase == phase:
            for group, point in _points(record, field):
                points.setdefault((record.optimizer, group), []).append(point)
    distinct: dict[tuple[Any, ...], tuple[str, str]] = {}
    for of, listed in points.items():
        distinct.setdefault((of[0], *listed), of)
    return [_curve(_named(of, list(distinct.values())), points[of]) for of in distinct.values()]


def _points(record: Step, field: str) -> Iterator[tuple[str, tuple[float, ...]]]:
    value = getattr(record, field)
    if isinstance(value, list):
        for group, rate in enumerate(value):
            if rate is not None:
                yield str(group), (record.step, rate, rate, rate)
    elif value is not None:
        low, high = (getattr(record, f"{field}_{end}", None) for end in ("min", "max"))
        yield "", (record.step, value, value if low is None else low, value if high is None else high)


def _named(of: tuple[str, str], among: list[tuple[str, str]]) -> str:
    """What tells a curve from its siblings: the optimizer, the group, both or nothing."""
    optimizer, group = of
    several = len({other[0] for other in among}) > 1
    grouped = len({other[1] for other in among if other[0] == optimizer}) > 1
    return " ".join(filter(None, (optimizer if several else "", f"group {group}" if grouped else "")))


def _curve(of: str, points: list[tuple[float, ...]]) -> Curve:
    steps, values, low, high = np.array(points, dtype=np.float64).T
    values = np.where(np.isfinite(values), values, np.nan)
    values, low, high = (np.clip(numbers, -LARGEST, LARGEST) for numbers in (values, low, high))
    return Curve(of=of, steps=steps, values=values, low=low, high=high)
