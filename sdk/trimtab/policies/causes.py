"""Whether a loss that has risen can be the fault of weights or rate: told from what it is right after going back."""

from __future__ import annotations

from collections.abc import Mapping

from trimtab.actions import RollBack
from trimtab.policies.decisions import Decision
from trimtab.types import Strides, Verdict

AT_ONCE = 2  # steps after going back: a loss as high from there on was so before anything had moved the weights
FIRST = 3  # steps after going back in which a jump may be that of one bad batch, or of all that follow
OLDER = 1  # times that an older snapshot is tried
ENOUGH = 2  # times that this is told, until a jump of the loss is no reason to do anything any more
LASTING = 10  # steps that evidence rests on, so that one bad batch is none
JUMP = "loss_spike"  # the rule of a single loss; the first one after going back is that of weights which were good

LITTLE = 0.05  # of the learning rate: two falls leave less
SHORT = 1e-3  # of its own size: by more a usual step moves a typical layer

CHANGED = (
    "going back and lower rates did not help, so what is asked of the model has changed: "
    "only what shows that training does harm counts from here on: a bad validation, a loss that rests at chance"
)

HARMFUL = "going back did not help, so what is asked of the model has changed, and training on makes it worse"


class Causes:
    """For each optimizer whether its loss rises because what is asked of the model has changed.

    A model that is put back to where it was good has a good loss, whatever the rate. If its loss is as high as before
    from the first step on, for long or by a jump at that step, it may have been bad by then: the next snapshot is an
    older one. If that does not help either, or the weights are known to have had a good loss when they were kept, the
    objective or the data are others: a term that is switched on, the next task, the targets of reinforcement learning,
    wrong labels. (A jump in the first steps after it may be one bad batch, where the weights were good.) Or the loss
    rises again though the rate was lowered until steps hardly move the weights: then it belongs to training, as while a
    codebook is learned. From then on the loss must rest at chance, or validation get worse, before anything is done
    about it: see `Course.harmful`.
    """

    __slots__ = ("_back", "_elsewhere", "_told", "_vain")

    def __init__(self) -> None:
        self._back: int | None = None  # the step at which the run was last put back, all of it as always
        self._vain: dict[str, set[int]] = {}  # by optimizer, the steps at which that did not help
        self._elsewhere: dict[str, int] = {}  # by optimizer, how often it was told, or the rate given back
        self._told: dict[str, tuple[int, int]] = {}  # by optimizer, the last `_back` that told it alone, and when

    def settled(self, decision: Decision, step: int, *, went_back: bool) -> None:
        """A decision was carried out, at `step`: see `Engine.settle`."""
        if went_back and any(isinstance(a, RollBack) for a in decision.actions):
            self._back = step

    def hear(self, verdict: Verdict, *, is_answered: bool, moves: bool = True, were_good: bool = False) -> None:
        """A rule fires whose policy goes back. Hearing of it again changes nothing.

        What is not answered, since another rule has its turn, counts only from the very first step on. For `moves` see
        `is_moving`, for `were_good` see `Evidence`.
        """
        after = self._steps_after_going_back(verdict)
        if self._back is None or after is None:
            return
        if were_good and after == 1:  # a rate that is too high needs that step to ruin them
            if _is_lasting(verdict) and not self._tells(verdict.optimizer):
                self._told[verdict.optimizer] = self._back, verdict.step
                self._elsewhere[verdict.optimizer] = self._elsewhere.get(verdict.optimizer, 0) + 1
            return
        vain = self._vain.setdefault(verdict.optimizer, set())
        if 0 < after <= (AT_ONCE if is_answered else 1):
            vain.add(self._back)
            if len(vain) > OLDER:
                self._elsewhere.setdefault(verdict.optimizer, 0)
        elif not moves and after > 0:
            self._elsewhere.setdefault(verdict.optimizer, 0)
        elif is_answered and self._back not in vain:
            vain.clear()

    def gave_back(self, optimizer: str) -> None:
        """What its rate was lowered by is undone."""
        if not self._tells(optimizer):
            self._elsewhere[optimizer] = self._elsewhere.get(optimizer, 0) + 1

    def begin_anew(self, optimizer: str) -> None:
        """It trains another model."""
        self._back = None
        self._vain.pop(optimizer, None)
        self._elsewhere.pop(optimizer, None)
        self._told.pop(optimizer, None)

    def older(self, optimizer: str) -> int:
        """How many snapshots further back to go than a policy says: none where that is known to be of no use."""
        return 0 if optimizer in self._elsewhere else len(self._vain.get(optimizer, ()))

    def is_too_soon(self, verdict: Verdict) -> bool:
        """Whether the loss jumped in the first steps after going back, and nobody knows yet whether it stays there."""
        if self._back is None or verdict.rule != JUMP or self._is_told(verdict):
            return False
        return 0 < verdict.step - self._back <= FIRST

    def doubted(self, verdict: Verdict) -> bool:
        """Whether a rise of this loss, seen over several steps, no longer tells how well training goes.

        Nor does a jump where this was told, or the rate given back, twice; or by what followed it since going back.
        """
        given_back = self._elsewhere.get(verdict.optimizer)
        if given_back is None:
            return False
        is_jump_again = verdict.rule == JUMP and (given_back >= ENOUGH or self._is_told(verdict))
        return is_jump_again or _is_lasting(verdict) or self._steps_after_going_back(verdict) == 1

    def state(self) -> dict[str, int]:
        """For `restore`: plain values that JSON holds."""
        return dict(self._elsewhere)

    @classmethod
    def restore(cls, state: Mapping[str, int]) -> Causes:
        """Go on from `state`; when a run went back is no evidence after a resume."""
        causes = cls()
        causes._elsewhere = {str(optimizer): int(count) for optimizer, count in state.items()}
        return causes

    def _tells(self, optimizer: str) -> bool:
        """Whether what came since the last going back has told it."""
        return optimizer in self._told and self._told[optimizer][0] == self._back

    def _is_told(self, verdict: Verdict) -> bool:
        """Whether this is part of what has told it."""
        return self._tells(verdict.optimizer) and verdict.step <= self._told[verdict.optimizer][1]

    def _steps_after_going_back(self, verdict: Verdict) -> int | None:
        """How many steps after going back its evidence begins; None where it rests on single later steps."""
        if self._back is None:
            return None
        if verdict.rule == JUMP and verdict.step == self._back + 1:
            return 1
        return verdict.since - self._back if _is_lasting(verdict) else None


def is_moving(left: float, strides: Strides) -> bool:
    """Whether steps may still do harm, with this share of the learning rate left by policies."""
    return left > LITTLE or not 0.0 < (strides.measured or strides.first) <= SHORT


def _is_lasting(verdict: Verdict) -> bool:
    return verdict.step - verdict.since >= LASTING
