"""How often something costly is done, so that its cost stays within a share of the step time.

The interval is a power of two. In warm-up the cost is measured at steps 0, 1, 2, 4, 8, ...; then the interval
settles and stays, but for doublings when the run is over its budget and this has become more than its share of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

WARM_UP_STEPS = 16
LONGEST = 65_536
COSTS = 8  # the newest, of which the median counts


def median(values: Collection[float]) -> float:
    """The middle value, the upper one of two. (`statistics` takes longer to import than we have.)"""
    return sorted(values)[len(values) // 2]


class Spacing:
    """Decides on which steps to act, the first one always. `share`: the fraction of the step time that it may cost."""

    def __init__(self, share: float, fixed: int | None = None) -> None:
        self.interval = fixed or 1
        self.settled = fixed is not None
        self.fixed = fixed  # the interval that was asked for
        self.median_step_s: float | None = None  # once the interval has settled; of a fixed one after the warm-up
        self._share = share
        self._costs_s: deque[float] = deque(maxlen=COSTS)
        self._steps_s: deque[float] = deque(maxlen=WARM_UP_STEPS)

    def after(self, step: int, close_from: int | None = None) -> int:
        """The step on which to act next, having acted on `step`. Steps count from 0.

        `close_from`: the step from which on as many as in the warm-up are looked at as closely as there: the first of
        a later training, or one after an adjustment.
        """
        if not self.settled:
            return 1 << step.bit_length()
        settled = (step // self.interval + 1) * self.interval
        if close_from is None or not self.is_close(step, close_from):
            return settled
        return min(settled, close_from + (1 << (step - close_from).bit_length()))

    def is_close(self, step: int, close_from: int | None) -> bool:
        """Whether `step` is one of those that are looked at closely from `close_from` on."""
        return self.fixed is None and close_from is not None and step - close_from < WARM_UP_STEPS

    def cost(self, seconds: float) -> None:
        """What acting cost this time."""
        self._costs_s.append(seconds)

    def step(self, seconds: float) -> None:
        """How long a step took."""
        if self.median_step_s is not None:
            return
        self._steps_s.append(seconds)
        if len(self._steps_s) < WARM_UP_STEPS or (not self.settled and len(self._costs_s) < 3):
            return
        self.median_step_s = median(self._steps_s)
        if not self.settled:
            self._costs_s.popleft()  # the first one also pays for what is done once
            while self.interval < LONGEST and self._is_dear(self.median_step_s):
                self.interval *= 2
            self.settled = True

    @property
    def is_used(self) -> bool:
        """Whether it was ever acted on."""
        return bool(self._costs_s) or self.settled

    def widen(self, step_s: float) -> None:
        """Twice the interval, where this costs more than its share of steps that take `step_s` now.

        A fixed one stays.
        """
        if self.fixed is None and self.settled and self.interval < LONGEST and self._is_dear(step_s):
            self.interval *= 2

    def _is_dear(self, step_s: float) -> bool:
        return bool(self._costs_s) and median(self._costs_s) > self._share * step_s * self.interval
