"""Jumps of a loss, and whether the newest is over: it may be judged some steps after it came."""

from __future__ import annotations

LEFT = 0.2  # of a jump: less is left of one that is over
FEW = 2  # values until it can be told
OFTEN = 3  # jumps that were over by themselves, after which one that comes is taken for the next until it lasts

AT_ONCE = 5  # values after which the jump of a bad batch or two is over
UNLIKE = 3.0  # times as high as each one before: a batch like no other
LATER = 24  # values in which an optimizer that averages still steps along the gradients of such a batch
NEWEST, BELOW = 9, 2  # of those so many are looked at, and so few may be below
AGAIN = 0.25  # of the `most` of a jump: by more, the loss has risen again
ENORMOUS = 1000.0  # times what the loss has come down: a square that outweighs those of thousands of steps
MINDED = 100  # values that this is minded for: longer than until the next judgement


class Jumps:
    """Values that stand out, and what came after them. O(1) memory."""

    __slots__ = ("_after", "_floor", "_follows", "_highest", "_latest", "_most", "_passed", "_rose", "_since", "_top")

    def __init__(self) -> None:
        self._latest = (0.0, 0.0, 0.0)
        self.fence()

    def fence(self) -> None:
        """There was no jump yet."""
        self._passed = 0  # jumps before this one that were over by themselves
        self._highest = 0.0  # of those
        self._begin(0.0, 0.0)
        self._follows = False

    def _begin(self, usual: float, most: float) -> None:
        self._floor = self._top = usual  # where the loss jumped from, and to; equal where it did not
        self._since = 0  # values since
        self._most = most
        self._after: list[float] = []  # values since it was over at once
        self._follows = True  # whether it is not known yet if the loss rises again
        self._rose = False

    @property
    def level(self) -> float:
        """Where the loss is now: the median of its last three values, which one bad batch is not seen in."""
        return sorted(self._latest)[1]

    def update(self, value: float) -> None:
        """Take in every value."""
        self._latest = (*self._latest[1:], value)
        self._since += 1
        if self._follows:
            self._follow(value)

    def stands_out(self, value: float, usual: float, most: float) -> None:
        """The newest value stands out of what is `usual`: a jump begins, or goes on. `most`: see `is_over`."""
        is_first = self._top == self._floor
        if is_first or self.is_over(most):
            self._passed += not is_first
            self._highest = max(self._highest, self._top - self._floor)
            self._begin(usual, most)
        elif self._after:  # another batch like that, and no rise
            self._follows = False
        self._top = max(self._top, value)

    def is_over(self, most: float) -> bool:
        """Whether the loss has come down by itself since it last jumped: most of the way, and to within `most` of it.

        Where jumps have been over three times before, rare batches cost more than the others: the next one is taken for
        over until it lasts.
        """
        jump, left = self._top - self._floor, self.level - self._floor
        is_known = self._since >= FEW or self._passed >= OFTEN
        return jump > 0.0 and is_known and left < LEFT * jump and left < most

    def has_returned(self, mean: float, swing: float) -> bool:
        """Whether the last jump was over at once, and the loss then rose again, value by value, and is still high.

        So it does where an optimizer averages gradients, and goes on along those of one bad batch. Not after a jump
        like others before it: of rare batches each costs about as much. `mean` is that of the loss now, which is high
        by more than its `swing`.
        """
        return self._rose and self._since <= MINDED and mean > self._floor + swing

    def is_enormous(self, scale: float) -> bool:
        """Whether the last jump was a thousand times `scale`, and like none before it."""
        jump = self._top - self._floor
        return jump > ENORMOUS * scale and jump >= UNLIKE * self._highest

    def _follow(self, value: float) -> None:
        after = self._after
        if not after and not self.is_over(self._most):
            self._follows = self._since < AT_ONCE
            return
        if self._top - self._floor < UNLIKE * self._highest:
            self._follows = False
            return
        after.append(value)
        if len(after) >= NEWEST:
            self._rose = sorted(after[-NEWEST:])[BELOW] - self._floor > AGAIN * self._most
        self._follows = self._since < LATER and not self._rose
