"""Calls of loss functions in training, each until a backward differentiates it.

Not all that is computed with grad is trained on: another batch may be scored beside the one that is, or the loss of a
task before it was adapted to. Such calls are told by the graph, where more than one waits for a backward. No graph is
held for that: its nodes have numbers.
"""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from trimtab.capture.autograd import as_tensors
from trimtab.capture.losses import Loss
from trimtab.capture.said import Said
from trimtab.capture.validating import Evaluation

NODES = 10_000  # that are gone through for one backward, beside those of calls and of their sum
KEPT_FOR = 2  # steps: what was computed early may be differentiated after the step of another optimizer

Node: TypeAlias = tuple[int, str]  # its number in the thread that made it, and its name


@dataclass(slots=True, eq=False)
class Call:
    """One call, with what it said."""

    name: str  # of the loss function
    node: Node | None
    said: Said
    waits: bool  # its value is of no use if it is the objective itself
    is_left: bool = False  # a backward has differentiated another one of the same function, and not this one
    steps: int = 0  # that were taken since


class Calls:
    """Those that no backward has differentiated yet.

    Where a backward differentiates none of a function, the graph does not show them, or they are a look at what is
    trained on by another loss: they count.
    """

    def __init__(self) -> None:
        self._open: list[Call] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    @property
    def samples(self) -> int:
        """Behind all of them, where losses tell."""
        return sum(call.said.samples for call in self._open)

    def add(self, name: str, node: Node | None, said: Said, *, waits: bool = False) -> None:
        """A loss function was called, whose output is of this node. What it `said` may be added to yet."""
        self._open.append(Call(name, node, said, waits))

    def backward(self, tensors: Any, said: Said, *, is_all: bool = False) -> None:
        """Backward is called on `tensors`: what the calls said that it differentiates is added to `said`.

        `is_all`: it is called on the very mean that the newest call returned.
        """
        calls, self._open = self._open, []
        if len(calls) > 1 or (calls and calls[0].is_left):
            calls = self._differentiated(calls, tensors)
            said.several = said.several or len(calls) > 1 or any(call.is_left for call in calls)
        for call in calls:
            if is_all and call.waits:
                call.said.values.clear()
            said.add(call.said)

    def doubt(self) -> None:
        """The newest mean may not be all of the objective: values count after all."""
        for call in self._open:
            call.waits = False

    def compare_by(self, primary: str) -> None:
        """See `Said`."""
        for call in self._open:
            call.said.compare_by(primary)

    def take_back(self) -> None:
        """See `Said`."""
        for call in self._open:
            call.said.take_back()

    def end_step(self) -> None:
        """A step is over."""
        for call in self._open:
            call.steps += 1

    def forget(self) -> None:
        """They were no training."""
        self._open.clear()

    def _differentiated(self, calls: list[Call], tensors: Any) -> list[Call]:
        roots = [tensor.grad_fn for tensor in as_tensors(tensors) or () if tensor.grad_fn is not None]
        found = _found(roots, {call.node for call in calls if call.node is not None})
        names = {call.name for call in calls if call.node in found}
        differentiated = []
        for call in calls:
            if call.node in found or not (call.is_left or call.name in names):
                differentiated.append(call)
            elif call.steps < KEPT_FOR:
                call.is_left = True
                self._open.append(call)
        return differentiated


class Undecided:
    """A loss with grad, on a model in eval mode: of training if backward is called on it, else of validation."""

    def __init__(self, loss: Loss, evaluation: Evaluation, output: Tensor, reduction: int) -> None:
        self.loss = loss
        self.evaluation = evaluation
        self.reduction = reduction
        self.output, self.version, self.node = weakref.ref(output), output._version, node_of(output)
        self.is_differentiated = False
        if output.grad_fn is not None:
            output.grad_fn.register_prehook(self._note)  # which tells of `torch.autograd.grad` too

    def _note(self, _gradients: Any) -> None:
        self.is_differentiated = True


def node_of(output: Tensor) -> Node | None:
    """What tells the node that computed it from all others of its thread."""
    node = output.grad_fn
    return None if node is None else (node._sequence_nr(), node.name())


def _found(roots: list[Any], asked: set[Node]) -> set[Node]:
    """Those of `asked` that are at or below `roots`, but not below one another. Near ones are found first.

    What came to be before all of them uses none.
    """
    found: set[Node] = set()
    if not asked:
        return found
    first, most = min(number for number, _ in asked), NODES + 2 * len(asked)
    undone, seen = deque(roots), set(roots)
    while undone and len(seen) <= most and len(found) < len(asked):
        node = undone.popleft()
        key = node._sequence_nr(), node.name()
        if key in asked:
            found.add(key)
            continue
        for used, _ in node.next_functions:
            if used is not None and used not in seen and used._sequence_nr() >= first:
                seen.add(used)
                undone.append(used)
    return found
