"""Whether optimizers work against each other, told from whose gradients a backward writes to and what each applies.

The generator's loss of a GAN writes to the gradients of both networks, but the discriminator applies another one; an
actor and its critic do the like. Such a loss goes up when the other side gets better: that it comes down, diverges or
stands still says nothing. Optimizers that share one loss apply equal ones; those of separate models are never written
to by one backward. Both are judged like any other.
"""

from __future__ import annotations

from itertools import product


class Contest:
    """Fed with backwards while there are several optimizers, and with the loss of each step. Holds labels only."""

    def __init__(self) -> None:
        self._backward: object = None
        self._reached: set[str] = set()  # by the newest backward
        self._rivals: set[tuple[str, str]] = set()  # reached together, both ways round
        self._partners: set[tuple[str, str]] = set()  # who applied an equal loss
        self._newest: dict[str, float] = {}

    def backward(self, optimizer: str, loss: object) -> None:
        """A backward of `loss`, an object of its own, wrote to the gradients of `optimizer`."""
        if loss is not self._backward:
            self._backward, self._reached = loss, set()
        self._rivals.update(pair for other in self._reached for pair in ((other, optimizer), (optimizer, other)))
        self._reached.add(optimizer)

    def step(self, optimizer: str, loss: float) -> None:
        """`optimizer` applied `loss`."""
        self._newest[optimizer] = loss
        equal = [other for other, newest in self._newest.items() if newest == loss]
        self._partners.update(product(equal, equal))

    def involves(self, optimizer: str) -> bool:
        """Whether `optimizer` works against another one, as far as is known."""
        return any(one == optimizer and (one, other) not in self._partners for one, other in self._rivals)
