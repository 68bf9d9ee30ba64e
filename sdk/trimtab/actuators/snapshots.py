"""Good states to go back to: takes them, and puts one of them back. Which are kept: see `shelf`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from trimtab.actions import Change, Refused
from trimtab.actuators import generators
from trimtab.actuators.averages import Averages
from trimtab.actuators.layout import Layout, lay_out
from trimtab.actuators.look import late_buffer
from trimtab.actuators.memory import default_cap
from trimtab.actuators.parts import Parts, all_optimizers, buffers_of, owned_by, parameters_of
from trimtab.actuators.pending import is_pending
from trimtab.actuators.picture import NO_BUFFERS, Buffers, Picture, bytes_of
from trimtab.actuators.retention import Snapshot
from trimtab.actuators.shelf import Shelf
from trimtab.actuators.turns import SHARE, Turns

NOBODY_ELSE = contextlib.nullcontext()
MOST = 8  # snapshots, with the first and the best; more of them reach back no further
IN_THREADS = "Another thread of this process trains too, and may need the weights as they are."

REPLACED = (
    "An optimizer has parameters that are in no snapshot this old: some were added, or put in the place of others. "
    "Snapshots taken from now on can be used."
)

REBUILT = (
    "There is a buffer by now, {buffer}, that is in no snapshot this old, as where its module was pruned since. "
    "Snapshots taken from now on can be used."
)

NO_BEST = "No state was kept as the best one: no validation result has been seen yet."


class Snapshots:
    """Takes, keeps and restores. To be used by one thread, and only at the boundary that `Cycle` tells.

    `cap_bytes` bounds all copies together (by default the least of 4 GiB and a quarter of the memory that is free when
    the run starts). `every` fixes the interval in steps; otherwise snapshots take `share` of the step time. With
    `directory` copies are files there, each loadable with `torch.load(..., weights_only=True)`. With `rng` the states
    of the random generators of torch, Python and NumPy are turned back as well, so that the same data comes again.
    `alone()` says whether no other thread trains: while one does, nothing is restored; and none runs a backward while
    `still` is entered. `together`: there are other ranks, which take snapshots after the same steps as this one, but
    keep no best one.
    """

    def __init__(
        self,
        *,
        cap_bytes: int | None = None,
        most: int = MOST,
        every: int | None = None,
        share: float = SHARE,
        directory: Path | None = None,
        rng: bool = False,
        alone: Callable[[], bool] = lambda: True,
        still: AbstractContextManager[object] = NOBODY_ELSE,
        together: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.refusal: str | None = None  # why no snapshot can be taken, in a sentence
        self.turns = Turns(every, share)
        self._shelf = Shelf(default_cap() if cap_bytes is None else cap_bytes, most)
        self._directory = directory
        self._rng = rng
        self._alone = alone
        self._still = still
        self._together = together
        self._clock = clock
        self._averages = Averages()
        self._files = 0
        self._made = False  # the directory

    @property
    def steps(self) -> list[int]:
        """The steps after which the snapshots were taken, oldest first."""
        return [snapshot.step for snapshot in self._shelf.kept]

    @property
    def newest(self) -> int | None:
        """The step after which the newest was taken."""
        newest = self._shelf.newest
        return None if newest is None else newest.step

    @property
    def age_s(self) -> float | None:
        """Of the newest that a rollback could use, in seconds; None where there is none."""
        usable = self._shelf.usable()
        return self._clock() - usable[-1].taken_at if usable else None

    @property
    def best(self) -> int | None:
        """The step after which the best was taken."""
        best = self._shelf.best
        return None if best is None else best.step

    @property
    def why_no_best(self) -> str:
        """Why there is none, in a sentence."""
        return self.refusal or self._shelf.lost or NO_BEST

    @property
    def bytes(self) -> int:
        """What all copies take, of the cap."""
        return self._shelf.bytes

    def meet(self, parts: Parts, step: int = 0) -> None:
        """Before the first step of an optimizer that was just met: its state is the first one, and is kept.

        Every snapshot that does not know it takes up its state as it is now, since it has not stepped before. Not so
        what was added to an optimizer that has: of that no earlier state is known, and none before now is restored.
        """
        self._averages.meet(parts)
        shelf = self._shelf
        if shelf.newest is None:
            shelf.first = self._take(parts, step)
            self.turns.begin_anew(step)
            return
        covered = shelf.newest.covers()
        stepped = [optimizer for _, optimizer in all_optimizers(parts) if id(optimizer) in covered]
        covered |= {id(parameter) for optimizer in stepped for parameter in owned_by(optimizer)}
        layout = self._laid_out(parts, covered)
        if layout and shelf.make_room(_size(layout)):
            addition = self._picture(layout, step)
            for snapshot in shelf.kept:
                snapshot.shared.append(addition)
        if shelf.kept and shelf.kept[0].step == step:  # a loop that validates before it trains: kept as the best one
            shelf.first = shelf.kept[0]
            shelf.first.only_here = False
            self.turns.begin_anew(step)

    def forget(self) -> None:
        """Another model is trained from now on: none of these is one to go back to."""
        for snapshot in list(self._shelf.kept):
            self._shelf.drop(snapshot)
        self._shelf.lost = ""

    def begin_at(self, step: int) -> None:
        """None from before that of `step` is gone back to any more; the best one is kept. That one is the first."""
        shelf = self._shelf
        shelf.give_up(lambda snapshot: snapshot.step < step)
        shelf.first = next(iter(shelf.usable()), None)

    def due(self, step: int) -> bool:
        """Whether the next one should be taken after `step`, if the run is healthy. 0.1 us."""
        return self.turns.has_come(step) and self.refusal is None

    def take(self, parts: Parts, step: int, step_s: float | None = None) -> None:
        """Take one of the state after `step` steps. `step_s` is what a step takes, and settles when the next is due.

        Raises:
            Refused: it does not fit the cap, or holds what cannot be copied: no other will be due. Or its file cannot
                be written: the next one is due when it would have been.
        """
        started = self._clock()
        try:
            newest = self._shelf.newest
            if newest is None or newest.step != step:
                self._take(parts, step)
            else:
                newest.only_here = False
        finally:
            self.turns.taken(step, self._clock() - started, step_s)

    def buffers(self, parts: Parts, *, with_parameters: bool = False) -> Buffers:
        """Copies of all buffers as they are now, for `take_best` later; none where there is no room for them."""
        if self.refusal is not None:
            return {}
        found = buffers_of(self._averages.added_to(parts))
        living = {(id(module), name): buffer for _, module, name, buffer in found if buffer is not None}
        if with_parameters:
            living |= {(id(parameter), ""): parameter for _, parameter in parameters_of(parts)}
        if self.bytes + sum(map(bytes_of, living.values())) > self._shelf.cap_bytes:
            return {}
        with torch.inference_mode(False), torch.no_grad():
            return {place: tensor.detach().clone() for place, tensor in living.items()}

    def take_best(self, parts: Parts, step: int, buffers: Buffers = NO_BUFFERS) -> None:
        """Keep the state after `step` steps as the best one, in place of the one before.

        That one stays where a rollback may go to it; else it would only take the place of those that one can.

        `buffers` are kept in place of what they are now. When a validation is known to be over, the model has seen the
        next batch, and running statistics have learned from it.

        Where there is a snapshot of that step, it is that one. Not where other weights have taken the place of those
        that train, as an average's do for a validation. Those that are there now, or are given with `buffers`, are kept
        beside it, and not gone back to.

        Raises:
            Refused: as `take` does.
        """
        shelf = self._shelf
        former, shelf.best = shelf.best, None  # it may make room for the new one
        try:
            newest = shelf.newest if self.newest == step else None
            is_given = any(not name for _, name in buffers)  # a parameter
            if newest is not None and not is_given and newest.is_now():
                shelf.best = newest
            else:
                shelf.best = self._take(parts, step, buffers, former, only_here=self._together)
                if shelf.best is not None:
                    shelf.best.alone = is_given or newest is not None
        except Refused as refused:
            shelf.best = former if former in shelf.kept else None
            made_room = "It made room for a better one, which could not be kept: " if former else ""
            shelf.lost = f"{made_room}{refused}"
            raise
        if former in shelf.kept and former is not shelf.best and (former.alone or former.only_here):
            shelf.drop(former)

    def may_restore(self, parts: Parts) -> bool:
        """Whether no graph is pending that needs the weights as they are. To be asked before any are restored.

        Where it is false, the end of a later cycle will do. One scan of the process's objects: 60 to 90 ms on an idle
        machine, 300 ms for 285,000 of them on a busy one (see benchmarks/SNAPSHOTS.md).

        Raises:
            Refused: another thread trains, or there are weights that cannot be copied.
        """
        with self._still:
            self._check_alone()
            objects = self._averages.search(parts)
            return not is_pending(lay_out(self._averages.added_to(parts)).tensors, objects)

    def roll_back(self, parts: Parts, step: int, *, since: int | None = None, back: int = 0) -> Change:
        """Restore the newest snapshot from before `since`, the first step that looked bad, or the `back`th before it.

        Where there are not as many, the oldest is restored. One whose file is damaged or gone is dropped, and the next
        older one restored in its place.

        The loss of a step is that of the weights before it, so a snapshot counts as good when the loss after it did.
        Snapshots newer than the restored one are dropped. The best one is kept if it is newer, and not gone back to.
        Parameters lose their gradients; learning rates and schedulers are not turned back.

        Raises:
            Refused: there is no such snapshot, the parameters are not those it was taken of, or another thread trains.
                Nothing was changed.
        """
        self._check_alone()
        shelf = self._shelf
        chosen = shelf.choose(since, back)
        damaged, shelf.damaged = shelf.damaged, ""
        if chosen is None:
            raise Refused(damaged or self._why_none(since))
        self._go_back(chosen, parts, step)
        note = " ".join(filter(None, (damaged, self._averages.left_behind(parts))))
        return Change({"weights_of_step": step}, {"weights_of_step": chosen.step}, note)

    def mend(self) -> int | None:
        """Put buffers that are NaN or infinite back from the newest snapshot in which they were not; the step of that.

        A batch that is left out has been through the model: running statistics have learned from it, and would keep a
        NaN for ever. None where every buffer is as it should be, or there is nothing to take it from. Reads all buffers
        and waits for their device.
        """
        for snapshot in reversed(self._shelf.kept):
            mended = [picture.mend() for picture in (*snapshot.shared, snapshot.own)]
            if any(mended):
                return snapshot.step
        return None

    def aim(self, since: int | None, back: int = 0) -> int | None:
        """The step whose weights `roll_back` would restore; None where there is no such snapshot."""
        chosen = self._shelf.choose(since, back)
        return None if chosen is None else chosen.step

    def keep_only(self, steps: Collection[int]) -> None:
        """All ranks have these. The others are dropped; the best one is kept, and not gone back to."""
        self._shelf.give_up(lambda snapshot: snapshot.step not in steps)

    def restore_best(self, parts: Parts, step: int) -> Change:
        """Restore the best one. Those that were taken after it are dropped, as by a rollback.

        Raises:
            Refused: there is none, the parameters are not those it was taken of, or another thread trains. Nothing was
                changed.
        """
        best = self._best_there_is()
        self._go_back(best, parts, step)
        return Change({"weights_of_step": step}, {"weights_of_step": best.step})

    def with_best(self, parts: Parts, step: int, use: Callable[[], object]) -> None:
        """Call `use` while the best one is in place, and put the present state back, gradients and random numbers too.

        The present state is copied for that, under the cap as any other: snapshots are dropped where there is no room.

        Raises:
            Refused: as `take` and `restore_best` do, or there is no room. Nothing was changed.
        """
        best, layout = self._best_there_is(), self._laid_out(parts)
        if not self._shelf.make_room(size := _size(layout)):
            raise Refused(
                f"There is no room for {_gigabytes(size)} of the present state beside the best one: "
                f"{_gigabytes(self._shelf.cap_bytes)} are allowed for both."
            )
        here = self._picture(layout, step)
        if not here.is_whole():
            raise Refused("The copy of the present state is damaged or gone.")
        gradients = [(p, p.grad) for _, p in parameters_of(parts)]
        with generators.kept():  # the best one may bring its own
            self._restore(best, parts)
            try:
                use()
            finally:
                here.restore()
                for parameter, gradient in gradients:
                    parameter.grad = gradient

    def close(self) -> None:
        """Drop everything, files too."""
        self._shelf.clear()
        if self._directory is not None and self._made:
            with contextlib.suppress(OSError):  # somebody else put something there
                self._directory.rmdir()

    def _take(
        self,
        parts: Parts,
        step: int,
        buffers: Buffers = NO_BUFFERS,
        former: Snapshot | None = None,
        *,
        only_here: bool = False,
    ) -> Snapshot | None:
        """None where the best one takes all the room. `former`: the best, which the new one is to replace."""
        layout = self._laid_out(parts)
        size = _size(layout)
        cap = self._shelf.cap_bytes
        if size > cap:
            self.refusal = (
                f"A snapshot takes {_gigabytes(size)}, more than the {_gigabytes(cap)} allowed for all of them: there "
                "will be none to roll back to."
            )
            raise Refused(self.refusal)
        if not self._shelf.make_room(size, former, only_here=only_here):
            return None
        rng = generators.states() if self._rng else None
        snapshot = Snapshot(step, self._picture(layout, step, buffers), [], rng, self._clock(), only_here=only_here)
        self._shelf.kept.append(snapshot)
        return snapshot

    def _check_alone(self) -> None:
        if not self._alone():
            raise Refused(IN_THREADS)

    def _best_there_is(self) -> Snapshot:
        self._check_alone()
        best = self._shelf.best
        if best is None:
            raise Refused(self.why_no_best)
        if not best.is_whole():
            raise Refused(self._shelf.drop_damaged(best))
        return best

    def _laid_out(self, parts: Parts, known: Collection[object] = ()) -> Layout:
        try:
            return lay_out(self._averages.begun_in(parts), known)
        except Refused as refused:
            self.refusal = str(refused)
            raise

    def _picture(self, layout: Layout, step: int, buffers: Buffers = NO_BUFFERS) -> Picture:
        path = None
        if self._directory is not None:
            self._files += 1
            self._made = self._made or not self._directory.exists()
            path = self._directory / f"snapshot-{step}-{self._files}.pt"
        picture = Picture(layout, step, self._shelf.pool, path, buffers)
        self._shelf.pool.clear()
        return picture

    def _go_back(self, snapshot: Snapshot, parts: Parts, step: int) -> None:
        """Training goes on from that one after `step` steps: those that were taken after it are dropped."""
        self._restore(snapshot, parts)
        self._shelf.give_up(lambda other: other.step > snapshot.step)
        self.turns.begin_anew(step)

    def _restore(self, snapshot: Snapshot, parts: Parts) -> None:
        pictures = [*snapshot.shared, snapshot.own]
        covered = set().union(*(picture.living() for picture in pictures))
        if any(picture.unknown_to(covered) for picture in pictures):
            raise Refused(REPLACED)
        if (late := late_buffer(parts, snapshot.covers())) is not None:
            raise Refused(REBUILT.format(buffer=late))
        for picture in pictures:
            picture.check()
        for picture in pictures:
            picture.restore()
        self._averages.begin_anew(snapshot.covers())
        if snapshot.generators is not None:
            generators.restore(snapshot.generators)

    def _why_none(self, since: int | None) -> str:
        if self.refusal is not None:
            return self.refusal
        if not self._shelf.kept:
            return "There is no snapshot to go back to: none has been taken yet. Without act= none is."
        when = "" if since is None else f" from before step {since}"
        return f"There is no snapshot{when} to go back to: kept are steps {self.steps}."


def _size(layout: Layout) -> int:
    return sum(map(bytes_of, layout.tensors))


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
