"""Where every saved tensor belongs: which parameter, which buffer, which entry of which optimizer's state.

A layout holds nothing of the user's but weak references. Tensors stand in it by index, so that their copies may lie in
memory or in a file.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from trimtab.actions import Refused
from trimtab.actuators.parts import (
    PLAIN,
    Parts,
    all_optimizers,
    attributes_of,
    buffers_of,
    modules_of,
    parameters_of,
    state_in,
)

COPIED = (torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


@dataclass(frozen=True, slots=True)
class Indexed:
    """Stands in a saved structure for the tensor of this index."""

    index: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """A buffer is looked up anew when it is restored: a module may have put another tensor in its place."""

    module: weakref.ref[nn.Module]
    name: str
    index: int | None  # None: it was None

    def living(self) -> Tensor | None:
        """The module's tensor of that name, as it is now."""
        module = self.module()
        return None if module is None else module._buffers.get(self.name)


@dataclass(frozen=True, slots=True)
class Keyed:
    """Stands in a saved structure for a dictionary with a tensor, a parameter mostly, for a key."""

    entries: list[tuple[weakref.ref[Tensor] | Any, Any]]


@dataclass(frozen=True, slots=True)
class State:
    """What an optimizer keeps: in `state`, in its groups, and in attributes of its own."""

    optimizer: weakref.ref[Optimizer]
    entries: Keyed | None  # None where they are another's too, which has them
    groups: list[dict[str, Any]]
    attributes: dict[str, Any]


@dataclass(slots=True)
class Layout:
    """Of one picture. `tensors` are the living ones, until they are copied; `names` tell them apart in a file."""

    parameters: list[tuple[weakref.ref[Tensor], int]] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    scalers: list[tuple[weakref.ref[GradScaler], Any]] = field(default_factory=list)
    places: dict[Any, weakref.ref[Any]] = field(default_factory=dict)  # what is covered, by id, and whose it is
    tensors: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    indices: dict[int, int] = field(default_factory=dict)  # of the living ones, by id: one that is shared is held once

    def covers(self) -> set[Any]:
        """The places of what is still there: another thing may have the id of what is gone."""
        return {place for place, owner in self.places.items() if owner() is not None}

    def __bool__(self) -> bool:
        return bool(self.parameters or self.buffers or self.states or self.scalers)


def lay_out(parts: Parts, known: Collection[Any] = ()) -> Layout:
    """The layout of `parts`, without the places in `known`. 1 to 2 us a tensor; nothing is copied yet.

    Raises:
        Refused: there is something that cannot be copied.
    """
    layout = Layout()
    for name, parameter in parameters_of(parts):
        if _is_new(layout, known, id(parameter), parameter):
            layout.parameters.append((weakref.ref(parameter), _place(layout, name, parameter).index))
    layout.places |= {("module", id(module)): weakref.ref(module) for _, module in modules_of(parts)}
    for name, module, own_name, buffer in buffers_of(parts):
        if _is_new(layout, known, (id(module), own_name), module):
            index = None if buffer is None else _place(layout, name, buffer).index
            layout.buffers.append(Buffer(weakref.ref(module), own_name, index))
    for label, optimizer in all_optimizers(parts):
        if _is_new(layout, known, id(optimizer), optimizer):
            layout.states.append(_state(layout, known, label, optimizer))
    for index, scaler in enumerate(parts.scalers):
        if _is_new(layout, known, id(scaler), scaler):
            held = _pack(layout, f"scaler.{index}", {"scale": scaler._scale, "growth_tracker": scaler._growth_tracker})
            layout.scalers.append((weakref.ref(scaler), held))
    return layout


def _is_new(layout: Layout, known: Collection[Any], place: Any, owner: Any) -> bool:
    if place in known or place in layout.places:
        return False
    layout.places[place] = weakref.ref(owner)
    return True


def _place(layout: Layout, name: str, tensor: Tensor) -> Indexed:
    if tensor.layout not in COPIED or tensor.is_nested:
        kind = "nested tensor" if tensor.is_nested else f"tensor of layout {tensor.layout}"
        raise Refused(f"{name} is a {kind}: snapshots of these are not made.")
    if id(tensor) not in layout.indices:
        layout.indices[id(tensor)] = len(layout.tensors)
        layout.tensors.append(tensor)
        layout.names.append(name)
    return Indexed(layout.indices[id(tensor)])


def _state(layout: Layout, known: Collection[Any], label: str, optimizer: Optimizer) -> State:
    """One that wraps another often shares its state and its groups, which are saved once."""
    groups = [
        _pack(layout, f"group.{label}.{index}", state_in(group, optimizer))
        if _is_new(layout, known, ("group", id(group)), optimizer)
        else {}
        for index, group in enumerate(optimizer.param_groups)
    ]
    attributes = {name: _pack(layout, f"{label}.{name}", value) for name, value in attributes_of(optimizer).items()}
    is_own = _is_new(layout, known, ("state", id(optimizer.state)), optimizer)
    entries = _keyed(layout, f"state.{label}", optimizer.state) if is_own else None
    return State(weakref.ref(optimizer), entries, groups, attributes)


def _keyed(layout: Layout, name: str, mapping: Mapping[Any, Any]) -> Keyed:
    return Keyed(
        [
            (weakref.ref(key) if isinstance(key, Tensor) else key, _pack(layout, f"{name}.{index}", value))
            for index, (key, value) in enumerate(mapping.items())
        ]
    )


def _pack(layout: Layout, name: str, value: Any) -> Any:
    """`value` with every tensor replaced by its place. What is neither tensor, container nor number is copied whole."""
    if isinstance(value, Tensor):
        return _place(layout, name, value)
    if isinstance(value, dict):
        if any(isinstance(key, Tensor) for key in value):
            return _keyed(layout, name, value)
        return {key: _pack(layout, f"{name}.{key}", item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_pack(layout, f"{name}.{index}", item) for index, item in enumerate(value))
    if type(value) in PLAIN:
        return value
    try:
        return copy.deepcopy(value)
    except (TypeError, RuntimeError) as error:
        raise Refused(f"{name} is a {type(value).__name__} that cannot be copied: {error}") from error
