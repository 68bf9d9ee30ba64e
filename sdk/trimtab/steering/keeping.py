"""Which states of a run are kept: now and then one to go back to, while it is healthy, and the best one of all."""

from __future__ import annotations

from collections.abc import Callable, Collection

from trimtab.actions import Refused
from trimtab.actuators.controls import Actuators
from trimtab.actuators.look import Look
from trimtab.actuators.picture import NO_BUFFERS, Buffers
from trimtab.policies.replay import Replay
from trimtab.rules.judge import Judge
from trimtab.sample.pace import Pace
from trimtab.steering.best import Best
from trimtab.steering.ranks import Ranks

SWAPPED = (
    "After step {step} other weights were validated than are there now: those of an average, say, that stood in for "
    "them, or a model that was changed since. Nothing was kept of that pass. From now on weights are copied when a "
    "validation begins, so that the best state is of those that were validated."
)


class Keeping:
    """Asked by the controller between two steps, on the thread that trains. Why a state is not kept is told once.

    Args:
        optimizers: those that are known, by label.
        say: `(kind, text)`, called where the user should be told something.
        acts: whether anything is ever put back. A dry run keeps nothing, since a copy costs time and memory.
        ranks: where there are others, with whom snapshots are taken together; the first keeps the best.
        replay: where there is one, which says when snapshots are taken.
    """

    def __init__(
        self,
        actuators: Actuators,
        judge: Judge,
        pace: Pace,
        best: Best,
        optimizers: Collection[str],
        say: Callable[[str, str], None],
        *,
        acts: Callable[[], bool],
        ranks: Ranks | None,
        replay: Replay | None,
    ) -> None:
        self.best = best
        self._actuators = actuators
        self._judge = judge
        self._pace = pace
        self._optimizers = optimizers
        self._say = say
        self._acts = acts
        self._ranks = ranks
        self._keeps_best = ranks is None or ranks.leads
        self._replay = replay
        self._buffers: Buffers = {}  # while a validation is under way, those that it began with
        self._look: Look | None = None  # ... and the weights
        self._copies_weights = False  # whether others were validated than train

    def met(self, step: int) -> None:
        """An optimizer is about to step for the first time: its state now is the first that a rollback can use."""
        if self._acts():
            self._try(lambda: self._actuators.snapshots.meet(self._actuators.parts(), step))

    def taken_over(self, step: int) -> None:
        """An optimizer is about to step in the place of another one: a stage may begin with the state of now."""
        if self._acts():
            self._take(step)

    def wanted(self, step: int) -> bool:
        """Whether this rank would keep the state after `step` steps: one is due, and the run is healthy."""
        return self._actuators.snapshots.due(step) and all(map(self._judge.healthy, self._optimizers))

    def stepped(self, step: int) -> None:
        """The parameters are those after `step` steps, and no graph is pending."""
        if not (self._acts() and self._is_due(step)):
            return
        if self._ranks is not None:
            self._ranks.takes_snapshot = False
        self._take(step)

    def validating(self) -> None:
        """A validation begins. It is over when training goes on, which has changed running statistics by then."""
        if self._keeps_best and self._acts():
            parts = self._actuators.parts()
            self._buffers = self._actuators.snapshots.buffers(parts, with_parameters=self._copies_weights)
            self._look = None if self._copies_weights else Look(parts)

    def validated(self, step: int) -> None:
        """The validation of the weights after `step` steps has been judged."""
        buffers, self._buffers = self._buffers, {}
        look, self._look = self._look, None
        if self._judge.improved and look is not None:
            self._copies_weights = not look.is_same(self._actuators.parts())
            if self._copies_weights:
                self._say("other weights validated", SWAPPED.format(step=step))
                return
        self.monitored(step, buffers)

    def monitored(self, step: int, buffers: Buffers = NO_BUFFERS) -> None:
        """The monitored value of the weights after `step` steps has been judged. `buffers` are those it was of."""
        if self._judge.improved and self._keeps_best and self._acts():
            self._try(lambda: self.best.keep(step, buffers))

    def _is_due(self, step: int) -> bool:
        if self._replay is not None:
            return step in self._replay.snapshots
        return self.wanted(step) if self._ranks is None else self._ranks.takes_snapshot

    def _take(self, step: int) -> None:
        step_s = self._pace.step_s
        self._try(lambda: self._actuators.snapshots.take(self._actuators.parts(), step, step_s))

    def _try(self, keep: Callable[[], object]) -> None:
        try:
            keep()
        except Refused as refused:
            self._say("snapshots", str(refused))
