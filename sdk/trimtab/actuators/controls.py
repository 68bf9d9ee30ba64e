"""The controls of a run, as one decision of a policy uses them: for its optimizer, from before its trouble began."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

from torch.optim import Optimizer

from trimtab.actions import Change, Refused
from trimtab.actuators.dropout import LargestRatio, would_change
from trimtab.actuators.halting import Halting
from trimtab.actuators.parts import Parts
from trimtab.actuators.saving import save
from trimtab.actuators.scales import bounded
from trimtab.actuators.snapshots import Snapshots
from trimtab.actuators.steering import Steering
from trimtab.actuators.step_controls import StepControls, clipped, dropped_out

BEST, LAST = "best.pt", "last.pt"
ADVICE = "once the loop asks"  # in place of True, where nobody hears of a halt
APPLIED = (
    "The step had been applied by then. On a GPU losses are read one step late, and the actions of one rung wait for "
    "each other."
)


class Actuators:
    """Everything that can change a run. `parts` says what there is; `directory` is the run's own.

    `rank` is None where the run has one. Of several the first writes for all, and none goes back to the best state by
    itself, since the first alone keeps it.
    """

    def __init__(
        self,
        steering: Steering,
        snapshots: Snapshots,
        halting: Halting,
        parts: Callable[[], Parts],
        directory: Path,
        rank: int | None = None,
    ) -> None:
        self.steering = steering
        self.snapshots = snapshots
        self.halting = halting
        self.parts = parts
        self.directory = directory
        self.rank = rank
        self.largest_dropout = LargestRatio(lambda: list(parts().models.values()))

    def put_best_back(self) -> None:
        """Put the best weights back between two steps, where nothing needs the present ones; see `RunControls.halt`."""
        step = self.snapshots.best
        with contextlib.suppress(Refused):
            if step is not None and self.snapshots.may_restore(self.parts()):
                self.snapshots.restore_best(self.parts(), step)
                self.halting.say("best is back", f"The weights are those of step {step} again, the best ones.")

    def write_best(self, step: int) -> Path:
        """Write the best state to `best.pt`, as a halt does, and put the present one, after `step` steps, back.

        Raises:
            Refused: as `Snapshots.with_best` does. Nothing was changed.
        """
        best = self.snapshots.best
        self.snapshots.with_best(self.parts(), step, lambda: save(self.parts(), self.directory / BEST, best or 0))
        return self.directory / BEST

    def met(self, label: str, optimizer: Optimizer) -> None:
        """An optimizer is about to step for the first time."""
        self.halting.give_way()
        self.steering.meet(label, optimizer)

    def begin_anew(self, label: str) -> None:
        """Another model is trained under this label, which was steered, kept and halted by nobody yet."""
        self.steering.forget(label)
        self.snapshots.forget()
        self.halting.begin_anew()

    def close(self) -> None:
        """Put everything back as the user had it, and let the copies go."""
        self.steering.close()
        self.snapshots.close()


class RunControls:
    """Implements `actions.Controls`, for a decision made at `step` about trouble that began at `since`.

    `late`: that step is applied by now. `pending`: a graph still needs the weights as they are. `all_ranks` says
    whether something is true on every rank, each of which asks.
    """

    def __init__(
        self,
        actuators: Actuators,
        optimizer: str,
        step: int,
        since: int,
        *,
        late: bool,
        pending: bool,
        all_ranks: Callable[[bool], bool],
    ) -> None:
        self._of = actuators
        self._optimizer = optimizer
        self._step = step
        self._since = since
        self._late = late
        self._pending = pending
        self._all_ranks = all_ranks

    def scale_learning_rate(
        self, factor: float, *, floor: float = 0.0, ceiling: float = math.inf, ramp: int = 0
    ) -> Change:
        return self._around().scale_learning_rate(factor, floor=floor, ceiling=ceiling, ramp=ramp)

    def normalizes(self) -> bool:
        return self._around().normalizes()

    def scale_weight_decay(self, factor: float, *, floor: float = 0.0, ceiling: float = math.inf) -> Change:
        return self._around().scale_weight_decay(factor, floor=floor, ceiling=ceiling)

    def set_dropout(self, ratio: float, *, lower: bool = False) -> Change:
        return self._around().set_dropout(ratio, lower=lower)

    def clip_gradients(self, max_norm: float | None, *, steps: int) -> Change:
        if self._late and steps == 1:
            raise Refused(APPLIED)
        return self._around().clip_gradients(max_norm, steps=steps)

    def clear_gradients(self) -> Change:
        return self._around().clear_gradients()

    def skip_step(self) -> Change:
        if self._late:
            raise Refused(APPLIED)
        change = self._around().skip_step()
        mended = self._of.snapshots.mend()
        return change if mended is None else Change(change.before, {**change.after, "buffers_of_step": mended})

    def roll_back(self, *, back: int = 0) -> Change:
        if self._pending:
            raise Refused("After every step a graph is pending that needs the weights as they are.")
        return self._of.snapshots.roll_back(self._of.parts(), self._step, since=self._since, back=back)

    def halt(self, reason: str, *, restore_best: bool = True) -> Change:
        """Save the last state and the best one, ask the loop to stop, and put the best one back where it hears that.

        Refused where the last state cannot be saved. The best one comes after it: that it cannot be saved, or put
        back, is only noted.
        """
        of = self._of
        if of.rank is not None:
            return self._halt_together(reason)
        saved = save(of.parts(), of.directory / LAST, self._step)
        heard = of.halting.is_heard()
        change = Change({"halted": False}, {"halted": True if heard else ADVICE, "last": str(saved)})
        if of.snapshots.best is not None:
            change = self._with_best(change, restore_best, heard)
        of.halting.request(reason)
        return change

    def _with_best(self, change: Change, restore: bool, heard: bool) -> Change:
        of = self._of
        if restore:  # a loop that asks seldom has trained on by then
            of.halting.when_heard(of.put_best_back)
        if self._pending:
            return change
        if not (restore and heard):
            written, note = self._write_best()
            return Change(change.before, {**change.after, **written}, note)
        try:
            restored = of.snapshots.restore_best(of.parts(), self._step)
            change = Change({**change.before, **restored.before}, {**change.after, **restored.after})
            path = save(of.parts(), of.directory / BEST, of.snapshots.best or 0)
            return Change(change.before, {**change.after, "best": str(path)})
        except Refused as refused:
            return Change(change.before, change.after, str(refused))

    def _write_best(self) -> tuple[dict[str, str], str]:
        """What was written, or why nothing was: a halt is carried out all the same."""
        try:
            return {"best": str(self._of.write_best(self._step))}, ""
        except Refused as refused:
            return {}, str(refused)

    def _halt_together(self, reason: str) -> Change:
        """The same with other ranks, whose weights stay those of the last step. All are asked to stop, or none."""
        of, files, problem = self._of, dict[str, str](), ""
        if of.rank == 0:
            try:
                files["last"] = str(save(of.parts(), of.directory / LAST, self._step))
            except Refused as refused:
                problem = str(refused)
        if not self._all_ranks(not problem):
            raise Refused(problem or "The last state could not be saved by the first rank, which says why.")
        asks = not self._all_ranks(not of.halting.asks)  # often the first alone does, and tells the others
        note = ""
        if files and of.snapshots.best is not None and not self._pending:
            written, note = self._write_best()
            files.update(written)
        heard = asks or of.halting.is_heard()
        of.halting.request(reason, asks=asks)
        return Change({"halted": False}, {"halted": True if heard else ADVICE, **files}, note)

    def _around(self) -> StepControls:
        return StepControls(self._of.steering, self._optimizer)


class DryControls:
    """Says what `RunControls` would do, and does nothing. What would be refused in the end is not foreseen."""

    def __init__(self, actuators: Actuators, optimizer: str, step: int, since: int) -> None:
        self._of = actuators
        self._optimizer = optimizer
        self._step = step
        self._since = since

    def scale_learning_rate(
        self, factor: float, *, floor: float = 0.0, ceiling: float = math.inf, ramp: int = 0
    ) -> Change:
        scale = self._of.steering.target(self._optimizer)
        after = bounded(scale, factor, floor, ceiling)
        return Change({"learning_rate_scale": scale}, {"learning_rate_scale": after})

    def normalizes(self) -> bool:
        return StepControls(self._of.steering, self._optimizer).normalizes()

    def scale_weight_decay(self, factor: float, *, floor: float = 0.0, ceiling: float = math.inf) -> Change:
        return Change({}, {"factor": factor, "floor": floor, "ceiling": ceiling})

    def set_dropout(self, ratio: float, *, lower: bool = False) -> Change:
        steering, models = self._of.steering, list(self._of.parts().models.values())
        if self._optimizer:
            models = list(steering.models_of(steering.steered(self._optimizer).parameters))
        return dropped_out(would_change(models, ratio, lower=lower), ratio)

    def clip_gradients(self, max_norm: float | None, *, steps: int) -> Change:
        usual = self._of.steering.usual_norm(self._optimizer) if max_norm is None else max_norm
        return Change({"max_norm": None}, clipped(usual, steps))

    def clear_gradients(self) -> Change:
        return Change({"cleared": False}, {"cleared": True})

    def skip_step(self) -> Change:
        return Change({"skipped": False}, {"skipped": True})

    def roll_back(self, *, back: int = 0) -> Change:
        return Change({"weights_of_step": self._step}, {"before_step": self._since, "back": back})

    def halt(self, reason: str, *, restore_best: bool = True) -> Change:
        return Change({"halted": False}, {"halted": True, "restore_best": restore_best})
