"""Carries decisions out, each at its moment, and records what became of them.

What touches one step alone is done before that step is applied; what changes settings waits for the end of a step, what
changes weights for the end of the optimizer cycle, with no graph pending. Everything runs on the thread that trains.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, get_args

from trimtab.actions import STAGES, Action, Change, Controls, Halt, Refused, RollBack, Stage
from trimtab.actuators.controls import Actuators, DryControls, RunControls
from trimtab.actuators.cycle import Cycle
from trimtab.guard import Guard, in_words, text_of
from trimtab.policies import Decision, Engine
from trimtab.policies.accounts import FAILURES
from trimtab.policies.policy import CREEP_BACK, momentary
from trimtab.policies.reading import arguments
from trimtab.steering.noting import noting, together
from trimtab.types import Adjustment, Event, Outcome

_OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
ATTEMPTS = 50  # to find weights that no graph is waiting for
ATTEMPTS_AGAIN = 5  # where that many did not find any the last time: each searches all objects of the process
RESTORE_BEST = "restore_best"  # on record, the half of a halt that was not done
OVER = "the run ended first"
PATIENCE_STEPS = 1_000  # of the run, for an optimizer that is to be adjusted and does not step

Told: TypeAlias = Callable[[Sequence[Adjustment]], object]


class Moment(NamedTuple):
    """When something is decided, or done."""

    step: int
    applied: bool  # whether that step is applied by now
    late: bool  # whether the step that was judged is: on a device it is the one before

    @classmethod
    def after(cls, step: int) -> Moment:
        """When a step is over."""
        return cls(step, True, True)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A decision whose moment has not come."""

    decision: Decision
    stage: Stage
    since: int
    told: Told | None
    attempts: int = 0


class Others(Protocol):
    """The other ranks of the run: see `ranks.Ranks`."""

    def take_up(self, decision: Decision, moment: Moment, told: Told | None = None) -> None:
        """Decided here, for all."""
        ...

    def vote(self, value: float) -> bool:
        """Whether all ranks say the same."""
        ...

    def common(self, steps: Collection[int]) -> Collection[int]:
        """Those of the steps that all ranks name."""
        ...

    def part(self, reason: str) -> None:
        """They have done different things: from here on nothing is done together."""
        ...


