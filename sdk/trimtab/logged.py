"""What the user logs: checked, counted, passed on. Bad input is told and never raises."""

from __future__ import annotations

import math
import reprlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from trimtab.guard import Guard
from trimtab.sample.scalars import Transfer, hold, is_real
from trimtab.types import Metric

NAMES_EXPORTED = 50
PHASES = ("train", "validation", "test")


class Logged:
    """The values of one run."""

    def __init__(
        self,
        emit: Callable[[Metric], None],
        say: Callable[[str, str], None],
        step: Callable[[], int],
        nonfinite: Counter[str],
    ) -> None:
        self._emit = emit
        self._say = say
        self._step = step
        self._nonfinite = nonfinite  # kind to count
        self.any = False  # whether anything was logged, or was meant to be
        self._exported: set[tuple[str, str | None]] = set()

    def log(self, values: Mapping[str, Any] | None, phase: str | None, more: Mapping[str, Any] | None = None) -> None:
        """Publish every value of both that is a number."""
        self.any = True
        if not isinstance(values, Mapping | None):
            self._say("log values", f"log({_shown(values)}): expected names and numbers. Use log(loss=0.5).")
            values = None
        values = {**(values or {}), **(more or {})}
        if phase is not None and phase not in PHASES:
            self._say("log phase", f"log(phase={phase!r}): expected one of {', '.join(PHASES)}. Left out.")
            phase = None
        checked = {str(name): self._number(str(name), value) for name, value in values.items()}
        good = {name: number for name, number in checked.items() if number is not None}
        if good:
            hidden = frozenset(name for name in good if not self._exports(name, phase))
            self._emit(Metric(ts=time.time(), step=self._step(), values=good, phase=phase, unexported=hidden))

    def _number(self, name: str, value: Any) -> float | None:
        number = _as_number(value)
        if number is None:
            self._say(
                f"log {name}",
                f"log({name}=...): expected a number, got {_described(value)}. Log a number, such as value.mean().",
            )
        elif not math.isfinite(number):
            self._nonfinite["logged"] += 1
        return number

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


def _as_number(value: Any) -> float | None:
    if isinstance(value, Tensor):
        has_number = is_real(value) and not value.is_nested and value.numel() == 1 and not value.is_complex()
        return Transfer([hold(value)]).read()[0] if has_number else None
    if isinstance(value, str | bytes):
        return None
    read: list[float] = []  # stays empty where the value has no number, or cannot be read: an array that was let go
    problem = Guard.attempt(lambda: read.append(_read(value)))
    if isinstance(problem, OverflowError):  # a whole number beyond every float
        return math.inf if value > 0 else -math.inf
    return read[0] if read else None


def _read(value: Any) -> float:
    """The number of a scalar of any library. Raises what that library raises."""
    if getattr(value, "size", 1) != 1:
        raise ValueError("more than one number, or none")
    return float(value.item() if hasattr(value, "item") else value)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        without_values = "" if is_real(value) else " without values"
        return f"a tensor of shape {'?' if value.is_nested else tuple(value.shape)}{without_values}"
    return f"{_shown(value)}, a {type(value).__name__}"


def _shown(value: Any) -> str:
    """Short, and made in a moment, however much is in it: it is asked for each time."""
    return reprlib.repr(value)[:80]
