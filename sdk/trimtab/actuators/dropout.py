"""The dropout of the models that an optimizer trains."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from trimtab.actions import Refused
from trimtab.actuators.updates import is_number

LOOK_EVERY_S = 30.0
NO_DROPOUT = "The model has no dropout module whose ratio could be set."


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
        found = _to_set(models, ratio, lower=lower)
        before = _ratios_of(found)
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

    def put_back(self) -> bool:
        """Put the user's ratios back, where ours still are. Whether they were anywhere."""
        left, before = [], len(self._own)
        for reference, name, own, ratio in self._own:
            module = reference()
            if module is not None and getattr(module, name) == ratio:
                setattr(module, name, own)
            else:
                left.append((reference, name, own, ratio))
        self._own = left
        return len(left) < before


def would_change(models: Sequence[nn.Module], ratio: float, *, lower: bool = False) -> list[float]:
    """What `Dropout.set` would return, or raise. Changes nothing."""
    return _ratios_of(_to_set(models, ratio, lower=lower))


def put_back(dropouts: Sequence[Dropout]) -> None:
    """Put the user's ratios back in all of them: one may have raised what another one had set."""
    while any(dropout.put_back() for dropout in dropouts):
        pass


class LargestRatio:
    """The largest ratio of any dropout, for records to show.

    The ratios are read every time, 0.2 us each; the modules that hold them are looked for every `LOOK_EVERY_S`, since
    that goes through whole models: 0.1 ms for 100 modules.
    """

    def __init__(
        self, models: Callable[[], Sequence[nn.Module]], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._models = models
        self._clock = clock
        self._looked_at = -math.inf
        self._found: list[tuple[weakref.ref[nn.Module], str]] = []

    def read(self) -> float | None:
        """None where there is no dropout at all."""
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY_S and (models := self._models()):
            self._looked_at = now
            self._found = [(weakref.ref(module), name) for module, name in _dropouts(models)]
        ratios: list[Any] = [getattr(reference(), name, None) for reference, name in self._found]
        return max(filter(is_number, ratios), default=None)


def _to_set(models: Sequence[nn.Module], ratio: float, *, lower: bool) -> list[tuple[nn.Module, str]]:
    """Those that have less, with `lower` another one. Raises `Refused` where there is none."""
    every = list(_dropouts(models))
    if not every:
        raise Refused(NO_DROPOUT)
    found = [(m, name) for m, name in every if getattr(m, name) < ratio or (lower and getattr(m, name) > ratio)]
    if not found:
        raise Refused(f"Every dropout has the ratio {ratio:g} already{'' if lower else ', or more'}.")
    return found


def _ratios_of(found: Sequence[tuple[nn.Module, str]]) -> list[float]:
    return sorted({float(getattr(module, name)) for module, name in found})


def _dropouts(models: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
    seen: set[int] = set()
    for model in models:
        for module in model.modules():
            if id(module) not in seen:
                seen.add(id(module))
                name = _attribute(module)
                if name is not None and is_number(getattr(module, name, None)):
                    yield module, name


def _attribute(module: nn.Module) -> str | None:
    """Where the module keeps its ratio, None where it has none."""
    if isinstance(module, _DropoutNd):
        return "p"
    if isinstance(module, nn.MultiheadAttention) or (isinstance(module, nn.RNNBase) and module.num_layers > 1):
        return "dropout"
    return None