class Execution:
    """What is to be done, and what was done.

    Args:
        labels: the optimizers that there are, by label.
        fenced: called with a decision that was carried out, the step, whether it is about the whole run, and the step
            whose weights were restored or None: what was seen before is no evidence any more.
        say: `(kind, text)`, called where the user should be told something once.
        why_no_best: says why a halt puts no best weights back, in a sentence; empty where it does.
    """

    def __init__(
        self,
        actuators: Actuators,
        engine: Engine,
        guard: Guard,
        emit: Callable[[Event], None],
        labels: Iterable[str],
        fenced: Callable[[Decision, int, bool, int | None], None],
        say: Callable[[str, str], None],
        why_no_best: Callable[[], str],
    ) -> None:
        self.steers = False  # whether anything was ever adjusted
        self.adjustments: list[Adjustment] = []
        self.follows_cycle = False  # whether weights may change between steps of several optimizers
        self.cycle = Cycle()
        self._aided: set[str] = set()  # optimizers whose step of now got first aid, or would have; empty for all
        self.others: Others | None = None  # ranks, with whom all is done together
        self._actuators = actuators
        self._engine = engine
        self._guard = guard
        self._emit = emit
        self._labels = labels
        self._fenced = fenced
        self._say = say
        self._why_no_best = why_no_best
        self._waiting: list[_Waiting] = []
        self._most_attempts = ATTEMPTS
        self._counted: Counter[tuple[str, str, str]] = Counter()

    @property
    def waits(self) -> bool:
        """Whether something waits for the end of a step."""
        return bool(self._waiting)

    def met(self, living: Sequence[str]) -> None:
        """These optimizers there are, of which the last is about to step for the first time."""
        self.follows_cycle = len(living) > 1
        self.cycle.meet(living)

    def has_aided(self, label: str) -> bool:
        """Whether the step of this optimizer got first aid, or would have in a dry run. Asked once a step."""
        found = bool(self._aided) and (label in self._aided or "" in self._aided)
        self._aided.clear()
        return found

    def take_up(self, decision: Decision, moment: Moment, told: Told | None = None) -> None:
        """Do it now, or when its moment comes. `told` is called with what was recorded, once."""
        stage = max((action.stage for action in decision.actions), key=STAGES.index)
        if momentary(decision.actions):
            self._aided.add(decision.optimizer)
        if decision.outcome is not None:
            controls = DryControls(self._actuators, decision.optimizer, moment.step, decision.since)
            for action in decision.actions:
                self._attempt(decision, action, controls, moment, decision.outcome)
        elif stage == "before_step":
            self._carry_out(decision, moment, told)
        else:
            self._waiting.append(_Waiting(decision, stage, moment.step, told))

    def stepped(self, label: str, step: int, *, pending: bool = False) -> bool:
        """The optimizer `label` has stepped: do what waited for it. Returns whether weights may be changed now.

        `pending`: they never may, since each of its steps is seen when the graph of the next one is there.
        """
        may_write = not self.follows_cycle or self.cycle.stepped(label)
        for waiting in list(self._waiting):
            is_due = waiting in self._waiting and (pending or self._is_due(waiting, label, may_write))
            if waiting not in self._waiting:  # ranks have parted over this one, or over one before it
                continue
            if is_due:
                self._waiting.remove(waiting)
                never_free = pending or waiting.attempts > self._most_attempts
                if waiting.attempts > 0:
                    self._most_attempts = ATTEMPTS_AGAIN if waiting.attempts > self._most_attempts else ATTEMPTS
                self._carry_out(waiting.decision, Moment.after(step), waiting.told, pending=never_free)
            elif step - waiting.since > PATIENCE_STEPS:
                self._withdraw(waiting, step, "refused", f"no moment came for it within {PATIENCE_STEPS:,} steps")
        return may_write and not pending

    def withdraw(self, step: int, outcome: Outcome, reason: str, *, spares_persons: bool = False) -> None:
        """Do not do what waits: all, or what policies decided. It is recorded, with the outcome and the reason."""
        for waiting in list(self._waiting):
            if not (spares_persons and waiting.decision.by_person):
                self._withdraw(waiting, step, outcome, reason)

    def leave(
        self, decision: Decision, moment: Moment, outcome: Outcome, reason: str, told: Told | None = None
    ) -> None:
        """Do not do what was decided. It is recorded, with the outcome and the reason."""
        self._engine.withdraw(decision)
        recorded = [
            self.record(decision, action.name, moment, outcome, reason=reason, given=arguments(action))
            for action in decision.actions
        ]
        if told is not None:
            told(recorded)

    def record(
        self,
        decision: Decision,
        action: str,
        moment: Moment,
        outcome: Outcome,
        *,
        change: Change | None = None,
        reason: str = "",
        optimizer: str | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> Adjustment:
        """Put it on record that `action`, `given` its arguments, had this outcome.

        For this optimizer, or (None) for that of the decision.
        """
        change = change or Change()
        self._counted[decision.policy, action, outcome] += 1
        adjustment = Adjustment(
            ts=time.time(),
            step=moment.step,
            moment="after_step" if moment.applied else "before_step",
            policy=decision.policy,
            action=action,
            arguments=given or {},
            rule=decision.rule,
            episode=decision.episode,
            optimizer=decision.optimizer if optimizer is None else optimizer,
            before=_by_text(change.before),
            after=_by_text(change.after),
            outcome=outcome,
            reason=reason,
            count=self._counted[decision.policy, action, outcome],
            budget_remaining=decision.budget_remaining,
        )
        self.adjustments.append(adjustment)
        self._emit(adjustment)
        return adjustment

    def _carry_out(self, decision: Decision, moment: Moment, told: Told | None, *, pending: bool = False) -> None:
        recorded: list[Adjustment] = []
        for action in decision.actions:
            every = not decision.optimizer and action.stage != "cycle_end"
            for label in self._present() if every else [decision.optimizer]:
                controls = RunControls(
                    self._actuators,
                    label,
                    moment.step,
                    decision.since,
                    late=moment.late,
                    pending=pending,
                    all_ranks=self._true_of_all,
                )
                recorded += self._attempt(decision, action, controls, moment, optimizer=label)
        outcomes: list[Outcome] = [adjustment.outcome for adjustment in recorded]
        if self.others is not None and not self.others.vote(_in_one_number(outcomes)):
            self.others.part(f"{decision.actions[0].name} had another outcome on another rank.")
        self.steers = self.steers or "applied" in outcomes
        restored = [each.after.get("weights_of_step") for each in recorded if each.outcome == "applied"]
        back_to = next((at for at in restored if isinstance(at, int)), None)
        following = self._engine.settle(decision, outcomes, moment.step, went_back=back_to is not None)
        if "applied" in outcomes:
            self._applied(decision, moment.step, back_to)
        if "failed" in outcomes and self._engine.disabled(decision.rule):
            self._say(
                f"disabled {decision.policy}",
                f"Policy {decision.policy} is disabled: {FAILURES} times an action raised.",
            )
        if told is not None:
            told(recorded)
        if following is not None:
            (self.others or self).take_up(following, moment)

    def _present(self) -> list[str]:
        """Every label but those of optimizers that are gone; all of them where none is left, to hear why.

        And where there never was one, as in a loop that updates by hand, the empty one.
        """
        steering = self._actuators.steering
        return [label for label in self._labels if not steering.steered(label).is_gone] or list(self._labels) or [""]

    def _true_of_all(self, fact: bool) -> bool:
        return fact if self.others is None else self.others.vote(float(fact)) and fact

    def _applied(self, decision: Decision, step: int, back_to: int | None) -> None:
        if decision.policy == CREEP_BACK:
            self._engine.scaled(decision.optimizer, self._actuators.steering.target(decision.optimizer))
        elif not momentary(decision.actions):
            of_all = not decision.optimizer or any(action.stage == "cycle_end" for action in decision.actions)
            if back_to is not None:
                self.cycle.dropped()
            self._fenced(decision, step, of_all, back_to)
            for label in self._labels if of_all else [decision.optimizer]:
                self._engine.scaled(label, self._actuators.steering.target(label), by_person=decision.by_person)

    def _attempt(
        self,
        decision: Decision,
        action: Action,
        controls: Controls,
        moment: Moment,
        outcome: Outcome = "applied",
        *,
        optimizer: str | None = None,
    ) -> list[Adjustment]:
        """Apply one action and record what became of it. `outcome` is what it is called when it succeeds.

        One that refused, or raised, when it had changed something is recorded twice: what was done, and what was not.
        So is a halt for which a person wanted weights put back that nobody has; of a policy's that is only noted.
        """
        noted, changes = noting(controls)
        returned: list[Change] = []
        problem = self._guard.attempt(lambda: returned.append(_applied_to(noted, action)))
        change = together([*changes, *returned])
        missing = self._missing(action) if returned and outcome == "applied" else ""
        if missing and not decision.by_person:
            change = together([change, Change(note=f"The best weights are not put back: {missing}")])

        def record(outcome: Outcome, change: Change, reason: str, name: str = action.name) -> Adjustment:
            return self.record(
                decision,
                name,
                moment,
                outcome,
                change=change,
                reason=" ".join(filter(None, (reason, change.note))),
                optimizer=optimizer,
                given=arguments(action),
            )

        recorded = [record(outcome, change, decision.reason)] if returned or changes else []
        if missing and decision.by_person:
            recorded.append(record("refused", Change(), missing, RESTORE_BEST))
        if isinstance(problem, Refused):
            recorded.append(record("refused", Change(), str(problem)))
        elif problem is not None:
            recorded.append(record("failed", Change(), in_words(problem)))
        return recorded

    def _missing(self, action: Action) -> str:
        """Why a halt that wants the best weights back has none to put back; empty where it has, or wants none."""
        return self._why_no_best() if isinstance(action, Halt) and action.restore_best else ""

    def _withdraw(self, waiting: _Waiting, step: int, outcome: Outcome, reason: str) -> None:
        self._waiting.remove(waiting)
        self.leave(waiting.decision, Moment.after(step), outcome, reason, waiting.told)

    def _is_due(self, waiting: _Waiting, label: str, may_write: bool) -> bool:
        if waiting.stage == "after_step":
            return waiting.decision.optimizer in ("", label)
        if not may_write:
            return False
        waiting.attempts += 1
        if self._agreed(waiting.decision, free=self._is_free()):
            return True
        if self.follows_cycle:
            self.cycle.blocked(label)
        return waiting.attempts > self._most_attempts  # which is refused then

    def _is_free(self) -> bool:
        """Whether no graph needs the weights as they are."""
        try:
            return self._actuators.snapshots.may_restore(self._actuators.parts())
        except Refused:  # weights that nobody can copy: who tries to restore them will hear why
            return True

    def _agreed(self, decision: Decision, *, free: bool) -> bool:
        """Whether the weights are free here, and everywhere else, to go back to the same snapshot."""
        others = self.others
        if others is None:
            return free
        back = next((action.back for action in decision.actions if isinstance(action, RollBack)), None)
        aim = None
        if back is not None:  # the best one, and what its memory or its disk has room for, each rank knows alone
            snapshots = self._actuators.snapshots
            snapshots.keep_only(others.common(snapshots.steps))
            aim = snapshots.aim(decision.since, back)
        goal = -1.0 if aim is None else float(aim)
        return others.vote(goal if free else -2.0) and free


def _applied_to(controls: Controls, action: Action) -> Change:
    change = action.apply(controls)
    if not isinstance(change, Change):
        raise TypeError(f"apply() returned {change!r}: expected what a control returns, or Change().")
    return change


def _by_text(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Settings by name. An action of the user's may have numbered them: backends know names alone."""
    return {text_of(name): value for name, value in settings.items()}


def _in_one_number(outcomes: Sequence[Outcome]) -> float:
    """The first 16 outcomes, as one whole number that a float holds: other outcomes make another number."""
    base = len(_OUTCOMES) + 1
    return float(sum((_OUTCOMES.index(outcome) + 1) * base**at for at, outcome in enumerate(outcomes[:16])))
