"""Jumps of a loss, and whether the newest is over: it may be judged some steps after it came."""

from __future__ import annotations

LEFT = 0.2  # of a jump: less is left of one that is over
FEW = 2  # values until it can be told
OFTEN = 3  # jumps that were over by themselves, after which one that comes is taken for the next until it lasts


class Jumps:
    """Values that stand out, and what came after them. O(1) memory."""

    __slots__ = ("_floor", "_latest", "_passed", "_since", "_top")

    def __init__(self) -> None:
        self._latest = (0.0, 0.0, 0.0)
        self.fence()

    def fence(self) -> None:
        """There was no jump yet."""
        self._floor = self._top = 0.0  # where the loss jumped from, and to; equal where it did not
        self._since = self._passed = 0  # values since, and jumps before it that were over by themselves

    @property
    def level(self) -> float:
        """Where the loss is now: the median of its last three values, which one bad batch is not seen in."""
        return sorted(self._latest)[1]

    def update(self, value: float) -> None:
        """Take in every value."""
        self._latest = (*self._latest[1:], value)
        self._since += 1

    def stands_out(self, value: float, usual: float, most: float) -> None:
        """The newest value stands out of what is `usual`: a jump begins, or goes on. `most`: see `is_over`."""
        is_first = self._top == self._floor
        if is_first or self.is_over(most):
            self._passed += not is_first
            self._floor = self._top = usual
            self._since = 0
        self._top = max(self._top, value)

    def is_over(self, most: float) -> bool:
        """Whether the loss has come down by itself since it last jumped: most of the way, and to within `most` of it.

        Where jumps have been over three times before, rare batches cost more than the others: the next one is taken for
        over until it lasts.
        """
        jump, left = self._top - self._floor, self.level - self._floor
        is_known = self._since >= FEW or self._passed >= OFTEN
        return jump > 0.0 and is_known and left < LEFT * jump and left < most
