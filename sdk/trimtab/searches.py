"""How often the objects of the process may be gone through, which takes 40 ms and more each time."""

from __future__ import annotations

import gc
import time
from typing import Any

FIRST = 4  # searches that are made whatever they take: a GAN has two optimizers
FREE_S = 1.0  # in all that may go into them; then this
SHARE = 0.005  # of the time that has passed


class Searches:
    """Those of one kind. Programs that train many models for a few steps each would search all the time."""

    def __init__(self) -> None:
        self._began_at = time.perf_counter()
        self._made = 0
        self._spent_s = 0.0

    def may_go_everywhere(self) -> bool:
        """Whether the next one may look at all objects, or at those alone that came to be a short while ago: 1 ms."""
        return self._made < FIRST or self._spent_s < FREE_S + SHARE * (time.perf_counter() - self._began_at)

    def took(self, seconds: float) -> None:
        """One was made."""
        self._made += 1
        self._spent_s += seconds


def objects(*, everywhere: bool = True) -> list[Any]:
    """All that the garbage collector knows, or what is new to it: what has outlived no more than one of its rounds."""
    return gc.get_objects() if everywhere else [*gc.get_objects(0), *gc.get_objects(1)]
