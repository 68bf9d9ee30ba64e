"""What the user's own learning rate does: whether it just jumped, and whether it is one to train at."""

from __future__ import annotations

BACK = 8  # steps over which a change counts as sudden
CHANGE = 2.0
SETTLE = 20  # steps for which relative rules are suspended then
RISING = 16  # steps over which any rise is a warm-up
FAR_BELOW = 0.2  # of the highest rate so far: the schedule is about to end, or to restart


class LearningRate:
    """Follows one optimizer's rate, without our scale. A rate that is not known is steady."""

    __slots__ = ("_highest", "_index", "_ring", "_rose_at", "_steps", "_still", "gone", "last", "settling", "steady")

    def __init__(self) -> None:
        self.settling = 0  # steps for which relative rules are still suspended
        self.steady = True  # falling, or not rising; and not all but gone
        self.gone = False  # all but: far below its highest
        self.last: float | None = None  # that of the newest step whose rate was known
        self._ring: list[float] = []
        self._index = 0
        self._still = 0  # steps without a change
        self._steps = self._rose_at = 0  # at which it rose last
        self._highest = 0.0

    @property
    def may_rise(self) -> bool:
        """Whether it may go on rising: as many steps as it took to rise must pass without, as it may rise in stairs."""
        return self._steps < 2 * self._rose_at

    def update(self, rate: float | None) -> bool:
        """Take the rate of a step in. True when it is the first after a sudden change."""
        if self.settling:
            self.settling -= 1
        if rate is None:
            return False
        self._steps += 1
        if rate == self.last:
            if self._still > RISING:
                return False
            self._still += 1
            if self._still > RISING:
                self.steady = not self.gone
                return False
        else:
            self._still = 0
        ring, index = self._ring, self._index
        if len(ring) < RISING:
            ring += [rate] * (RISING - len(ring))
        falling = self.last is not None and rate < self.last
        if self.last is not None and rate > self.last:
            self._rose_at = self._steps
        self.last = rate
        if rate > self._highest:
            self._highest = rate
        self.gone = rate < FAR_BELOW * self._highest
        before, long_before = ring[index - BACK], ring[index]
        ring[index] = rate
        self._index = (index + 1) % RISING
        self.steady = (falling or rate <= long_before) and not self.gone
        if rate == before or (rate < CHANGE * before and before < CHANGE * rate):
            return False
        first = not self.settling
        self.settling = SETTLE
        return first
