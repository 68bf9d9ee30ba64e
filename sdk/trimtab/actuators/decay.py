"""Weight decay: a factor around the user's own value, and a beginning where that is 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trimtab.actions import Refused
from trimtab.actuators.scales import at_bound, bounded


class Decay:
    """What stands in for the weight decay of each group.

    A decay over 0 is multiplied. Where every group's is 0, torch's default for most optimizers, one value stands in for
    all. A group of 0 beside others over 0 (biases, norms) was exempted by the user, and stays at 0.
    """

    def __init__(self) -> None:
        self.scale = 1.0
        self.from_zero = 0.0
        self._floor = 0.0
        self._ceiling = math.inf

    @property
    def changes(self) -> bool:
        """Whether it is not the user's own."""
        return self.scale != 1.0 or self.from_zero != 0.0

    def of(self, decays: Sequence[float]) -> list[float]:
        """What an update uses, for the user's own decay of each group."""
        if not any(decays):
            return [self.from_zero] * len(decays)
        return [self._scaled(decay) for decay in decays]

    def multiply(self, factor: float, decays: Sequence[float], *, floor: float, ceiling: float) -> None:
        """Raises `Refused` where the bounds leave no room."""
        largest = max(decays)
        before = largest * self.scale if largest else self.from_zero
        after = bounded(before, factor, floor, ceiling)
        if after == before == 0:
            hint = "" if factor <= 1 or floor else " Give a floor over 0 (--weight-decay-floor), where it begins."
            raise Refused(f"The weight decay is 0, and {factor:g} times 0 is 0.{hint}")
        if after == before:
            raise Refused(f"The weight decay is {before:g} already{at_bound(factor, floor, ceiling)}.")
        if largest:
            self.scale = self.scale * factor if after == before * factor else after / largest
        else:
            self.from_zero = after
        self._floor, self._ceiling = floor, ceiling

    def state(self) -> dict[str, float | None]:
        """What `load` takes. JSON knows no infinity: None stands for a ceiling that is none."""
        ceiling = None if math.isinf(self._ceiling) else self._ceiling
        return {"scale": self.scale, "from_zero": self.from_zero, "floor": self._floor, "ceiling": ceiling}

    def load(self, state: Mapping[str, float | None]) -> None:
        """Go on where the run of `state` was. Raises ValueError or TypeError for what `state` does not say."""
        ceiling = math.inf if (bound := state["ceiling"]) is None else bound
        scale, from_zero, floor = (float(state[name] or 0.0) for name in ("scale", "from_zero", "floor"))
        if not (0 <= scale < math.inf and 0 <= from_zero < math.inf and 0 <= floor < math.inf and ceiling >= 0):
            raise ValueError(f"{state}: this is no scale of a weight decay")
        self.scale, self.from_zero, self._floor, self._ceiling = scale, from_zero, floor, ceiling

    def _scaled(self, decay: float) -> float:
        return bounded(decay, self.scale, self._floor, self._ceiling) if decay and self.scale != 1.0 else decay
