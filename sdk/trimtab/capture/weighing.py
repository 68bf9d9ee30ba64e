"""What training makes of a loss that has a value for each element (`reduction="none"`): their mean, or another figure.

Padding is masked, samples are weighted, the hardest of them are chosen. Then the mean over all elements, which is all
that can be seen of a validation, is not what the loop takes for its loss. The graph above the loss function tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from trimtab.sample.criteria import NONE

WEIGHED = (
    "Training masks or weighs what {loss} returns for each element, be it by ones. What a validation makes of them is "
    "not seen: the loss and the accuracy of all of them, which could be shown of it, may be other ones, and none is "
    "shown. Log them: trimtab.log(loss=..., phase='validation')."
)
LOOKS = 4  # at trainings by a loss function, after which it is known
NODES = 2_000  # that are gone through for one of them

# Of every element alike, by the names of torch's nodes. `Sum` and `Mean` of all are `...Backward0`, along some `...1`.
EVEN = (
    "Add", "Alias", "Cat", "Clone", "Expand", "Mean", "Neg", "Permute", "ReshapeAlias", "Squeeze", "Stack", "Sub",
    "Sum", "T", "ToCopy", "Transpose", "UnsafeView", "Unsqueeze", "View",
)  # fmt: skip
OF_ALL = ("MeanBackward0", "SumBackward0")
BY_FACTOR = {"MulBackward0": ("_saved_other", "_saved_self"), "DivBackward0": ("_saved_other", "")}  # by operand

# What packs the tensors that nodes save. To read one that a checkpoint left out would compute its forward again.
hooks_of_saved: Callable[[bool], Any] = torch._C._autograd._top_saved_tensors_default_hooks

Users: TypeAlias = "dict[Any, list[tuple[Any, int]]]"  # of a node: who takes what it returned, as which operand


class Weighing:
    """Learns which loss functions those are. Holds a graph from a call to the backward after it, `LOOKS` times."""

    def __init__(self) -> None:
        self._names: set[str] = set()  # of loss functions whose elements do not count alike
        self._left: dict[str, int] = {}
        # Of each that is asked about the node of the newest call, and whether what nodes have saved may be read.
        self._called: dict[str, tuple[Any, bool]] = {}

    def leaves_out(self, name: str, reduction: int) -> bool:
        """Whether the mean of what such a call returned is none of training's. A mean that it returned is one."""
        return reduction == NONE and name in self._names

    def called(self, name: str, output: Tensor) -> None:
        """Training has called a loss function that returned a value for each element."""
        if output.numel() > 1 and self._left.setdefault(name, LOOKS) and name not in self._names:
            self._called[name] = output.grad_fn, not hooks_of_saved(True)

    def forget(self) -> None:
        """What was called since the last backward was no training."""
        self._called.clear()

    def backward(self, tensor: Any) -> list[str]:
        """Backward is called on `tensor`: the loss functions that are found to be among them."""
        if not self._called:
            return []
        called, self._called = self._called, {}
        root = getattr(tensor, "grad_fn", None)
        if root is None:
            return []
        found = []
        for name, (node, may_read) in called.items():
            users = _users(root, node)
            self._left[name] -= bool(users)
            if _are_weighed(node, users, may_read=may_read):
                found.append(name)
        self._names.update(found)
        return found


def _are_weighed(leaf: Any, users: Users, *, may_read: bool) -> bool:
    """Whether the elements of what `leaf` returned do not count alike, or may not.

    A mask may be of ones here and of padding in validation, which has no graph to tell: no value of it is asked for.
    """
    undone, seen = [leaf], set()
    while undone:
        for user, operand in users.get(undone.pop(), ()):
            name = user.name()
            if name in OF_ALL or user in seen:
                continue
            if not (may_read and _is_factor(user, operand) if name in BY_FACTOR else kind_of(name) in EVEN):
                return True
            seen.add(user)
            undone.append(user)
    return False


def kind_of(name: str) -> str:
    """`Add` of torch's `AddBackward0`, by the name of a node. Empty for a function of the user's: no number."""
    named = name.rstrip("0123456789")
    return named.removesuffix("Backward") if named != name else ""


def _users(root: Any, leaf: Any) -> Users:
    """Who uses what a node returned, from `leaf` up to `root`. Empty where `leaf` is not below `root`, or far below.

    What came to be before `leaf` does not use it, which keeps the model out.
    """
    users: Users = {}
    first, undone, seen = leaf._sequence_nr(), [root], {root}
    while undone:
        if len(seen) > NODES:
            return {}
        node = undone.pop()
        for operand, (used, _) in enumerate(node.next_functions):
            if used is None or used._sequence_nr() < first:
                continue
            users.setdefault(used, []).append((node, operand))
            if used is not leaf and used not in seen:
                seen.add(used)
                undone.append(used)
    return users if leaf in users else {}


def _is_factor(node: Any, operand: int) -> bool:
    """Whether it multiplies every element by one number."""
    other = getattr(node, BY_FACTOR[node.name()][operand], None)
    return isinstance(other, Tensor) and other.numel() == 1
