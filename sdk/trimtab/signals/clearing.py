"""Whether gradients are cleared between steps, told by how many backwards each step applies."""

from __future__ import annotations


class UnclearedSteps:
    """How many steps in a row had each more backwards than the one before: 0 where gradients are cleared.

    Without `zero_grad` a step applies the gradients of all backwards so far: of 1, 2, 3, ... With gradient accumulation
    it has as many as the one before. Who accumulates more and more has a few such steps, and then as many again.

    No warm-up.
    """

    __slots__ = ("_before", "_growing")

    def __init__(self) -> None:
        self._before = self._growing = 0

    def update(self, backwards: int) -> float:
        """The count, after a step that applied the gradients of so many backwards."""
        self._growing = self._growing + 1 if backwards > self._before > 0 else 0
        self._before = backwards
        return float(self._growing)

    def fence(self) -> None:
        """Gradients may have been dropped."""
        self._before = self._growing = 0
