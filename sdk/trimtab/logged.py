"""What the user logs: checked, counted, passed on. Bad input is told and never raises."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from trimtab.sample.scalars import Transfer, hold
from trimtab.types import Event, Metric

NAMES_EXPORTED = 50
PHASES = ("train", "validation", "test")


class Logged:
    """The values of one run."""

    def __init__(self, emit: Callable[[Event], None], say: Callable[[str, str], None], step: Callable[[], int]) -> None:
        self._emit = emit
        self._say = say
        self._step = step
        self._exported: set[tuple[str, str | None]] = set()

    def log(self, values: Mapping[str, Any], phase: str | None) -> None:
        """Publish every value that is a number."""
        if phase is not None and phase not in PHASES:
            self._say(f"log phase {phase}", f"log(phase={phase!r}): expected one of {', '.join(PHASES)}. Left out.")
            phase = None
        good = {name: number for name, value in values.items() if (number := self._number(name, value)) is not None}
        if good:
            hidden = frozenset(name for name in good if not self._exports(name, phase))
            self._emit(Metric(ts=time.time(), step=self._step(), values=good, phase=phase, unexported=hidden))

    def _number(self, name: str, value: Any) -> float | None:
        if isinstance(value, Tensor):
            if value.numel() == 1 and not value.is_complex():
                return Transfer([hold(value)]).read()[0]
            given = f"a tensor of shape {tuple(value.shape)}"
        elif isinstance(value, numbers.Real) or (hasattr(value, "__float__") and getattr(value, "size", 1) == 1):
            try:
                return float(value)
            except (TypeError, ValueError, OverflowError):
                return math.inf if isinstance(value, numbers.Real) else None
        else:
            given = f"{value!r:.80}, a {type(value).__name__}"
        self._say(
            f"log {name}", f"log({name}=...): expected a number, got {given}. Log a number, such as value.mean()."
        )
        return None

    def _exports(self, name: str, phase: str | None) -> bool:
        key = (name, phase)
        if key in self._exported or len(self._exported) < NAMES_EXPORTED:
            self._exported.add(key)
            return True
        self._say(
            "log names",
            f"log({name}=...): more than {NAMES_EXPORTED} names. This one and later ones are in the log only, "
            "not in /metrics: use a closed set of names.",
        )
        return False
