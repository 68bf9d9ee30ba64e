"""Whether a training stands where it began, or where another one begins.

A search for a learning rate, or the next fold of a cross-validation, puts the first weights back into the same model,
which one element of each parameter tells. Or it draws new ones (`reset_parameters`), which their versions tell: torch
counts what is written to a tensor, and a step writes the same number of times to each, each time.
"""

from __future__ import annotations

from collections.abc import Collection, Set

from torch import Tensor

from trimtab.marks import Marks

LEARNED = 24  # steps, of which fewer have taught nothing that would have to be forgotten; a rate may be 0 for some
WRITES = 8  # at most, by which a parameter is drawn anew: by its module, and then as its owner would have it


class Beginning:
    """The parameters of an optimizer as they are now. Holds them weakly, and costs about 5 us for each."""

    __slots__ = ("_count", "_marks", "_versions", "steps")

    def __init__(self, parameters: Collection[Tensor]) -> None:
        self.steps = 0  # since then, for whoever counts them to set
        self._count = len({id(p) for p in parameters})
        self._marks = Marks(parameters)
        self._versions = [p._version for p in parameters] if self._marks.are_known else []

    def is_of(self, parameters: Collection[int]) -> bool:
        """Whether these, by their ids, are a part of those, or more than all of those."""
        asked = set(parameters)
        return asked <= set(map(id, self._marks.living())) or self.is_within(asked)

    def is_within(self, parameters: Set[int]) -> bool:
        """Whether all of them live, and are among these, by their ids."""
        living = set(map(id, self._marks.living()))
        return len(living) == self._count and living <= parameters

    def is_apart_from(self, parameters: Set[int]) -> bool:
        """Whether it has none of these, by their ids."""
        return parameters.isdisjoint(map(id, self._marks.living()))

    def is_now(self) -> bool:
        """Whether all have the values of then. Waits for their device, and stops at the first that has not."""
        return self._marks.are_now()

    def is_drawn_anew(self) -> bool:
        """Whether all have been written to by something else than the `steps` since then, and that a few times."""
        if not (self._marks.are_known and self.steps >= LEARNED):
            return False
        pairs = zip(self._marks.living(), self._versions, strict=True)
        return all(0 < (p._version - version) % self.steps <= WRITES for p, version in pairs)

    def loaded(self, parameters: Set[int]) -> None:
        """Values of the user's choice were loaded into these, by their ids: they are not drawn anew."""
        if self._marks.are_known:
            pairs = zip(self._marks.living(), self._versions, strict=True)
            self._versions = [version + (id(p) in parameters) for p, version in pairs]
