"""Writing saved values back in place: into tensors and containers that are there, or else into new ones."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trimtab.actuators.layout import Buffer, Indexed, Keyed, State
from trimtab.actuators.parts import PLAIN, owned_by

OVERLAPS = 1  # what torch says of a tensor several elements of which share memory


class Restoring:
    """Gathers what goes where, so that it is written in one call."""

    def __init__(self, copies: Sequence[Tensor], devices: Sequence[torch.device]) -> None:
        self._copies = copies
        self._devices = devices
        self._written: dict[int, int] = {}  # the index of what was written into a tensor, by its id
        self._fresh: dict[int, Tensor] = {}
        self._living: list[Tensor] = []
        self._saved: list[Tensor] = []

    def write(self, living: Tensor, index: int) -> None:
        """Into `living`, once."""
        if id(living) not in self._written:
            self._written[id(living)] = index
            if living.layout is torch.strided:
                self._living.append(living)
                self._saved.append(self._copies[index])
            else:
                living.copy_(self._copies[index])

    def tensor(self, living: Any, index: int) -> Tensor:
        """`living`, to be written to, or a new tensor where it is not of the saved kind, or is part of a graph.

        Also a new one where `living` holds another saved tensor by now. One that was shared is shared again.
        """
        if _is_writable(living, self._copies[index]) and self._written.get(id(living), index) == index:
            self.write(living, index)
            return living  # type: ignore[no-any-return]
        if index not in self._fresh:
            self._fresh[index] = self._copies[index].to(self._devices[index], copy=True)
        return self._fresh[index]

    def value(self, living: Any, saved: Any) -> Any:
        """What is to stand where `living` stands: itself, where it can be changed in place."""
        if type(saved) is Indexed:
            return self.tensor(living, saved.index)
        if type(saved) is Keyed:
            return self.keyed(living if isinstance(living, dict) else {}, saved)
        if type(saved) is dict:
            return self._mapping(living if isinstance(living, dict) else {}, saved)
        if type(saved) is list:
            kept = living if type(living) is list else []
            kept[:] = [self.value(None, item) for item in saved]
            return kept
        if type(saved) is tuple:
            return tuple(self.value(None, item) for item in saved)
        return saved if type(saved) in PLAIN else copy.deepcopy(saved)

    def _mapping(self, living: dict[Any, Any], saved: dict[Any, Any]) -> dict[Any, Any]:
        for key in living.keys() - saved.keys():
            del living[key]
        for key, item in saved.items():
            living[key] = self.value(living.get(key), item)
        return living

    def keyed(self, living: dict[Any, Any], saved: Keyed) -> dict[Any, Any]:
        """Entries that were not there are deleted; those whose tensor is gone are let go."""
        keys = [key() if isinstance(key, weakref.ref) else key for key, _ in saved.entries]
        for key in set(living) - {key for key in keys if key is not None}:
            del living[key]
        for key, (_, value) in zip(keys, saved.entries, strict=True):
            if key is not None:
                living[key] = self.value(living.get(key), value)
        return living

    def finish(self) -> None:
        """Write."""
        if self._living:
            torch._foreach_copy_(self._living, self._saved, non_blocking=True)


def put_buffer(buffer: Buffer, restoring: Restoring) -> None:
    """Into the module's present tensor where it can be written to, or else in its place."""
    module = buffer.module()
    if module is None or buffer.name not in module._buffers:
        return
    place = module._buffers
    place[buffer.name] = None if buffer.index is None else restoring.tensor(place[buffer.name], buffer.index)


def put_state(saved: State, optimizer: Optimizer, restoring: Restoring) -> None:
    """Entries that were not there are deleted, and the gradients that were to be applied with them dropped."""
    if saved.entries is not None:
        restoring.keyed(optimizer.state, saved.entries)
    for name, value in saved.attributes.items():
        vars(optimizer)[name] = restoring.value(vars(optimizer).get(name), value)
    for group, kept in zip(optimizer.param_groups, saved.groups, strict=False):
        for name, value in kept.items():
            group[name] = restoring.value(group.get(name), value)
    for parameter in owned_by(optimizer):
        parameter.grad = None


def alike(living: Tensor, saved: Tensor) -> bool:
    """Whether `saved` can be written into `living`."""
    return living.shape == saved.shape and living.dtype == saved.dtype and living.layout == saved.layout


def has_own_memory(living: Tensor) -> bool:
    """Whether each element can be written to by itself: it is no lazy view (`conj`, `expand`), nor torch's own zero."""
    if living.is_conj() or living.is_neg() or living._is_zerotensor():
        return False
    return living.layout is not torch.strided or torch._debug_has_internal_overlap(living) != OVERLAPS


def _is_writable(living: Any, saved: Tensor) -> bool:
    return (
        isinstance(living, Tensor)
        and alike(living, saved)
        and living.is_leaf
        and not living.is_inference()
        and has_own_memory(living)
    )
