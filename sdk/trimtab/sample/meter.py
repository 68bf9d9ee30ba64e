"""What Trimtab costs, as it measures itself.

Whatever is costly is timed each time. The hooks of an ordinary step are too short for that: they are timed on one step
in 64, and the others are taken to cost the same.
"""

from __future__ import annotations

import time

TIMED_EVERY = 64


class Meter:
    """Seconds spent on the training thread. `timing` says whether hooks should time themselves on this step."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.timing = True
        self._hooks_s = 0.0
        self._step_s = 0.0
        self._steps = 0

    def add(self, seconds: float) -> None:
        """Something costly was done, inside a hook or outside. Hooks do not count it again."""
        self.seconds += seconds
        if self.timing:
            self._hooks_s -= seconds

    def hook(self, started: float) -> None:
        """A hook that began at `started` returns, on a timed step."""
        self._hooks_s += time.perf_counter() - started

    def step(self) -> None:
        """A step is over."""
        self._steps += 1
        if self.timing:
            self._step_s = max(self._hooks_s, 0.0)
            self._hooks_s = 0.0
        self.seconds += self._step_s
        self.timing = self._steps % TIMED_EVERY == 0 or self._steps < 4
