"""Leaves out one update: the optimizer runs, but what it would have changed stays as it is.

It is called as always, so that schedulers and scalers see a step; afterwards the gradients are there again, as they are
after a step that GradScaler skipped. An optimizer of torch does nothing for a parameter without a gradient. Others
count the step, decay their averages or move their slow weights all the same: they get gradients of 0, and everything
that they hold, parameters included, is copied before and put back after.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, NoneType
from typing import Any

import torch
from torch import Tensor, distributed
from torch.optim import Optimizer

from trimtab.actions import Refused
from trimtab.actuators.parts import HOOKS, owned_by

_FIXED = (
    NoneType, bool, int, float, complex, str, bytes, torch.dtype, torch.device, type, FunctionType, MethodType,
    BuiltinFunctionType, functools.partial, Enum, *([distributed.ProcessGroup] if distributed.is_available() else []),
)  # fmt: skip


def check_skippable(optimizers: Sequence[Optimizer], *, under_closure: bool) -> None:
    """Raises `Refused` where an update could not be left out without a trace.

    Under a closure the step has begun already. Optimizers evaluate it first of all, but for those that climb before
    (SAM and its kin, which hold another one or have a radius `rho`).
    """
    foreign = [optimizer for optimizer in optimizers if not is_torchs_own(optimizer)]
    for optimizer in foreign:
        kind = type(optimizer).__name__
        if under_closure and (len(optimizers) > 1 or "rho" in optimizer.defaults):
            raise Refused(f"{kind} may have changed its parameters before it called the closure.")
        if any(p.grad is not None and p.grad.requires_grad for p in owned_by(optimizer)):
            raise Refused(f"{kind} reads second derivatives: its gradients are part of a graph, and cannot be hidden.")
        unknown = Kept([optimizer], copy_tensors=False).unknown
        if unknown is not None:
            raise Refused(f"{kind} is not torch's own, and holds a {unknown}, which cannot be put back after a step.")


def is_torchs_own(optimizer: Optimizer) -> bool:
    """Whether it is one of `torch.optim`, and not a subclass with a step of its own."""
    return (type(optimizer).__module__ + ".").startswith("torch.optim.")  # Adafactor and Muon are of "torch.optim"


class Skip:
    """One update that is left out, from `hide` to `undo`."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        copies = not all(is_torchs_own(optimizer) for optimizer in optimizers)
        self._zeros = copies
        self._kept = Kept(optimizers, copy_tensors=copies)
        self._optimizers = optimizers
        self._gradients: list[tuple[Tensor, Tensor, Tensor | None]] = []  # parameter, its gradient, ours

    def hide(self) -> None:
        """Take the gradients away."""
        for parameter in _parameters(self._optimizers):
            if parameter.grad is not None:
                ours = torch.zeros_like(parameter.grad) if self._zeros else None
                self._gradients.append((parameter, parameter.grad, ours))
                parameter.grad = ours

    def show(self) -> None:
        """Give them back, where nobody has cleared or computed new ones meanwhile."""
        for parameter, gradient, ours in self._gradients:
            if parameter.grad is ours:
                parameter.grad = gradient
        self._gradients = []

    def undo(self) -> None:
        """The update is over: everything is as it was."""
        self.show()
        self._kept.restore()


class Kept:
    """What an optimizer holds: numbers, containers, and, if asked for, copies of tensors on their own device."""

    def __init__(self, optimizers: Iterable[Optimizer], *, copy_tensors: bool) -> None:
        self._dicts: list[tuple[Any, dict[Any, Any]]] = []
        self._lists: list[tuple[Any, list[Any]]] = []
        self._sets: list[tuple[set[Any], set[Any]]] = []
        self._tensors: list[tuple[Tensor, Tensor]] = []
        self._seen: set[int] = set()
        self._copy_tensors = copy_tensors
        self.unknown: str | None = None  # the type of something that is none of these
        for optimizer in optimizers:
            self._keep(optimizer, type(optimizer).__module__.partition(".")[0])

    def restore(self) -> None:
        """Put everything back, in place."""
        for mapping, items in self._dicts:
            for key in [key for key in mapping if key not in items and not _is_left(key)]:
                del mapping[key]
            mapping.update(items)
        for sequence, elements in self._lists:
            sequence.clear()
            sequence.extend(elements)
        for members, before in self._sets:
            members.clear()
            members.update(before)
        with torch.no_grad():
            for tensor, copy in self._tensors:
                tensor.copy_(copy)

    def _keep(self, root: Any, package: str) -> None:
        stack = [root]
        while stack:
            value = stack.pop()
            if id(value) in self._seen or isinstance(value, _FIXED):
                continue
            self._seen.add(id(value))
            if isinstance(value, Tensor):
                if self._copy_tensors:
                    self._tensors.append((value, value.detach().clone()))
            elif isinstance(value, dict):
                stack += self._keep_dict(value)
            elif isinstance(value, list | deque):
                self._lists.append((value, list(value)))
                stack += value
            elif isinstance(value, set):
                self._sets.append((value, set(value)))
            elif isinstance(value, tuple):
                stack += value
            elif _is_opened(value, package):
                stack += self._keep_dict(vars(value))
            else:
                self.unknown = type(value).__name__

    def _keep_dict(self, mapping: dict[Any, Any]) -> list[Any]:
        items = {key: value for key, value in mapping.items() if not _is_left(key)}
        self._dicts.append((mapping, items))
        return [*items.values(), *(key for key in items if isinstance(key, Tensor))]


def _is_opened(value: Any, package: str) -> bool:
    """Whether all that it holds is in its `__dict__`: an optimizer, or something of the same package."""
    if issubclass(type(value), Optimizer):
        return True
    return type(value).__module__.partition(".")[0] == package and hasattr(value, "__dict__")


def _is_left(key: Any) -> bool:
    return isinstance(key, str) and key.startswith(HOOKS)


def _parameters(optimizers: Sequence[Optimizer]) -> Iterable[Tensor]:
    seen: set[int] = set()
    for optimizer in optimizers:
        for parameter in owned_by(optimizer):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield parameter
