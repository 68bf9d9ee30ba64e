"""Whether what backward is called on is a sum over samples, by what became of what the loss function returned.

A sum that is divided by the samples, the tokens or the boxes is a mean, as is one that is averaged. One that is only
added to, or weighed against other terms, is still a sum. The size of the loss cannot tell them apart: per pixel it is
small, per image it is not. The graph above the loss function can.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from trimtab.capture.weighing import BY_FACTOR, EVEN, NODES, hooks_of_saved, kind_of
from trimtab.sample.scalars import hold

LOOKS = 4  # at backwards, after which it is known
BY_ALPHA = {"AddBackward0": 1, "SubBackward0": -1}  # whose second operand is multiplied by a number


class Summing:
    """Learns it of the loss function that training is compared by. Holds a graph from a call to the backward after it.

    It is one answer for a loop: a sum at each of the first backwards, `LOOKS` of them, and none on means alone since.
    """

    def __init__(self) -> None:
        self.is_sum = False
        self._may_be = True
        self._left = LOOKS
        self._called: dict[bool, tuple[Any, int]] = {}  # the newest call, by whether it asked for the mean

    def called(self, output: Tensor, samples: int, *, is_mean: bool) -> None:
        """Training has called the loss function, for so many samples."""
        if self._may_be:
            is_looked_at = self._left > 0 and not hooks_of_saved(True)
            self._called[is_mean] = (output.grad_fn if is_looked_at else None, samples)

    def forget(self) -> None:
        """What was called since the last backward was no training."""
        self._called.clear()

    def backward(self, root: Any) -> None:
        """Backward is called on what this node of the graph returned, None where it is not known."""
        if not self._called:
            return
        called, self._called = self._called, {}
        if False not in called:
            self._may_be = self.is_sum = False
        elif self._left:
            self._left -= 1
            factors = _factors(root, [node for node, _ in called.values()])
            node, samples = called[False]
            if node in factors:
                is_mean_added = True in called and called[True][0] in factors
                self.is_sum = self._may_be = not is_mean_added and _is_of_a_sum(factors[node], samples)
            self._may_be = self.is_sum or (self._may_be and self._left > 0)


def _is_of_a_sum(factor: float, samples: int) -> bool:
    """Whether it is nearer to 1 than to one over the samples, by ratio. NaN, which is not known, is of none."""
    return factor * factor * samples >= 1


def _factors(root: Any, leaves: Collection[Any]) -> dict[Any, float]:
    """By what the sum of what each of `leaves` returned is multiplied in what `root` returned.

    NaN where that is not a number, or not known. Those that are not below `root` are left out, or far below.
    """
    found: dict[Any, float] = {}
    if root is None or None in leaves:
        return found
    first, factors, number = min(leaf._sequence_nr() for leaf in leaves), {root: 1.0}, itertools.count()
    undone = [(-root._sequence_nr(), next(number), root)]  # the newest first: all that use it were before
    while undone and len(factors) <= NODES:
        node = heapq.heappop(undone)[-1]
        if node in leaves:
            found[node] = factors[node]
            if len(found) == len(leaves):
                break
            continue
        for operand, (used, _) in enumerate(node.next_functions):
            if used is None or used._sequence_nr() < first:
                continue
            if used not in factors:
                factors[used] = 0.0
                heapq.heappush(undone, (-used._sequence_nr(), next(number), used))
            factors[used] += factors[node] * _factor(node, operand)
    return found


def _factor(node: Any, operand: int) -> float:
    """By what a node multiplies an operand of it, or what each sample adds to that."""
    name = node.name()
    kind = kind_of(name)
    if name in BY_FACTOR:
        return _value(node, BY_FACTOR[name][operand], is_divisor=kind == "Div")
    if kind == "Mean":
        return 1 / _averaged(node)
    if name in BY_ALPHA:
        return float(BY_ALPHA[name] * node._saved_alpha) if operand else 1.0
    return 1.0 if kind in EVEN else math.nan


def _value(node: Any, name: str, *, is_divisor: bool) -> float:
    """Of the number that a node has saved. On a device it would have to be waited for."""
    try:
        other = getattr(node, name, None)
    except RuntimeError:  # it was written to since
        return math.nan
    if not isinstance(other, Tensor) or other.numel() != 1 or not other.is_cpu:
        return math.nan
    value = float(hold(other))
    if is_divisor:
        return 1 / value if value else math.nan
    return value


def _averaged(node: Any) -> int:
    """Over how many elements it takes means. 1 where each is of one sample: the first dimension is that of samples."""
    sizes: Sequence[int] = node._saved_self_sym_sizes
    dims: list[int] = [dim - (1 << 64) if dim >> 63 else dim for dim in getattr(node, "_saved_dim", ())]
    if not dims or not sizes:  # a scalar has a first dimension as well, for torch
        return max(1, math.prod(sizes))
    if sizes[0] > 1 and all(dim % len(sizes) for dim in dims):
        return 1
    return max(1, math.prod(sizes[dim] for dim in dims))
