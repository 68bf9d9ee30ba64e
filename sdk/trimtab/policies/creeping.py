"""A lowered learning rate creeps back: slowly, in small steps, and not to where it fell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from trimtab.actions import Change, Controls, Stage
from trimtab.policies.policy import CREEP_BACK

PATIENCE = 500  # healthy steps before it begins
SPACING = 50  # ... between two increments
INCREMENT = 0.05  # of the scale that it goes back to
STEEPEST = 0.25  # ... but never by more than this share of the scale itself
RETRY = 5_000  # healthy steps at the ceiling after which the ceiling itself is lifted

_CLOSE = 1 - 1e-9  # factors multiplied over and over miss their goal by some bits


@dataclass(frozen=True, slots=True)
class CreepBack:
    """Multiply the learning rate by `factor`, a little over 1, on the way back to `ceiling`."""

    name: ClassVar[str] = CREEP_BACK
    stage: ClassVar[Stage] = "after_step"
    factor: float
    ceiling: float = 1.0  # of the scale

    def apply(self, controls: Controls) -> Change:
        return controls.scale_learning_rate(self.factor, ceiling=self.ceiling)


@dataclass(slots=True)
class Creeping:
    """The scale of one optimizer's learning rate, as far as policies lowered it.

    Additive increase, multiplicative decrease, as in TCP (Chiu and Jain 1989): after `PATIENCE` healthy steps the scale
    grows by `INCREMENT` every `SPACING` steps. After a fall from a to b it grows to the geometric mean of both at most,
    and only `RETRY` healthy steps there lift that ceiling, half of the way (in logarithms) to where it fell.
    """

    scale: float = 1.0
    home: float = 1.0  # where it belongs: 1, or what a person chose
    ceiling: float = math.inf  # how far up is safe
    fell_at: float = math.inf  # the lowest scale that was found too high
    healthy: int = 0  # steps since the last trouble
    _moved: int = 0  # the value of `healthy` when the last increment was due, or the ceiling was lifted

    def fell(self, scale: float) -> None:
        """A policy lowered the scale to `scale`."""
        self.fell_at = min(self.fell_at, self.scale)
        self.ceiling = min(self.ceiling, math.sqrt(self.scale * scale))
        self.scale = scale
        self.trouble()

    def raised(self, scale: float) -> None:
        """A policy raised it, or it crept."""
        self.scale = scale

    def chosen(self, scale: float) -> None:
        """A person chose this scale: from now on it is where the scale belongs."""
        self.scale = self.home = scale
        self.ceiling = self.fell_at = math.inf
        self.trouble()

    def trouble(self) -> None:
        """A rule fired: health is counted from here on."""
        self.healthy = self._moved = 0

    def allows(self, scale: float) -> bool:
        """Whether a scale is lower than any at which this run got into trouble."""
        return scale < self.fell_at

    def healthy_steps(self, steps: int) -> float | None:
        """So many more steps without trouble. Returns the scale to go to, or None to stay.

        An increment that is not carried out is due again `SPACING` steps later.
        """
        self.healthy += steps
        if self.scale >= self.home * _CLOSE or self.healthy < PATIENCE:
            return None
        target = min(self.home, self.ceiling)
        if self.scale < target * _CLOSE:
            if self._moved and self.healthy - self._moved < SPACING:
                return None
            self._moved = self.healthy
            return min(target, self.scale + min(INCREMENT * self.home, STEEPEST * self.scale))
        if self.healthy - self._moved >= RETRY:
            self._moved = self.healthy
            self.ceiling = math.sqrt(self.ceiling * self.fell_at)
        return None

    def state(self) -> dict[str, float | None]:
        """For `restore`; None stands for infinite, which JSON lacks."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}

    @classmethod
    def restore(cls, state: Mapping[str, Any]) -> Creeping:
        """Raises ValueError, TypeError or OverflowError for what `state` does not say."""
        values: dict[str, Any] = {name: math.inf if value is None else value for name, value in state.items()}
        if not all(value >= 0 and float(value) >= 0 for value in values.values()):
            raise ValueError(f"{values}: expected numbers, 0 or more")
        return cls(**values)
