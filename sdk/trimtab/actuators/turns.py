"""When the next snapshot is due."""

from __future__ import annotations

SHARE = 0.0025  # of the step time: a quarter of the default overhead budget
LEAST_STEPS = 4  # between two
FIRST_INTERVAL = 16  # until the cost of one is known
GROWTH = 4  # of the interval, at once


class Turns:
    """Every so many steps: `every`, or a power of two with which snapshots take no more than `share` of the time.

    What one costs is the lesser of the last two, and the number grows fourfold at most: where a copy of 1 ms has to
    wait 30 ms for a core, the next would come after a thousand steps, and a run that is lost meanwhile would have
    nothing newer to go back to.
    """

    def __init__(self, every: int | None = None, share: float = SHARE) -> None:
        self.interval = every or FIRST_INTERVAL
        self.seconds = 0.0  # that taking them has cost in all
        self._before: float | None = None  # seconds, of the newest
        self._every = every
        self._share = share
        self._due_at = 0

    def has_come(self, step: int) -> bool:
        """Whether one should be taken after `step`. 0.1 us."""
        return step >= self._due_at

    def begin_anew(self, step: int) -> None:
        """The state after `step` steps is kept already, or was just gone back to."""
        self._due_at = step + self.interval

    def taken(self, step: int, seconds: float, step_s: float | None) -> None:
        """Taking one after `step` took so long, where a step takes `step_s`, if that is known."""
        self.seconds += seconds
        before, self._before = self._before, seconds
        if self._every is None and step_s:
            cost = seconds if before is None else min(seconds, before)
            wanted = min(cost / (self._share * step_s), GROWTH * self.interval)
            self.interval = LEAST_STEPS
            while self.interval < wanted:
                self.interval *= 2
        self._due_at = (step // self.interval + 1) * self.interval
