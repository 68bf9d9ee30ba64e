"""Whether a loss that has risen can be the fault of weights or rate: told from what it is right after going back."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.actions import RollBack
from trimtab.policies.decisions import Decision
from trimtab.types import Outcome, Verdict

AT_ONCE = 2  # steps after going back: a loss as high from there on was so before anything had moved the weights
LASTING = 10  # steps that evidence rests on, so that one bad batch is none
LOST = 0.6  # of what validation had gained: where two passes have lost that too, training does harm

CHANGED = (
    "the loss was as high as soon as the run had gone back, so what is asked of the model has changed: "
    "only a validation that gets worse counts from here on"
)


class Causes:
    """For each optimizer whether its loss rises because what is asked of the model has changed.

    A model that is put back to where it was good has a good loss, whatever the rate. If its loss is as high as before
    from the first step on, the objective or the data are others: a term that is switched on, the next task, the targets
    of reinforcement learning, wrong labels. From then on only validation tells whether that does harm.
    """

    __slots__ = ("_back", "_elsewhere")

    def __init__(self) -> None:
        self._back: int | None = None  # the step at which the run was last put back, all of it as always
        self._elsewhere: set[str] = set()  # optimizers

    def settled(self, decision: Decision, outcomes: Sequence[Outcome], step: int) -> None:
        """How a decision was carried out, at `step`: see `Engine.settle`."""
        if "applied" in outcomes and any(isinstance(a, RollBack) for a in decision.actions):
            self._back = step

    def at_once(self, verdict: Verdict) -> bool:
        """Whether what fires has been so since the first steps after going back."""
        since = 0 if self._back is None else verdict.since - self._back
        found = 0 < since <= AT_ONCE and _is_lasting(verdict)
        if found:
            self._elsewhere.add(verdict.optimizer)
        return found

    def doubted(self, verdict: Verdict) -> bool:
        """Whether a rise of this loss, seen over several steps, no longer tells how well training goes."""
        return verdict.optimizer in self._elsewhere and _is_lasting(verdict)

    def state(self) -> list[str]:
        """For `restore`: plain values that JSON holds."""
        return sorted(self._elsewhere)

    @classmethod
    def restore(cls, state: Sequence[str]) -> Causes:
        """Go on from `state`; when a run went back is no evidence after a resume."""
        causes = cls()
        causes._elsewhere = set(map(str, state))
        return causes


def _is_lasting(verdict: Verdict) -> bool:
    return verdict.step - verdict.since >= LASTING
