"""When the next snapshot is due."""

from __future__ import annotations

SHARE = 0.0025  # of the step time: a quarter of the default overhead budget
LEAST_STEPS = 4  # between two
FIRST_INTERVAL = 16  # until the cost of one is known


class Turns:
    """Every so many steps: `every`, or a power of two with which snapshots take no more than `share` of the time."""

    def __init__(self, every: int | None = None, share: float = SHARE) -> None:
        self.interval = every or FIRST_INTERVAL
        self.seconds = 0.0  # that taking them has cost in all
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
        if self._every is None and step_s:
            wanted, self.interval = seconds / (self._share * step_s), LEAST_STEPS
            while self.interval < wanted:
                self.interval *= 2
        self._due_at = (step // self.interval + 1) * self.interval
