"""How often the objects of the process may be gone through, which takes 40 ms and more each time."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain, compress, repeat
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

    No other thread runs meanwhile, and when one does nothing is held but what was found: the collector also knows
    tuples that are being built, and `tuple()` of an iterator raises SystemError where anybody else holds its own.
    """
    generations = (None,) if everywhere else (0, 1)
    wanted = frozenset(map(id, _with_subclasses(kinds if isinstance(kinds, tuple) else (kinds,))))
    # Another thread may run between two lines, and at each turn of a loop. So nothing happens before the last line,
    # which is one call into C. It takes each list from `lists` twice: for the objects, and for what is known of them.
    lists = chain.from_iterable(map(repeat, map(gc.get_objects, generations), repeat(2)))
    types = map(partial(map, type), lists)  # not isinstance, which would run properties of theirs
    are_wanted = map(partial(map, wanted.__contains__), map(partial(map, id), types))
    return list(chain.from_iterable(map(compress, lists, are_wanted)))


def _with_subclasses(kinds: tuple[type, ...]) -> list[type]:
    found = {id(kind): kind for kind in kinds}
    for kind in kinds:
        found.update((id(each), each) for each in _with_subclasses(tuple(type.__subclasses__(kind))))
    return list(found.values())
