"""The one place that catches `Exception`: no fault of ours reaches the training.

A caught fault is counted by place and told once. Tests set `reraise` so that nothing hides behind the guard.
"""

from __future__ import annotations

import functools
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from trimtab.sample.meter import Meter

P = ParamSpec("P")
R = TypeVar("R")

reraise = False


def in_words(error: BaseException) -> str:
    """`OSError: disk full`. An error that fails where it is asked for its text does not fail here."""
    return f"{type(error).__name__}: {text_of(error, otherwise='it has no text')}"


def text_of(value: object, otherwise: str = "", by: Callable[[object], str] = str) -> str:
    """`str(value)`, or what `by` makes of it; where that fails, `otherwise`, or the type's name in angle brackets."""
    texts: list[str] = []
    Guard.attempt(lambda: texts.append(by(value)))
    return texts[0] if texts else otherwise or f"<{type(value).__name__}>"


class Guard:
    """Counts faults by place. `on_first(place, text)` is called at the first fault of each place."""

    def __init__(self, on_first: Callable[[str, str], None]) -> None:
        self.faults: Counter[str] = Counter()
        self._on_first = on_first

    def wrap(self, place: str, function: Callable[P, R]) -> Callable[P, R | None]:
        """The same function, which returns None instead of raising."""

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                self._caught(place, error)
                return None

        return guarded

    def wrap_hook(self, place: str, function: Callable[..., R], meter: Meter) -> Callable[..., R | None]:
        """The same for a hook of two or three arguments on the path of every step, timed when the meter asks."""
        clock, caught = time.perf_counter, self._caught

        def hook(a: Any, b: Any, *c: Any) -> R | None:
            try:
                if not meter.timing:
                    return function(a, b, *c)
                started = clock()
                try:
                    return function(a, b, *c)
                finally:
                    meter.hook(started)
            except Exception as error:
                caught(place, error)
                return None

        return hook

    def caught_by(self, undo: Callable[[], object]) -> Callable[[str, Exception], None]:
        """For a hook that cannot afford a call around itself: what to do with what it caught. Calls `undo` first."""

        def fault(place: str, error: Exception) -> None:
            self.attempt(undo)
            self._caught(place, error)

        return fault

    def heard_of(self, place: str, function: Callable[P, R], consequence: str) -> Callable[P, R]:
        """The same function of the user's: what it raises is counted and told, and goes through."""

        @functools.wraps(function)
        def heard(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                self._count(place, error, consequence)
                raise

        return heard

    @staticmethod
    def attempt(function: Callable[[], object]) -> Exception | None:
        """Call `function`, and return what it raised instead of raising it. For a caller that decides."""
        try:
            function()
        except Exception as error:
            return error
        return None

    def _caught(self, place: str, error: Exception) -> None:
        if reraise:
            self.faults[place] += 1
            raise error
        self._count(place, error)

    def _count(self, place: str, error: Exception, consequence: str = "") -> None:
        self.faults[place] += 1
        if self.faults[place] == 1:
            origin = traceback.extract_tb(error.__traceback__)
            where = f" ({origin[-1].filename}:{origin[-1].lineno})" if origin else ""
            text = f"{place}: {in_words(error)}{where}"
            self._on_first(place, f"{text}. {consequence}" if consequence else text)
