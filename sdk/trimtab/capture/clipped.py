"""The norms that gradients had before they were clipped, until an optimizer steps with these."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from threading import get_ident

from torch import Tensor

from trimtab.sample.scalars import Held, sum_of

REMEMBERED = 64  # parts, of each thread


class Clipped:
    """What each thread has clipped since its last step, in one part or several. It is none of another thread's."""

    def __init__(self) -> None:
        self._parts: dict[int, list[tuple[weakref.ref[Tensor], Held]]] = {}  # the first gradient of each, and the norm

    @property
    def any(self) -> bool:
        """Whether this thread has clipped."""
        return get_ident() in self._parts

    def add(self, gradient: weakref.ref[Tensor], norm: Held, thread: int) -> None:
        """`thread` has clipped gradients of which this is the first.

        What was found of the same ones before is no part of this step's norm: they are clipped again, or another time.
        """
        parts = [part for part in self._parts.get(thread, ()) if part[0]() is not gradient()]
        self._parts[thread] = [*parts, (gradient, norm)][-REMEMBERED:]

    def forget(self) -> None:
        """What this thread has clipped was cleared."""
        self._parts.pop(get_ident(), None)

    def take(self, parameters: Sequence[Tensor] | None = None) -> Held | None:
        """The norm of all that this thread has clipped, of `parameters` alone where they are given. None if nothing."""
        own = parts = self._parts.pop(get_ident(), [])
        if parts and parameters is not None:
            own = [part for part in parts if any(p.grad is part[0]() for p in parameters if p.grad is not None)]
            if rest := [part for part in parts if all(part is not each for each in own)]:
                self._parts[get_ident()] = rest
        return _norm_of_parts([norm for _, norm in own]) if own else None


def _norm_of_parts(norms: Sequence[Held]) -> Held:
    if len(norms) == 1:
        return norms[0]
    squares = [norm * norm for norm in norms]
    return sum_of(squares) ** 0.5
