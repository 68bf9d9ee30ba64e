"""The scale of a learning rate: a factor around the schedule, which may be reached over several steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trimtab.actions import Refused

_ROUNDING = 1e-9  # factors that lead back to 1 miss it by some bits, and at 1 the run is the bare one again


class Scale:
    """A factor, 1 being the schedule's own rate. `value` is what the next update uses."""

    def __init__(self) -> None:
        self.target = 1.0
        self._start = 1.0
        self._ramp = 0  # steps from start to target
        self._done = 0  # ... of which so many are taken

    @property
    def value(self) -> float:
        """Linear from where the scale was to the target, which the last step of the ramp uses."""
        return self._after(self._done + 1)

    @property
    def is_under_way(self) -> bool:
        """Whether an update to come still moves it."""
        return self._done < self._ramp

    def multiply(self, factor: float, *, floor: float, ceiling: float, ramp: int) -> None:
        """Raises `Refused` where the bounds leave no room. What lies outside of them is not brought back by force."""
        target = bounded(self.target, factor, floor, ceiling)
        if abs(target - 1.0) < _ROUNDING:
            target = 1.0
        if target == 0 < self.target:  # from which no factor leads back
            raise Refused(f"The learning rate's scale is {self.target:g}: times {factor:g} it would be 0 for good.")
        if target == self.target:
            raise Refused(f"The learning rate's scale is {target:g} already{at_bound(factor, floor, ceiling)}.")
        self._start = self._after(self._done)
        self.target, self._ramp, self._done = target, ramp, 0

    def _after(self, steps: int) -> float:
        if steps >= self._ramp:
            return self.target
        return self._start + (self.target - self._start) * steps / self._ramp

    def advance(self) -> None:
        """An update was made."""
        if self.is_under_way:
            self._done += 1

    def state(self) -> dict[str, float]:
        """What `load` takes."""
        return {"target": self.target, "start": self._start, "ramp": self._ramp, "done": self._done}

    def load(self, state: Mapping[str, float]) -> None:
        """Go on where the run of `state` was. Raises ValueError or TypeError for what `state` does not say.

        And OverflowError for a whole number that is too large to reckon with.
        """
        target, start, ramp, done = (state[name] for name in ("target", "start", "ramp", "done"))
        if not (0 <= target < math.inf and 0 <= start < math.inf and 0 <= done <= ramp and float(ramp) < math.inf):
            raise ValueError(f"{state}: this is no scale of a learning rate")
        self.target, self._start, self._ramp, self._done = float(target), float(start), int(ramp), int(done)


def at_bound(factor: float, floor: float, ceiling: float) -> str:
    """What holds a value that a factor should have changed, for the end of a sentence."""
    if factor == 1:
        return ""
    return f", at its floor of {floor:g}" if factor < 1 else f", at its ceiling of {ceiling:g}"


def bounded(value: float, factor: float, floor: float, ceiling: float) -> float:
    """`factor` times `value`, from `floor` to `ceiling`, but never on the other side of `value`."""
    product = min(max(value * factor, floor), ceiling)
    return max(product, value) if factor >= 1 else min(product, value)
