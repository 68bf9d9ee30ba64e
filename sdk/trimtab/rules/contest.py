"""Whether optimizers work against each other, told from whose gradients a backward writes to and what each applies.

The generator's loss of a GAN writes to the gradients of both networks, but the discriminator applies another one; an
actor and its critic do the like. Such a loss goes up when the other side gets better: that it comes down, diverges or
stands still says nothing. Many loops hold the other side fixed meanwhile (`requires_grad_(False)`, Lightning's
`toggle_optimizer`), so that nothing is written to it: sides that take turns at that are told by it. A backward that
spares it (`inputs=`) counts as one that writes to it, since its loss depends on it as well. Optimizers that share one
loss apply equal ones; those of separate models are never written to by one backward. Both are judged like any other,
and so is one that is held fixed for good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable


class Contest:
    """Fed with backwards while there are several optimizers, and with the loss of each step. Holds labels only.

    A call costs as much as there are optimizers, and there may be hundreds: one for each parameter.
    """

    def __init__(self) -> None:
        self._backward: object = None
        self._reached: set[str] = set()  # by the newest backward
        self._rivals: defaultdict[str, set[str]] = defaultdict(set)  # optimizer: those reached together with it
        self._partners: defaultdict[str, set[str]] = defaultdict(set)  # optimizer: those that applied an equal loss
        self._newest: dict[str, float] = {}
        self._fixed: defaultdict[str, set[str]] = defaultdict(set)  # optimizer: those that stepped while it was fixed

    def backward(self, optimizer: str, loss: object) -> None:
        """A backward of `loss`, an object of its own, wrote to the gradients of `optimizer`, or spared them."""
        if loss is not self._backward:
            self._backward, self._reached = loss, set()
        _add(self._rivals, optimizer, self._reached)
        self._reached.add(optimizer)

    def held_fixed(self, others: Iterable[str], stepping: str) -> None:
        """Nothing of `others` is trained while `stepping` steps. It may be their turn next."""
        for other in others:
            self._fixed[other].add(stepping)

    def step(self, optimizer: str, loss: float) -> None:
        """`optimizer` applied `loss`."""
        if optimizer in self._fixed:
            _add(self._rivals, optimizer, self._fixed.pop(optimizer))
        self._newest[optimizer] = loss
        _add(self._partners, optimizer, {other for other, newest in self._newest.items() if newest == loss})

    def involves(self, optimizer: str) -> bool:
        """Whether `optimizer` works against another one, as far as is known."""
        return not self._rivals[optimizer] <= self._partners[optimizer]


def _add(known: defaultdict[str, set[str]], one: str, others: set[str]) -> None:
    """Enter that `one` and each of `others` belong together, both ways round."""
    new = others - known[one]
    known[one] |= new
    for other in new:
        known[other].add(one)
