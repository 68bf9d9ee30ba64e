"""Averaged copies of the models (`torch.optim.swa_utils.AveragedModel`), which keep a NaN for ever once they took one.

They are no part of a model, so they are searched among the objects of the process: when an optimizer is met, since most
loops make theirs before they train, and again when a snapshot is restored. Copies of other kinds are given by the user.
"""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Set

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from trimtab.actuators.parts import Parts


class Averages:
    """Those that were found. Holds them weakly."""

    def __init__(self) -> None:
        self._found: list[weakref.ref[AveragedModel]] = []

    def search(self, parts: Parts) -> None:
        """Find every averaged copy of the models of `parts`, or of a part of one. One scan of all objects: 40 ms."""
        shapes = {_shapes(module) for model in parts.models.values() for module in model.modules()} - {()}
        if shapes:
            self._found = [
                weakref.ref(thing)
                for thing in gc.get_objects()
                if AveragedModel in type(thing).__mro__ and _shapes(thing) in shapes
            ]

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
