"""Averaged copies of the models (`torch.optim.swa_utils.AveragedModel`), which keep a NaN for ever once they took one.

They are no part of a model, so they are searched among the objects of the process: when an optimizer is met, since most
loops make theirs before they train, and again before a snapshot is restored. Copies of other kinds come from the user.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence, Set
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from trimtab.actuators.parts import Parts


class Averages:
    """Those that were found. Holds them weakly."""

    def __init__(self) -> None:
        self._found: list[weakref.ref[AveragedModel]] = []

    def search(self, parts: Parts, objects: Sequence[object]) -> None:
        """Find, among `objects`, every averaged copy of the models of `parts`, or of a part of one."""
        shapes = {_shapes(module) for model in parts.models.values() for module in model.modules()} - {()}
        if shapes:
            found = (cast(AveragedModel, each) for each in objects if issubclass(type(each), AveragedModel))
            self._found = [weakref.ref(average) for average in found if _shapes(average) in shapes]

    def added_to(self, parts: Parts) -> Parts:
        """`parts`, with those that were found."""
        found = [average for average in self._alive() if all(average is not given for given in parts.averages)]
        return dataclasses.replace(parts, averages=[*parts.averages, *found]) if found else parts

    def begin_anew(self, covered: Set[object]) -> None:
        """Let those that a snapshot does not cover, being younger, begin again: their next update copies the model."""
        for average in self._alive():
            counter = average._buffers.get("n_averaged")
            if isinstance(counter, Tensor) and (id(average), "n_averaged") not in covered:
                with torch.no_grad():
                    counter.zero_()

    def _alive(self) -> list[AveragedModel]:
        return [average for found in self._found if (average := found()) is not None]


def _shapes(module: nn.Module) -> tuple[torch.Size, ...]:
    return tuple(parameter.shape for parameter in module.parameters())
