"""One snapshot, and which of several is missed least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trimtab.actuators import generators
from trimtab.actuators.picture import Picture


@dataclass(slots=True, eq=False)
class Snapshot:
    """The state after `step` steps. What was met later is in pictures that several snapshots share."""

    step: int
    own: Picture
    shared: list[Picture] = field(default_factory=list)
    generators: generators.States | None = None
    taken_at: float = 0.0  # by the clock of whoever took it
    alone: bool = False  # no rollback goes to it: other ranks have none of this step, or it is not what trains
    only_here: bool = False  # the best, as far as is known: the other ranks have taken none of this step

    def covers(self) -> set[object]:
        """The places that it can restore."""
        return self.own.layout.covers().union(*(picture.layout.covers() for picture in self.shared))

    def is_now(self) -> bool:
        """Whether the parameters are still those that were copied: nobody has written to them since."""
        return self.is_whole() and all(picture.is_now() for picture in (*self.shared, self.own))

    def is_whole(self) -> bool:
        """Whether it can be restored: its files may be damaged or gone."""
        return all(picture.is_whole() for picture in (*self.shared, self.own))


def most_dispensable(
    kept: Sequence[Snapshot], first: Snapshot | None, best: Snapshot | None, former: Snapshot | None = None
) -> Snapshot | None:
    """The one of `kept`, oldest first, one at least, that would leave the smallest gap for the age of that gap.

    The newest goes when no other is left to go, then the `former` best, while a new one is being taken, then the first;
    the best never.
    """
    now = kept[-1].step + 1

    def gap(index: int) -> float:
        before = kept[max(index - 1, 0)].step
        return (kept[index + 1].step - before) / (now - before)

    free = [index for index, each in enumerate(kept) if each not in (best, former, first)]
    inner = [index for index in free if index + 1 < len(kept)]
    if inner:
        return kept[min(inner, key=gap)]
    if free:
        return kept[free[0]]
    if former in kept:
        return former
    return next((each for each in kept if each is not best), None)
