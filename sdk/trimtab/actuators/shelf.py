"""The snapshots that are kept: the first, the best, and a few of the others, the newer the denser.

All of them together stay under a cap of bytes. When it is reached, the one goes whose neighbours are closest, for
their age: what is left reaches back from a few steps to a sixth of the run or more, and the memory of the one that
went takes up the next. The state before the first step is kept, since a run that was wrong from the start has no other
good one; so is the best, and the newest.
"""

from __future__ import annotations

from collections.abc import Callable

from trimtab.actuators.picture import Pool
from trimtab.actuators.retention import Snapshot, most_dispensable

DAMAGED = "The file of the snapshot of step {step} is damaged or gone: it cannot be gone back to."


class Shelf:
    """At most so many snapshots, of at most so many bytes."""

    def __init__(self, cap_bytes: int, most: int) -> None:
        self.cap_bytes = cap_bytes
        self.kept: list[Snapshot] = []  # oldest first
        self.first: Snapshot | None = None
        self.best: Snapshot | None = None
        self.pool = Pool()  # the memory of what has gone
        self.lost = ""  # why there is no best one any more, if there was one
        self.damaged = ""  # what the next rollback has to say of a file
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

    def choose(self, since: int | None, back: int) -> Snapshot | None:
        """The newest from before step `since`, the first that looked bad, or the `back`th before it.

        Where there are not as many, the oldest. One whose file is damaged or gone is dropped.
        """
        while good := [s for s in self.usable() if s is self.first or since is None or s.step + 1 < since]:
            chosen = good[max(len(good) - 1 - back, 0)]
            if chosen.is_whole():
                return chosen
            self.damaged = self.drop_damaged(chosen)
        return None

    def make_room(self, size: int, former: Snapshot | None = None, *, only_here: bool = False) -> bool:
        """Drop snapshots until `size` more bytes fit, and there may be one more. False: the best leaves no room.

        `former` is the best, of which the one to come takes the place. What is `only_here` counts for none: else this
        rank would drop what the others keep, and have none to go back to with them.
        """
        while self.kept:
            common = [snapshot for snapshot in self.kept if not snapshot.only_here]
            if self.bytes + size <= self.cap_bytes and (only_here or len(common) < self._most):
                break
            if former is not None and former.only_here and former in self.kept:
                dropped: Snapshot | None = former
            else:
                dropped = most_dispensable(common, self.first, self.best, former) if common else None
            if dropped is None:
                return False
            self.drop(dropped)
        return True

    def give_up(self, which: Callable[[Snapshot], bool]) -> None:
        """None of those is gone back to any more; the best one is kept."""
        for snapshot in list(filter(which, self.kept)):
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

    def drop_damaged(self, snapshot: Snapshot) -> str:
        """Its file is damaged or gone. Returns what to say of it."""
        said = DAMAGED.format(step=snapshot.step)
        if snapshot is self.best:
            self.lost = said
        self.drop(snapshot)
        return said

    def clear(self) -> None:
        """Let go of all of them, and of the memory."""
        self.kept, self.first, self.best = [], None, None
        self.pool.clear()
