"""What can be told from validation results."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

GAINING = 0.02  # of what validation has gained: a pass that adds as much is not overfitting yet
LEARNED = 0.3  # of what training gained: where validation gained less, it is not the same task


class Validated(NamedTuple):
    """One validation pass, and the training loss, as the same quantity, of the time before it."""

    loss: float | None
    train_loss: float | None
    beginning: float | None = None  # the training loss when the run began


class GeneralizationGap:
    """How much worse validation is than training, in units of what validation has gained.

    (validation loss - training loss) / (first - best validation loss), 0 where that is negative. 0 too at a pass that
    betters the best by 0.02 of that gain, and while validation has gained less than 0.3 of what training has, since
    then the two are not the same task (a curriculum).
    `first` is the training loss at the beginning; where that is not known, the larger loss of the first pass. Warm-up:
    two passes.
    """

    __slots__ = ("_best", "_count", "_first")

    def __init__(self) -> None:
        self._first = -math.inf
        self._best = math.inf
        self._count = 0

    def update(self, result: Validated) -> float | None:
        """The gap after a pass; None where a loss is missing or not finite."""
        loss, train = result.loss, result.train_loss
        if loss is None or train is None or not math.isfinite(loss - train):
            return None
        self._count += 1
        better, self._best = self._best - loss, min(self._best, loss)
        if self._count == 1:
            self._first = max(loss, train) if result.beginning is None else result.beginning
            return None
        gained = self._first - self._best
        if gained <= 0.0 or gained < LEARNED * (self._first - train) or better > GAINING * gained:
            return 0.0
        return max(0.0, (loss - train) / gained)

    def fence(self) -> None:
        """First and best stay."""


class ValidationsSinceBest:
    """How many validation passes have gone by since the best one, 0 right after it. A value that is not finite is none.

    A pass is better than the best by more than `min_delta`, in the unit of the metric, as in Keras' and Lightning's
    EarlyStopping. Warm-up: one pass.
    """

    __slots__ = ("_best", "_sign", "_since", "min_delta")

    def __init__(self, mode: Literal["min", "max"] = "min", min_delta: float = 0.0) -> None:
        self._sign = 1.0 if mode == "min" else -1.0
        self.min_delta = min_delta
        self._best: float | None = None
        self._since = 0

    def update(self, value: float) -> float | None:
        """The number of passes, this one included, without a new best."""
        value *= self._sign
        if math.isfinite(value) and (self._best is None or value < self._best - self.min_delta):
            self._best, self._since = value, 0
        elif self._best is None:
            return None
        else:
            self._since += 1
        return float(self._since)

    def fence(self) -> None:
        """The best stays; counting starts anew."""
        self._since = 0
