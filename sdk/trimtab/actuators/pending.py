"""Whether a graph is waiting for its backward that needs tensors as they are.

Weights that change under such a graph end the user's run (`modified by an inplace operation`). No counter tells that
one exists, so every tensor of the process that has a graph is followed: a node whose saved tensors can all be had, one
of which shares memory with a tensor that is about to be written, is pending. Of a graph that is kept after its
backward, or whose tensors were changed since, some are gone: a backward that comes to such a node can only fail, and
comes to what lies beneath it only by other ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

LIMIT_NODES = 200_000  # a larger graph is taken to be pending

_SAYS_GONE = ("modified by an inplace operation", "backward through the graph a second time")
_GONE = object()  # what a node saved and cannot get back: freed by its backward, or written to since
_SAVED: dict[type, tuple[str, ...]] = {}  # the names under which a kind of node keeps what it saved
_grad_fn: Any = vars(torch._C.TensorBase)["grad_fn"].__get__  # the property's own: subclasses may have another


def is_pending(tensors: Iterable[Tensor], objects: Iterable[object]) -> bool:
    """Whether a backward that may still come needs the values of one of `tensors`.

    What hooks of the user's have packed (offloaded, checkpointed) is not unpacked, since that may compute it anew:
    such a graph counts as pending until it has run. Cost: a pass over `objects`, and 2 us a node. Only graphs that one
    of `objects` holds are seen.
    """
    storages = {_storage(tensor) for tensor in tensors} - {0}
    packed = reached = False
    stack, seen = _roots(objects), {None}
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        reached = reached or (leaf is not None and _storage(leaf) in storages)
        saved = list(_saved_by(node))
        if any(each is _GONE for each in saved):
            continue
        packed = packed or any(each is None for each in saved)
        if any(_storage(each) in storages for each in saved):
            return True
        if (packed and reached) or len(seen) > LIMIT_NODES:
            return True
        stack += [parent for parent, _ in node.next_functions]
    return False


def _roots(objects: Iterable[object]) -> list[Any]:
    """The node of every tensor among `objects`, None where it has none."""
    with torch._C.DisableTorchFunction():
        return [_node_of(thing) for thing in objects if issubclass(type(thing), Tensor)]


def _node_of(tensor: Any) -> Any:
    try:
        return _grad_fn(tensor)
    except RuntimeError:  # a view made without grad of what was written to with grad: none that torch lets anybody use
        return None


def _saved_by(node: Any) -> Iterator[Any]:
    """What `node` saved: tensors, None for one that hooks have packed, `_GONE` for one that cannot be had."""
    names = _SAVED.get(type(node))
    if names is None:
        names = _SAVED[type(node)] = tuple(name for name in dir(node) if name.startswith("_raw_saved"))
    for name in names:
        try:
            saved = getattr(node, name)
        except RuntimeError:  # freed by its backward
            yield _GONE
            continue
        for each in saved if isinstance(saved, tuple | list) else (saved,):
            if each is None:
                continue
            if each.unpack_hook is None:
                yield from _unpacked(node, name, each)
            elif each.data is not None:
                yield None


def _unpacked(node: Any, name: str, saved: Any) -> Iterator[Any]:
    """Nothing where there was nothing to save, nor for the node's own result, which only its backward can unpack."""
    try:
        tensor = saved.unpack() if hasattr(saved, "unpack") else _unpacked_by(node, name, saved)
    except RuntimeError as error:
        if any(words in str(error) for words in _SAYS_GONE):
            yield _GONE
        return
    if tensor is not None:
        yield tensor


def _unpacked_by(node: Any, name: str, saved: Any) -> Tensor | None:
    """Before PyTorch 2.12 a node alone can, and of several under one name does not say which were written to."""
    own = getattr(node, name.removeprefix("_raw"), None)
    return own if isinstance(own, Tensor) else saved.data


def _storage(tensor: Tensor | None) -> int:
    """The identity of its memory; 0 where it has none of its own to be written to."""
    if tensor is None or tensor.layout is not torch.strided:
        return 0
    try:
        return int(tensor.untyped_storage()._cdata)  # also for the fake tensors that a compiler keeps
    except RuntimeError:  # those of `torch.func` have none
        return 0
