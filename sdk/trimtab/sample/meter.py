"""What Trimtab costs, as it measures itself.

Whatever is costly is timed each time. The hooks of an ordinary step are too short for that: they are timed on one step
in 64, and the others are taken to cost the same. The first steps are timed more often, and are no measure for the later
ones: in them graphs are walked, and much is done once.
"""

from __future__ import annotations

import time
from collections import deque

TIMED_EVERY = 64
WARM_UP_STEPS = 4
USUAL_FROM = 16  # steps


class Meter:
    """Seconds spent on the training thread. `timing` says whether hooks are timed on this step."""

    def __init__(self) -> None:
        self.timing = True
        self.steps = 0  # the recorder counts, and calls `turn` when `turn_at` is reached
        self.turn_at = 1
        self._costly_s = 0.0
        self._ending = False  # the timed step, when the hook that is running returns
        self._hooks_s = 0.0  # on the timed step that is under way
        self._recent_s: deque[float] = deque(maxlen=9)  # on the timed steps before it
        self._step_s = 0.0  # what the hooks of one step are taken to cost
        self._settled_s = 0.0  # hooks of the steps before `_settled_steps`
        self._settled_steps = 0

    @property
    def seconds(self) -> float:
        """Everything so far."""
        return self._costly_s + self._settled_s + (self.steps - self._settled_steps) * self._step_s

    @property
    def next_is_timed(self) -> bool:
        """Whether the hooks of the next step are timed."""
        return self.timing and not self._ending

    def add(self, seconds: float) -> None:
        """Something costly was done, inside a hook or outside. The hook around it does not count it again."""
        self._costly_s += seconds
        if self.timing:
            self._hooks_s -= seconds

    def hook(self, started: float) -> None:
        """A hook that began at `started`, by `time.perf_counter`, returns on a timed step."""
        self._hooks_s += time.perf_counter() - started
        if self._ending:
            self._end()

    def turn(self) -> None:
        """A step is over, while its last hook is still running: begin a timed one, or end it when that hook returns."""
        if self.timing:
            self._ending = True
            self.turn_at = self.steps + min(TIMED_EVERY, max(self.steps, WARM_UP_STEPS))
        else:
            self.timing = True
            self.turn_at = self.steps + 1

    def _end(self) -> None:
        self._settled_s += (self.steps - self._settled_steps) * self._step_s
        step_s = max(self._hooks_s, 0.0)
        if self._settled_steps < USUAL_FROM <= self.steps:
            self._recent_s.clear()
            step_s = min(step_s, self._step_s)  # dearer than the first ones it is only where the machine was busy
        self._settled_steps = self.steps
        self._recent_s.append(step_s)
        # One step may have met something that is done once, or may have had to wait for its turn on a core.
        self._step_s = sorted(self._recent_s)[(len(self._recent_s) - 1) // 2]
        self._hooks_s = 0.0
        self._ending = False
        self.timing = self.steps < WARM_UP_STEPS
        if self.timing:
            self.turn_at = self.steps + 1
