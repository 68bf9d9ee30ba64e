"""The worst level of every rule over the last minute: what a server sees, however seldom it scrapes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping

from trimtab.catalog import LEVEL_WINDOW_S

BUCKETS = 12


class TrailingWorst:
    """Maxima in `BUCKETS` parts of the window, so that a minute of fast records costs twelve small dictionaries.

    A part goes as a whole, when its beginning is that long ago: a level is remembered for 55 to 60 s.

    After a fence every level is 0 for as long as the window: what was seen before is no evidence any more, and an alert
    that a server raised on it ends. `now` is in seconds, and only differences matter.
    """

    def __init__(self, rules: Iterable[str]) -> None:
        self._none = dict.fromkeys(rules, 0.0)
        self._buckets: deque[tuple[float, dict[str, float]]] = deque()  # when it began, and what is in it
        self._withheld_until = -math.inf

    def add(self, now: float, levels: Mapping[str, float]) -> None:
        """Take the worst levels since the last call."""
        if not levels:
            return
        if not self._buckets or now - self._buckets[-1][0] >= LEVEL_WINDOW_S / BUCKETS:
            self._buckets.append((now, {}))
        worst = self._buckets[-1][1]
        for rule, level in levels.items():
            if level > worst.get(rule, 0.0):
                worst[rule] = level

    def fence(self, now: float) -> None:
        """Something changed the run: forget, and withhold."""
        self.forget()
        self._withheld_until = now + LEVEL_WINDOW_S

    def forget(self) -> None:
        """What was seen so far is not about what follows."""
        self._buckets.clear()

    def worst(self, now: float) -> dict[str, float]:
        """Every rule's worst level within the window."""
        while self._buckets and now - self._buckets[0][0] > LEVEL_WINDOW_S:
            self._buckets.popleft()
        levels = dict(self._none)
        if now >= self._withheld_until:
            for _, worst in self._buckets:
                for rule, level in worst.items():
                    levels[rule] = max(levels.get(rule, 0.0), level)
        return levels
