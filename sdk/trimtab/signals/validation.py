"""What can be told from validation results."""

from __future__ import annotations

import itertools
import math
from typing import Literal, NamedTuple

from trimtab.signals.course import FLAT

GAINING = 0.02  # of what validation has gained: a pass that adds as much is not overfitting yet
RISE = 3.0  # a rise of validation counts so many times a gap
SLOW = 0.02  # of the gap: a rise that lasts, and a fall that does not end it
LUCK = 0.05  # of the gain: by so much a pass over a small validation set may be better than the next
PASSES, FALL = 3, 0.02  # passes that get better one by one, and by how much of the first of them in all
LEARNED = 0.3  # of what training gained: where validation gained less, it is not the same task


class Validated(NamedTuple):
    """One validation pass, and the training loss, as the same quantity, of the time before it."""

    loss: float | None
    train_loss: float | None
    beginning: float | None = None  # the training loss when the run began, None where that is not known
    steady: bool = True  # whether the learning rate is one to train at
    settled: bool = True  # whether there were losses enough before it to compare with
    at_chance: bool = False  # whether the training loss is known to be no better than a guess


class ValidationFalls:
    """Whether validation gets better from pass to pass: its last three losses fall, by 2 % of the first in all."""

    __slots__ = ("_losses",)

    def __init__(self) -> None:
        self._losses: tuple[float, ...] = ()

    def update(self, loss: float) -> None:
        """Take the finite loss of a pass in."""
        self._losses = (*self._losses[1 - PASSES :], loss)

    @property
    def falls(self) -> bool:
        """Whether it does."""
        losses = self._losses
        falls_each_time = len(losses) == PASSES and all(a > b for a, b in itertools.pairwise(losses))
        return falls_each_time and losses[0] - losses[-1] >= FALL * abs(losses[0])


class GeneralizationGap:
    """How much worse validation is than training, once it gets worse, in units of what validation has gained.

        score = min(gap, 3 rise) / (first - best validation loss), at least 0
        gap   = validation loss - training loss
        rise  = validation loss - best - healed - luck

    A gap alone does no harm, so it counts only as far as validation rises.

    - `healed` is the largest rise that was followed by a new best: the run comes back from such rises.
    - `luck` is for a best pass that was good by chance, as it fell further than the one before it and the next one does
      not come near it. It is the smaller of how much further it fell and of the rise after it, up to 0.05 of the gain.
    - The whole gap counts where the rise lasts: where it is over 0.02 of the gap, and this pass is not better than the
      one before by as much. Not so while the learning rate warms up or has nearly ended, when little can go on.
    - The score is 0 at a pass that is better than the one before by 0.02 of the gain. It is 0, too, if validation at
      its best had gained less than 0.3 of what training had: then the two are not the same task (a curriculum).
    - Nor does a rise count while the training loss is known to be no better than a guess, and has not come down by 3 %
      since the best pass: such an answer is about the same for every input, and fits nothing too closely.

    `first` is the training loss at the beginning; where that is not known, the larger loss of the first pass. Warm-up:
    two passes, and 24 losses in the run: where a pass follows each step, the first ones rise before anything is gained.

    After Prechelt, "Early stopping - but when?" (1998): generalization loss is the rise over the best validation, and
    several passes in a row tell more than its size.
    """

    __slots__ = ("_best", "_count", "_fell", "_first", "_further", "_healed", "_highest", "_last", "_luck", "_trained")

    def __init__(self) -> None:
        self._first = -math.inf
        self._trained = math.inf  # the training loss at the best pass
        self._best = self._highest = self._last = math.inf
        self._healed = 0.0
        self._fell = math.inf  # from the pass before to the newest
        self._further = 0.0  # how much more it fell to the best pass than to the one before
        self._luck = math.inf  # ... or the rise after it, where that is less
        self._count = 0

    def update(self, result: Validated) -> float | None:
        """The gap after a pass; None where a loss is missing or not finite."""
        loss, train = result.loss, result.train_loss
        if loss is None or train is None or not math.isfinite(loss - train):
            return None
        self._count += 1
        better = self._last - loss
        self._follow(loss, train)
        if self._count == 1:
            self._first = max(loss, train) if result.beginning is None else result.beginning
            return None
        gained = self._first - self._best
        if not result.settled:
            return None
        if gained <= 0.0 or gained < LEARNED * (self._first - self._trained) or better > GAINING * gained:
            return 0.0
        if result.at_chance and train > FLAT * self._trained:
            return 0.0
        gap, rise = loss - train, loss - self._best - self._healed - min(self._luck, LUCK * gained)
        lasts = result.steady and rise > SLOW * gap and better <= SLOW * gap
        return max(0.0, (gap if lasts else min(gap, RISE * rise)) / gained)

    def fence(self) -> None:
        """First, best and what healed stay."""

    def _follow(self, loss: float, train: float) -> None:
        further = self._last - loss - max(self._fell, 0.0) if self._count > 1 else 0.0
        self._fell, self._last = self._last - loss, loss
        if loss < self._best:
            if math.isfinite(self._best):
                self._healed = max(self._healed, self._highest - self._best)
            self._best = self._highest = loss
            self._trained, self._further, self._luck = train, max(further, 0.0), math.inf
        else:
            if self._luck == math.inf:
                self._luck = min(self._further, loss - self._best)
            self._highest = max(self._highest, loss)


class ValidationLost:
    """The share of its gain that validation has lost again: (loss - best) / (first - best).

    `first` is the training loss at the beginning; where that is not known, the largest loss of a pass.
    """

    __slots__ = ("_best", "_first")

    def __init__(self) -> None:
        self._first, self._best = -math.inf, math.inf

    def update(self, loss: float, beginning: float | None) -> float:
        """After a pass with this loss, which is finite."""
        self._best = min(self._best, loss)
        self._first = max(self._first, loss if beginning is None else beginning)
        gained = self._first - self._best
        return (loss - self._best) / gained if gained > 0.0 else 0.0


class ValidationsSinceBest:
    """The number of validation passes since the best one; 0 right after it. NaN and Inf are never the best.

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
