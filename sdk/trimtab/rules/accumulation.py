"""Whether the loss of a step grows with the number of its backwards: then that number is no trouble of training.

Who accumulates gradients divides each loss by how many there are, or does not. Where the number changes, the sum does
too in the second case: Ultralytics goes from 1 to 64 / batch size over its warm-up, and the last step of an epoch may
have fewer backwards than the others, whoever divides by their usual number.
"""

from __future__ import annotations

import math
import sys

RECENT = 0.2  # weight of the newest size in its average
VOTES = 4  # steps after a change of the number that say which it is
LARGE = 0.5  # ln of a change whose votes count in full; over a smaller one the loss itself may have changed as much
LEAST = sys.float_info.min / sys.float_info.epsilon  # of a size: what is less may be 0 when it is divided
MOST = 3.0  # evidence that is kept: a step after a change from 1 to 2 brings 0.7, less where losses are noisy


class Accumulation:
    """Tells it from which is predicted better by its average so far: the loss of a step, or that over its backwards.

    Evidence is the sum, over the first steps after each change, of |ln(s / avg(s))| - |ln(m / avg(m))|, with s the size
    of the loss and m that of its mean over backwards, times |ln(change)| / 0.5 up to 1.
    """

    __slots__ = ("_backwards", "_evidence", "_mean", "_size", "_unit", "_votes", "_weight")

    def __init__(self) -> None:
        self._size = 0.0  # average,
        self._mean: float | None = None  # and that of the other one, once the number has changed
        self._unit = self._backwards = 0  # of the first loss, which what is judged is of, and of the newest
        self._votes = 0  # steps that are to vote yet,
        self._weight = 0.0  # and by how much
        self._evidence = 0.0  # over 0: losses are sums

    def judged(self, loss: float, backwards: int) -> float:
        """The loss of a step with so many backwards, as if there were as many as at first. 0.15 us while there are."""
        if backwards != self._backwards:
            self._change(backwards)
        size = abs(loss)
        if LEAST <= size < math.inf:
            if self._mean is not None:
                self._mean = self._compare(size, size / backwards, self._mean)
            self._size += RECENT * (size - self._size) if self._size else size
        return loss * self._unit / backwards if self._evidence > 0.0 and backwards != self._unit else loss

    def _change(self, backwards: int) -> None:
        before, self._backwards = self._backwards, backwards
        self._unit = self._unit or backwards
        if self._size:
            self._votes, self._weight = VOTES, min(1.0, abs(math.log(backwards / before)) / LARGE)
            if self._mean is None:
                self._mean = self._size / before

    def _compare(self, size: float, mean: float, usual: float) -> float:
        """Vote, if it is time. Returns what is usual for `mean` with this one."""
        if self._votes:
            self._votes -= 1
            better = abs(math.log(size) - math.log(self._size)) - abs(math.log(mean) - math.log(usual))
            self._evidence = max(-MOST, min(MOST, self._evidence + self._weight * better))
        return usual + RECENT * (mean - usual)
