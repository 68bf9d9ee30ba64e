"""Whether a graph is waiting for its backward that needs tensors as they are.

Weights that change under such a graph end the user's run (`modified by an inplace operation`). No counter tells that
one exists, so every tensor of the process that has a graph is followed: a node whose saved tensors can still be had,
one of which shares memory with a tensor that is about to be written, is pending. A graph that is kept after its
backward, or whose tensors were changed since, gives none any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

LIMIT_NODES = 200_000  # a larger graph is taken to be pending

_SAVED: dict[type, tuple[str, ...]] = {}  # the names under which a kind of node keeps what it saved
_grad_fn: Any = vars(torch._C.TensorBase)["grad_fn"].__get__  # the property's own: subclasses may have another


def is_pending(tensors: Iterable[Tensor], objects: Iterable[object]) -> bool:
    """Whether a backward that may still come needs the values of one of `tensors`.

    What hooks of the user's have packed (offloaded, checkpointed) is not unpacked, since that may compute it anew:
    such a graph counts as pending until it has run. Cost: a pass over `objects`, and 2 us a node. Only graphs that one
    of `objects`, those of `gc.get_objects()`, holds are seen.
    """
    storages = {_storage(tensor) for tensor in tensors} - {0}
    packed = reached = False
    for nodes, node in enumerate(_nodes(objects)):
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            reached = reached or _storage(leaf) in storages
        for saved in _saved_by(node):
            if saved.unpack_hook is not None:
                packed = packed or saved.data is not None
            elif _storage(_unpacked(saved)) in storages:
                return True
        if (packed and reached) or nodes > LIMIT_NODES:
            return True
    return False


def _nodes(objects: Iterable[object]) -> Iterator[Any]:
    """Every node of every graph that a tensor among `objects` holds."""
    with torch._C.DisableTorchFunction():
        stack = [_grad_fn(thing) for thing in objects if issubclass(type(thing), Tensor)]
    seen: set[Any] = {None}
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            yield node
            stack.extend(parent for parent, _ in node.next_functions)


def _saved_by(node: Any) -> Iterator[Any]:
    """What `node` saved and has not freed, not unpacked yet."""
    names = _SAVED.get(type(node))
    if names is None:
        names = _SAVED[type(node)] = tuple(name for name in dir(node) if name.startswith("_raw_saved"))
    for name in names:
        try:
            saved = getattr(node, name)
        except RuntimeError:  # freed by its backward
            continue
        yield from (each for each in (saved if isinstance(saved, tuple | list) else (saved,)) if each is not None)


def _unpacked(saved: Any) -> Tensor | None:
    try:
        tensor: Tensor | None = saved.unpack()
    except RuntimeError:  # freed, or written to since: its backward can only fail
        return None
    return tensor


def _storage(tensor: Tensor | None) -> int:
    """The identity of its memory; 0 where it has none of its own to be written to."""
    if tensor is None or tensor.layout is not torch.strided:
        return 0
    try:
        return int(tensor.untyped_storage()._cdata)  # also for the fake tensors that a compiler keeps
    except RuntimeError:  # those of `torch.func` have none
        return 0
