"""How often the objects of the process may be gone through, which takes 40 ms and more each time."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
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

    @contextlib.contextmanager
    def one(self) -> Iterator[bool]:
        """Around one of them: whether it may look everywhere, or at those alone that came to be a short while ago."""
        started = time.perf_counter()
        try:
            yield self._made < FIRST or self._spent_s < FREE_S + SHARE * (started - self._began_at)
        finally:
            self._made += 1
            self._spent_s += time.perf_counter() - started


def living(kinds: type | tuple[type, ...], *, everywhere: bool = True) -> list[Any]:
    """The objects of these classes that the garbage collector knows.

    Of those alone that are new to it, and have outlived no more than one of its rounds, where it is not to be done
    `everywhere`: 1 ms.
    """
    # Two lists, since one that is built of both would hold itself, being an object too: a cycle that keeps all of them.
    found = (gc.get_objects(),) if everywhere else (gc.get_objects(0), gc.get_objects(1))
    # Not by isinstance, which would run properties of theirs.
    return [each for some in found for each in some if issubclass(type(each), kinds)]
