"""The best state of a run: kept, put back where the user asks for it, and written down where a run ends in trouble."""

from __future__ import annotations

from collections.abc import Callable

from trimtab.actions import Refused
from trimtab.actuators.controls import Actuators
from trimtab.actuators.picture import NO_BUFFERS, Buffers
from trimtab.rules.judge import Judge

DRY = (
    "this is a dry run, in which no state is copied. With act='process' the best one is kept; to keep it and adjust "
    "nothing, add policies=[]"
)
ELSEWHERE = "the first rank alone keeps the best state, and writes it to best.pt when it is asked"
ALIKE = "the weights of all ranks stay alike"
IN_RANKS = f"{ALIKE}. Every one can load {{path}}"


class Best:
    """What is kept is the state at the best validation, or the best value of the monitored name, as `judge` sees it.

    Args:
        say: `(kind, text)`, called where the user should be told something.
        why_not: why no state is kept in this run, empty where one is.
    """

    def __init__(self, actuators: Actuators, judge: Judge, say: Callable[[str, str], None], why_not: str = "") -> None:
        self._actuators = actuators
        self._judge = judge
        self._say = say
        self._why_not = why_not
        self._value = 0.0  # of what is monitored, at the best
        self._in_place = -1  # the step at which the best state was put back

    def keep(self, step: int, buffers: Buffers = NO_BUFFERS) -> None:
        """The newest monitored value is the best so far: keep the state that it was measured of, with `buffers`.

        Raises:
            Refused: as `Snapshots.take_best` does.
        """
        self._actuators.snapshots.take_best(self._actuators.parts(), step, buffers)
        self._value = self._judge.newest

    def restore(self, step: int) -> int | None:
        """Put the best state in place of that after `step` steps, and say what was done. Returns the step it is of.

        None where the weights stay as they are: no state was kept, it does not fit, or there are other ranks.
        """
        try:
            if self._why_not:
                raise Refused(f"{self._why_not}.")
            best = self._best_step()
            if self._actuators.rank is not None:
                raise Refused(IN_RANKS.format(path=self._actuators.write_best(step)) + ".")
            self._actuators.snapshots.restore_best(self._actuators.parts(), step)
        except Refused as refused:
            self._say(f"restore_best {step}", f"restore_best() leaves the weights as they are: {refused}")
            return None
        self._in_place = step
        text = f"restore_best(): {self._described(best)}, is in place of that of step {step}."
        self._say(f"restore_best {step}", text)
        return best

    def why_not_put_back(self) -> str:
        """Why a halt puts no weights back, in a sentence; empty where it does. The same on every rank."""
        snapshots = self._actuators.snapshots
        if self._actuators.rank is not None:
            return f"{ALIKE}. If there was a validation, the best state is in best.pt."
        if self._why_not:
            return f"{self._why_not}."
        return "" if snapshots.best is not None else snapshots.why_no_best

    def end(self, step: int) -> None:
        """The run has completed: where a rule fires, and the best state is an earlier one, write that and say so."""
        snapshots = self._actuators.snapshots
        best, firing = snapshots.best, self._judge.firing()
        if best is None or not firing or step in (best, self._in_place) or self._actuators.halting.heeded:
            return
        why = f"The run ended at step {step} while {firing[0]} fires; {self._described(best)}"
        call = "trimtab.restore_best() after the loop puts it back into the model"
        try:
            if not snapshots.may_restore(self._actuators.parts()):
                raise Refused("A graph is pending that needs the weights as they are.")
            self._say("ends in trouble", f"{why}, is in {self._actuators.write_best(step)}; {call}.")
        except Refused as refused:
            self._say("ends in trouble", f"{why}, could not be written: {refused} {call}.")

    def _best_step(self) -> int:
        best = self._actuators.snapshots.best
        if best is None:
            raise Refused(self._actuators.snapshots.why_no_best)
        return best

    def _described(self, best: int) -> str:
        judge = self._judge
        return f"the best state, of step {best} ({judge.monitor} {self._value:.4g}, at last {judge.newest:.4g})"
