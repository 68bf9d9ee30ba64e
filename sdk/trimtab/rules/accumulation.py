"""Whether the loss of a step grows with the number of its backwards: then that number is no trouble of training.

Who accumulates gradients divides each loss by how many there are, or does not. Where the number changes, the sum does
too in the second case: Ultralytics goes from 1 to 64 / batch size over its warm-up, and the last step of an epoch may
have fewer backwards than the others, whoever divides by their usual number.
"""

from __future__ import annotations

import math

RECENT = 0.3  # weight of the newest loss in what is usual
VOTES = 4  # steps after a change of the number that say which it is
MOST = 3.0  # evidence that can be gathered, of which one change from 1 to 2 brings 0.7 a step


class Accumulation:
    """Tells it from the sizes of losses before and after each change.

    A loss of n backwards, after those of m, is r times what was usual: where losses are sums, r is about n / m, where
    they are means about 1. Each of the first steps after a change votes by |ln r| - |ln r - ln(n / m)|.
    """

    __slots__ = ("_backwards", "_before", "_evidence", "_since", "_unit", "_usual")

    def __init__(self) -> None:
        self._backwards = 0  # of the newest loss
        self._usual = 0.0  # its size, over those with as many backwards as the newest
        self._since = 0  # how many these are
        self._before = (0, 0.0)  # how many backwards there were until then, and what was usual
        self._evidence = 0.0  # over 0: losses are sums
        self._unit = 0  # backwards that what is judged is of, where they are

    def judged(self, loss: float, backwards: int) -> float:
        """The loss of a step with so many backwards, as if there were as many as ever. 0.3 us while there are."""
        size = abs(loss)
        is_finite = size - size == 0.0
        if backwards != self._backwards:
            self._before = (self._backwards, self._usual)
            self._backwards, self._usual, self._since = backwards, size if is_finite else 0.0, 0
            self._unit = self._unit or backwards
        self._since += 1
        if is_finite:
            if self._since <= VOTES:
                self._vote(size)
            self._usual += RECENT * (size - self._usual)
        is_sum = self._evidence > 0.0 and backwards != self._unit
        return loss * self._unit / backwards if is_sum else loss

    def _vote(self, size: float) -> None:
        before, usual = self._before
        if not (size and usual):
            return
        was, risen, ratio = self._evidence, math.log(size / usual), math.log(self._backwards / before)
        self._evidence = max(-MOST, min(MOST, was + abs(risen) - abs(risen - ratio)))
        if was <= 0.0 < self._evidence:  # until then losses were judged as they were
            self._unit = before
