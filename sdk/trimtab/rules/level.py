"""How high a rule stands, and when an episode of it begins and ends."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

Edge = Literal["firing", "resolved"]


class Level:
    """The level of one rule: the least of the last `hold` points of its signal since the fence, over the threshold.

    1 is at the threshold; a point that is not finite counts as infinite; before `hold` points there is none. Its rising
    edge opens an episode. It closes once the signal has been under `clear` times the threshold for `hold`
    points in a row, so that a single low point within a long trouble neither ends it nor begins another.
    """

    __slots__ = (
        "_calm", "_count", "_lowest", "_steps", "_zeros", "clear", "episode", "firing", "hold", "idle", "level",
        "since", "threshold", "value", "worst",
    )  # fmt: skip

    def __init__(self, threshold: float, hold: int = 1, clear: float = 0.8) -> None:
        self.threshold, self.hold, self.clear = threshold, hold, clear * threshold
        self.level: float | None = None
        self.value = 0.0  # the last point
        self.worst: float | None = None  # level since `take`
        self.since = 0  # step of the first point that the level rests on
        self.firing = False
        self.episode = 0  # the number of the last one that began
        self._steps = [0] * hold
        self._lowest: deque[tuple[float, int]] = deque()  # of the window: each point that no later one is below
        self._empty()

    def _empty(self) -> None:
        self._count = self._calm = self._zeros = 0
        self._lowest.clear()
        self.idle = False  # whether another 0 would change nothing, and need not be told
        self.level = None
        self.value = 0.0

    def update(self, step: int, value: float) -> Edge | None:
        """Take a point in. Returns the edge of an episode, where this point is one."""
        if value == 0.0 and not self.firing:
            self._zeros += 1
            self.idle = self._zeros >= self.hold
        else:
            self._zeros = 0
            self.idle = False
        if value - value != 0.0:  # it is not finite
            value = math.inf
        self.value = low = value
        hold = self.hold
        if hold > 1:
            count, lowest = self._count, self._lowest
            self._steps[count % hold] = step
            self._count = count = count + 1
            while lowest and lowest[-1][0] >= value:
                lowest.pop()
            lowest.append((value, count))
            low, since = lowest[0]
            if since + hold <= count:
                lowest.popleft()
                low = lowest[0][0]
            if count < hold:
                return None
        level = self.level = low / self.threshold
        if self.worst is None or level > self.worst:
            self.worst = level
        if self.firing or level >= 1.0:
            return self._edge(step, value)
        return None

    def _edge(self, step: int, value: float) -> Edge | None:
        if not self.firing:
            self.firing = True
            self.episode += 1
            self._calm = 0
            self.since = self._steps[self._count % self.hold] if self.hold > 1 else step
            return "firing"
        self._calm = self._calm + 1 if value < self.clear else 0
        if self._calm < self.hold:
            return None
        self.firing = False
        return "resolved"

    @property
    def least(self) -> float:
        """The least of the last `hold` points, which is the level times the threshold."""
        return self._lowest[0][0] if self._lowest else self.value

    def fence(self) -> None:
        """Forget every point, and close the episode."""
        self.firing = False
        self._empty()
        self.worst = None

    def take(self) -> float | None:
        """The worst level since this was last asked; None where there was no level."""
        worst, self.worst = self.worst, None
        self.idle = False
        return worst
