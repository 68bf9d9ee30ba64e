"""The dropout of the models that an optimizer trains."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from trimtab.actions import Refused


class Dropout:
    """Every dropout of some models: modules of dropout, attention, and recurrent nets of more than one layer.

    A model that was compiled is compiled once more, since its graph holds the ratio.
    """

    def __init__(self) -> None:
        self.ratio: float | None = None  # that was set
        self.lower = False  # also where there was more
        self._own: list[tuple[weakref.ref[nn.Module], str, Any, float]] = []  # module, attribute, the user's, ours

    def set(self, models: Sequence[nn.Module], ratio: float, *, lower: bool = False) -> list[float]:
        """Raise every one to `ratio`, with `lower` set it; return what there was where it changes, each value once.

        Raises `Refused` where nothing would change.
        """
        every = list(_dropouts(models))
        if not every:
            raise Refused("The model has no dropout module whose ratio could be set.")
        found = [(m, name) for m, name in every if getattr(m, name) < ratio or (lower and getattr(m, name) > ratio)]
        if not found:
            raise Refused(f"Every dropout has the ratio {ratio:g} already{'' if lower else ', or more'}.")
        before = sorted({float(getattr(module, name)) for module, name in found})
        users = {(id(module()), name): own for module, name, own, _ in self._own}
        left = [own for own in self._own if all(own[0]() is not module for module, _ in found)]
        self._own = left + [
            (weakref.ref(module), name, users.get((id(module), name), getattr(module, name)), ratio)
            for module, name in found
        ]
        for module, name in found:
            setattr(module, name, ratio)
        self.ratio, self.lower = ratio, lower
        return before

    def put_back(self) -> None:
        """Put the user's ratios back, where ours still are."""
        for reference, name, own, ratio in self._own:
            module = reference()
            if module is not None and getattr(module, name) == ratio:
                setattr(module, name, own)
        self._own = []


def ratio_of(models: Sequence[nn.Module]) -> float | None:
    """The largest ratio of any dropout; None where there is no dropout at all. For export."""
    return max((float(getattr(module, name)) for module, name in _dropouts(models)), default=None)


def _dropouts(models: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
    seen: set[int] = set()
    for model in models:
        for module in model.modules():
            if id(module) not in seen:
                seen.add(id(module))
                if isinstance(module, _DropoutNd):
                    yield module, "p"
                elif isinstance(module, nn.MultiheadAttention) or (
                    isinstance(module, nn.RNNBase) and module.num_layers > 1
                ):
                    yield module, "dropout"
