"""Gradient clipping, and unscaling: whose gradients are written to, and the norm that they had before."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from threading import get_ident
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from trimtab.capture.attribution import Attribution
from trimtab.capture.roster import Roster
from trimtab.capture.share import Share
from trimtab.capture.tracked import Tracked
from trimtab.capture.unannounced import UnseenOptimizer
from trimtab.sample.scalars import Held, has_value, hold, sum_of

REMEMBERED = 64  # parts, of each thread


class Clipping:
    """Told of whoever writes to gradients between backward and step. Not every write clears them."""

    def __init__(self, roster: Roster, attribution: Attribution, unseen: UnseenOptimizer) -> None:
        self._roster = roster
        self._attribution = attribution
        self._unseen = unseen
        self._norms = _Norms()

    @property
    def any(self) -> bool:
        """Whether this thread has clipped since its last step."""
        return self._norms.any

    def clipped(self, gradients: Any, norm_type: float, norm: Tensor) -> None:
        """`clip_grad_norm_` has found the norm of `gradients`, and is about to write to them."""
        if float(norm_type) == 2.0 and type(norm) is Tensor and has_value(norm):
            first = gradients if isinstance(gradients, Tensor) else next(iter(gradients), None)
            if first is not None:
                self._norms.add(weakref.ref(first), hold(norm), get_ident())
            if not self._roster.any_seen:
                self._unseen.clipped(hold(norm))
        for share in self._whose(gradients):
            share.clipped()

    def are_cleared(self) -> None:
        """The gradients of the only optimizer were cleared, and with them what was clipped of them for no step."""
        self._norms.forget()

    def catch_up(self, gradient: weakref.ref[Tensor], norm: Held, thread: int) -> None:
        """`clipped` was called in `thread` for gradients of which this is the first, and a step is to follow."""
        self._norms.add(gradient, norm, thread)

    def are_clipped(self) -> None:
        """`clip_grad_norm_` has written to the gradients."""
        if not self._roster.any_seen:
            self._unseen.are_clipped()

    def unscaling(self, optimizer: Optimizer) -> None:
        """The gradients of `optimizer` are about to be written to, not cleared."""
        tracked = self._roster.find(optimizer)
        for share in self._attribution.unapplied if tracked is None else [tracked.share]:
            share.clipped()

    def take(self, tracked: Tracked) -> Held | None:
        """The norm that was found when the gradients of this optimizer, which has stepped, were clipped."""
        is_only = len(self._roster) == 1 and tracked.calls > 1  # nobody else can be meant
        return self._norms.take(None if is_only else tracked.parameters)

    def _whose(self, gradients: Tensor | Sequence[Tensor]) -> list[Share]:
        """The shares whose probe these gradients may write to. Where they are nobody's, they may be copies."""
        shares = self._attribution.of_thread
        found = [share for share in shares if share.is_among(gradients)]
        if found or (len(shares) > 1 and any(t.share in shares and t.has_gradient(gradients) for t in self._roster)):
            return found
        return self._attribution.unapplied


class _Norms:
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
