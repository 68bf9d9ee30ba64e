"""The snapshots that are kept: the first, the best, and a few of the others, the newer the denser.

All of them together stay under a cap of bytes. When it is reached, the one goes whose neighbours are closest, for
their age: what is left reaches back from a few steps to a sixth of the run or more, and the memory of the one that
went takes up the next. The state before the first step is kept, since a run that was wrong from the start has no other
good one; so is the best, and the newest.
"""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.actuators.picture import Pool
from trimtab.actuators.retention import Snapshot, most_dispensable


class Shelf:
    """At most so many snapshots, of at most so many bytes."""

    def __init__(self, cap_bytes: int, most: int) -> None:
        self.cap_bytes = cap_bytes
        self.kept: list[Snapshot] = []  # oldest first
        self.first: Snapshot | None = None
        self.best: Snapshot | None = None
        self.pool = Pool()  # the memory of what has gone
        self._most = most

    @property
    def bytes(self) -> int:
        """What all copies take."""
        pictures = {id(p): p for s in self.kept for p in (s.own, *s.shared)}
        return sum(picture.bytes for picture in pictures.values())

    @property
    def newest(self) -> Snapshot | None:
        """The one that was taken last."""
        return self.kept[-1] if self.kept else None

    def usable(self) -> list[Snapshot]:
        """Those that a rollback may use, oldest first."""
        return [snapshot for snapshot in self.kept if not snapshot.alone]

    def good(self, since: int | None) -> list[Snapshot]:
        """Of these, the ones from before step `since`, the first that looked bad."""
        return [s for s in self.usable() if s is self.first or since is None or s.step + 1 < since]

    def make_room(self, size: int, former: Snapshot | None = None, *, only_here: bool = False) -> bool:
        """Drop snapshots until `size` more bytes fit, and there may be one more. False: the best leaves no room.

        `former` is the best, of which the one to come takes the place. What is `only_here` counts for none: else this
        rank would drop what the others keep, and have none to go back to with them.
        """
        while self.kept:
            common = [snapshot for snapshot in self.kept if not snapshot.only_here]
            if self.bytes + size <= self.cap_bytes and (only_here or len(common) < self._most):
                break
            dropped = next((s for s in self.kept if s.only_here and s is former), None)
            dropped = dropped or most_dispensable(common, self.first, self.best, former)
            if dropped is None:
                return False
            self.drop(dropped)
        return True

    def give_up(self, snapshots: Sequence[Snapshot]) -> None:
        """None of them is gone back to any more; the best one is kept."""
        for snapshot in snapshots:
            if snapshot is self.best:
                snapshot.alone = True
            else:
                self.drop(snapshot)

    def drop(self, snapshot: Snapshot) -> None:
        """Let go of it, and of its file."""
        self.kept.remove(snapshot)
        self.pool.give(snapshot.own.release())
        if snapshot is self.first:
            self.first = None
        if snapshot is self.best:
            self.best = None

    def clear(self) -> None:
        """Let go of all of them, and of the memory."""
        self.kept, self.first, self.best = [], None, None
        self.pool.clear()
