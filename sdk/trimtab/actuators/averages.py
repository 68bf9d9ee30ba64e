"""What follows the weights, and no hook tells of.

Averaged copies of the models (`torch.optim.swa_utils.AveragedModel`) keep a NaN for ever once they took one. Optimizers
around another one that call no `super().__init__()`, as many a Lookahead, keep weights of their own. Neither is part of
a model, so they are searched among the objects of the process: when an optimizer is met, since most loops make theirs
before they train, and again before a snapshot is restored. Copies of other kinds come from the user: nothing tells an
average from a frozen teacher, or from the best copy so far, which must not be turned back.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence, Set
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from trimtab.actuators.groups import held_by
from trimtab.actuators.parts import Parts, owned_by, parameters_in
from trimtab.searches import Searches, living

T = TypeVar("T")

SOUGHT = (nn.Module, Optimizer, Tensor)  # the last for whoever looks for pending graphs
FEWEST = 2  # parameters that make it likely that a module of the same shapes is a copy


class Averages:
    """Those that were found. Holds them weakly."""

    def __init__(self) -> None:
        self._found: list[weakref.ref[AveragedModel]] = []
        self._holders: list[tuple[str, weakref.ref[Optimizer]]] = []  # with the label of the optimizer that each holds
        self._modules: list[weakref.ref[nn.Module]] = []  # every module that was met
        self._told = False  # of copies that are left behind
        self._searches = Searches()  # when an optimizer is met

    def meet(self, parts: Parts) -> None:
        """Search, no longer than is affordable: an optimizer was met."""
        with self._searches.one() as everywhere:
            self.search(parts, everywhere=everywhere)

    def search(self, parts: Parts, *, everywhere: bool = True) -> list[object]:
        """Find averaged copies of the models of `parts`, or of a part of one, and holders.

        Goes once through the objects of the process, which is what takes the time; or, where it is not to be done
        `everywhere`, through new ones and those of the searches before. Returns every module, optimizer and tensor
        among them.
        """
        found = living(SOUGHT, everywhere=everywhere)
        if not everywhere:
            held = [*_alive(self._modules), *_alive([holder for _, holder in self._holders])]
            found = list({id(each): each for each in (*held, *found)}.values())
        self._modules = [weakref.ref(cast(nn.Module, each)) for each in found if issubclass(type(each), nn.Module)]
        optimizers = (cast(Optimizer, each) for each in found if issubclass(type(each), Optimizer))
        self._holders = [(label, weakref.ref(each)) for each in optimizers for label in _held_labels(each, parts)]
        shapes = {_shapes(module) for model in parts.models.values() for module in model.modules()} - {()}
        if shapes:
            averages = (cast(AveragedModel, each) for each in found if issubclass(type(each), AveragedModel))
            self._found = [weakref.ref(average) for average in averages if _shapes(average) in shapes]
        return found

    def added_to(self, parts: Parts) -> Parts:
        """`parts`, with those that were found."""
        holders = {f"{label}.holder": holder for label, held in self._holders if (holder := held()) is not None}
        if holders:
            parts = dataclasses.replace(parts, optimizers={**parts.optimizers, **holders})
        found = [average for average in _alive(self._found) if all(average is not given for given in parts.averages)]
        return dataclasses.replace(parts, averages=[*parts.averages, *found]) if found else parts

    def begun_in(self, parts: Parts) -> Parts:
        """`parts`, with those that were found, without those that hold no average yet.

        What these hold is the model as it was when they were made, which is no state to go back to: see `begin_anew`.
        """
        parts = self.added_to(parts)
        return dataclasses.replace(parts, averages=[each for each in parts.averages if _has_begun(each)])

    def left_behind(self, parts: Parts) -> str:
        """What to tell the user, once, of modules that look like a copy of a model and are no part.

        Looks at every module that the last search found, which takes some 10 us for each.
        """
        if self._told:
            return ""
        models = [_parameters(model) for model in parts.models.values()]
        shapes = {tuple(p.shape for p in each) for each in models if len(each) >= FEWEST}
        holders = [*parts.models.values(), *self.added_to(parts).averages]
        ours = {id(p) for holder in holders for p in _parameters(holder)}
        ours |= {id(p) for optimizer in parts.optimizers.values() for p in owned_by(optimizer)}
        kinds = {type(model).__name__ for model in parts.models.values()}
        copies: dict[int, str] = {}  # the class, by the first parameter: that of the copy, or of what holds it
        for each in _alive(self._modules) if shapes else ():
            found = _parameters(each)
            if len(found) >= FEWEST and id(found[0]) not in ours and tuple(p.shape for p in found) in shapes:
                known = copies.get(id(found[0]), "")
                copies[id(found[0])] = known if known and known not in kinds else type(each).__name__
        if not copies:
            return ""
        self._told = True
        names = ", ".join(sorted(set(copies.values())))
        return (
            f"Not turned back: {len(copies)} of the same shapes as a model ({names}). If one averages its "
            "weights, name it when the run begins: run.attach(average=...)."
        )

    def begin_anew(self, covered: Set[object]) -> None:
        """Let those that a snapshot does not cover begin again: their next update copies the model.

        They are younger, or had not begun. Their weights stay as they are, for those of a run that is over are used.
        """
        for average in _alive(self._found):
            counter = _counter_of(average)
            if counter is not None and (id(average), "n_averaged") not in covered:
                with torch.no_grad():
                    counter.zero_()


def _has_begun(average: nn.Module) -> bool:
    """False where that is sure without waiting for a device."""
    counter = _counter_of(average)
    return counter is None or not counter.is_cpu or bool(counter)


def _counter_of(average: nn.Module) -> Tensor | None:
    """Of the updates, where it is one that says so."""
    counter = average._buffers.get("n_averaged") if isinstance(average, AveragedModel) else None
    return counter if isinstance(counter, Tensor) else None


def _alive(held: Sequence[weakref.ref[T]]) -> list[T]:
    return [thing for each in held if (thing := each()) is not None]


def _held_labels(optimizer: Optimizer, parts: Parts) -> list[str]:
    """Of the optimizers that are known and that `optimizer`, which is not, holds itself."""
    if any(known is optimizer for known in parts.optimizers.values()):
        return []
    held = list(held_by(optimizer))
    return [label for label, known in parts.optimizers.items() if any(each is known for each in held)]


def _parameters(module: nn.Module) -> list[Tensor]:
    return [parameter for _, parameter in parameters_in(module, "")]


def _shapes(module: nn.Module) -> tuple[torch.Size, ...]:
    return tuple(parameter.shape for parameter in module.parameters())
