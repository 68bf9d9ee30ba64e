"""Closes the loop: what is sampled is judged, what is judged is answered, what is answered is carried out.

Everything runs on the thread that trains. A step is judged in its pre-hook, where its loss and gradients are known and
not applied yet. What touches that step alone is done there; what changes settings waits for the post-hook, what changes
weights for the end of the optimizer cycle, with no graph pending.
"""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from trimtab.actions import Action, Change, Controls, Refused, Stage
from trimtab.actuators.controls import Actuators
from trimtab.actuators.cycle import Cycle
from trimtab.guard import Guard
from trimtab.policies import Decision, Engine
from trimtab.policies.policy import CREEP_BACK, PERSON, momentary
from trimtab.policies.reading import arguments
from trimtab.rules.judge import Judge
from trimtab.rules.trailing import TrailingWorst
from trimtab.sample.ledger import GradientSample, Ledger
from trimtab.sample.readings import Points, points
from trimtab.sample.sampler import Judged, Sampler
from trimtab.sample.scalars import Held
from trimtab.types import Adjustment, Alert, Event, Outcome, PhaseSummary, Verdict, Verdicts

_STAGES: tuple[Stage, ...] = ("before_step", "after_step", "cycle_end")
ATTEMPTS = 50  # to find weights that no graph is waiting for


@dataclass(slots=True)
class _Waiting:
    """A decision whose moment has not come."""

    decision: Decision
    stage: Stage
    attempts: int = 0


class Controller:
    """Judges every step of a run, and lets policies act. See `capture.capture.Controller`."""

    def __init__(
        self,
        judge: Judge,
        engine: Engine,
        actuators: Actuators,
        sampler: Sampler,
        guard: Guard,
        emit: Callable[[Event], None],
        say: Callable[[str, str], None],
        *,
        acts: bool,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.awaits_steps = False
        self.steers = False
        self.adjustments: list[Adjustment] = []
        self.alerts: list[Alert] = []
        self.optimizers: dict[str, weakref.ref[Optimizer]] = {}
        self._judge = judge
        self._engine = engine
        self._actuators = actuators
        self._sampler = sampler
        self._guard = guard
        self._emit = emit
        self._say = say
        self._acts = acts
        self._clock = clock
        self._cycle = Cycle()
        self._waiting: list[_Waiting] = []
        self._on_device: dict[str, tuple[int, Points]] = {}  # judged when the next ones come
        self._train: tuple[float, int] = (0.0, 0)  # sum and number of losses since the last validation
        self._trailing = TrailingWorst(judge.rules)
        self._fired: Counter[str] = Counter()
        self._counted: Counter[tuple[str, str, str]] = Counter()
        self._snapshot_at: float | None = None

    def met(self, optimizer: Optimizer, label: str) -> None:
        """An optimizer is about to step for the first time: its state now is the first that a rollback can use."""
        self.optimizers[label] = weakref.ref(optimizer)
        self._actuators.steering.meet(label, optimizer)
        if self._acts:
            self._take(lambda: self._actuators.snapshots.meet(self._actuators.parts(), self._sampler.steps_written()))
            self.awaits_steps = self._follows_cycle

    def judge(
        self,
        optimizer: Optimizer,
        ledger: Ledger,
        losses: Sequence[Held | None],
        samples: Sequence[tuple[int, GradientSample]],
    ) -> int:
        """See `StepController`. What is on a device is judged one judgement later, so that nobody waits."""
        label, step = ledger.label, self._sampler.steps_written() + 1
        newest = (step, points(losses, samples, ledger.newest_update))
        arrived: tuple[int, Points] | None = newest
        late = not newest[1].immediate
        if late:
            arrived, self._on_device[label] = self._on_device.get(label), newest
        if arrived is not None:
            last, read = arrived[0], arrived[1].read()
            rate = next((r for r in ledger.learning_rate if isinstance(r, float)), None)
            verdicts: list[Verdict] = []
            for index, (loss, reading) in enumerate(read, start=last - len(read) + 1):
                verdicts += self._judge.step(label, index, loss, reading, rate)
                if loss is not None:
                    self._train = self._train[0] + loss, self._train[1] + 1
            self._answer(label, verdicts, step, late=late)
        return self._sampler.judging_interval

    def left_out(self, optimizer: Optimizer) -> bool:
        """See `StepController`."""
        return self._actuators.steering.skipped(optimizer)

    def rates(self, optimizer: Optimizer) -> Sequence[Any] | None:
        """See `StepController`."""
        used = self._actuators.steering.used(optimizer)
        return None if used is None else used.learning_rates

    def skipped(self, label: str) -> None:
        """GradScaler skipped a step."""
        step = self._sampler.steps_written()
        self._answer(label, self._judge.skipped(label, step), step, late=True)
        if self._follows_cycle:
            self._cycle.stepped(label)

    def backward_reached(self, label: str, *, loss: Held, cleared: bool) -> None:
        """A backward wrote to gradients that the optimizer `label` may apply."""
        self._judge.contest.backward(label, loss)
        self._cycle.backward(label, cleared=cleared)

    def validated(self, summary: PhaseSummary) -> None:
        """A validation pass is over, and the weights are still those that were validated."""
        step = self._sampler.steps_written()
        total, count = self._train
        self._train = (0.0, 0)
        verdicts = self._judge.validation(step, summary.loss, summary.accuracy, total / count if count else None)
        if self._acts and self._judge.improved:
            self._take(lambda: self._actuators.snapshots.take_best(self._actuators.parts(), step))
        self._answer("", verdicts, step, late=True)

    def logged(self, values: Mapping[str, float]) -> None:
        """The user logged values."""
        step = self._sampler.steps_written()
        for name, value in values.items():
            self._answer("", self._judge.logged(step, name, value), step, late=True)

    def recorded(self, **values: float) -> None:
        """What is measured of the run itself, by the names of the signals."""
        step = self._sampler.steps_written()
        self._answer("", self._judge.record(step, **values), step, late=True)

    def hung(self, verdict: Verdict, text: str) -> None:
        """The watchdog says so, on its own thread: advice only."""
        self._tell(verdict)
        self._say(f"hung {verdict.episode}", text)

    def recovered(self, verdict: Verdict) -> None:
        """The run has moved on."""
        self._tell(verdict)

    def stepped(self, optimizer: Optimizer, label: str) -> None:
        """The parameters are updated: the moment for what has waited for it."""
        may_write = not self._follows_cycle or self._cycle.stepped(label)
        step = self._sampler.steps_written()
        for waiting in list(self._waiting):
            if self._is_due(waiting, label, may_write):
                self._waiting.remove(waiting)
                self._carry_out(waiting.decision, step, late=True, pending=waiting.attempts > ATTEMPTS)
        if self._acts and may_write and self._actuators.snapshots.due(step):
            self._snapshot(step)
        self.awaits_steps = bool(self._waiting) or self._follows_cycle

    def judged(self, label: str) -> Judged:
        """What a record says of the steps since the last one."""
        now = self._clock()
        levels = {**self._judge.take_levels(""), **self._judge.take_levels(label)}
        self._trailing.add(now, levels)
        scales = {
            (name, group): self._actuators.steering.scale(name)
            for name, held in self.optimizers.items()
            if (optimizer := held()) is not None
            for group in range(len(optimizer.param_groups))
        }
        verdicts = Verdicts(
            rule_levels=self._trailing.worst(now),
            signals=self._judge.signals(),
            fired=dict(self._fired),
            learning_rate_scale=scales,
            snapshot_age_s=None if self._snapshot_at is None else now - self._snapshot_at,
        )
        return Judged({rule: float(f"{level:.4g}") for rule, level in levels.items()}, verdicts)

    def close(self) -> None:
        """The run ends: put everything back as the user had it."""
        self._actuators.close()

    def state(self) -> dict[str, Any]:
        """Scales, budgets, cooldowns and episodes, in plain values that JSON holds."""
        return {
            "engine": self._engine.state(),
            "judge": self._judge.state(),
            "steering": self._actuators.steering.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._engine.restore(state["engine"])
        self._judge.restore(state["judge"])
        self._actuators.steering.load_state_dict(state["steering"])
        self.steers = True

    @property
    def _follows_cycle(self) -> bool:
        return self._acts and len(self.optimizers) > 1

    def _answer(self, label: str, verdicts: Sequence[Verdict], step: int, *, late: bool) -> None:
        for verdict in verdicts:
            self._tell(verdict)
        healthy = (label,) if label and self._judge.healthy(label) else ()
        for decision in self._engine.decide(verdicts, step, healthy=healthy):
            self._take_up(decision, step, late=late)

    def _tell(self, verdict: Verdict) -> None:
        if verdict.state == "firing":
            self._fired[verdict.rule] += 1
        alert = Alert(
            ts=time.time(),
            step=verdict.step,
            rule=verdict.rule,
            optimizer=verdict.optimizer,
            episode=verdict.episode,
            state=verdict.state,
            severity=verdict.severity,
            value=verdict.value,
            threshold=verdict.threshold,
        )
        self.alerts.append(alert)
        self._emit(alert)

    def _take_up(self, decision: Decision, step: int, *, late: bool) -> None:
        stage = max((action.stage for action in decision.actions), key=_STAGES.index)
        if decision.outcome is not None:
            controls = self._actuators.dry_controls(decision.optimizer, step, decision.since)
            for action in decision.actions:
                self._attempt(decision, action, controls, step, decision.outcome)
        elif stage == "before_step":
            self._carry_out(decision, step, late=late)
        else:
            self._waiting.append(_Waiting(decision, stage))
            self.awaits_steps = True

    def _carry_out(self, decision: Decision, step: int, *, late: bool, pending: bool = False) -> None:
        outcomes: list[Outcome] = []
        for action in decision.actions:
            every = not decision.optimizer and action.stage != "cycle_end"
            for label in list(self.optimizers) if every else [decision.optimizer]:
                controls = self._actuators.controls(label, step, decision.since, late=late, pending=pending)
                outcomes.append(self._attempt(decision, action, controls, step))
        self.steers = self.steers or "applied" in outcomes
        following = self._engine.settle(decision, outcomes, step)
        if "applied" in outcomes and decision.policy == CREEP_BACK:
            self._engine.scaled(decision.optimizer, self._actuators.steering.scale(decision.optimizer))
        elif "applied" in outcomes and not momentary(decision.actions):
            self._fence(decision, step)
        if following is not None:
            self._take_up(following, step, late=late)

    def _attempt(
        self, decision: Decision, action: Action, controls: Controls, step: int, outcome: Outcome = "applied"
    ) -> Outcome:
        """Apply one action and record what became of it. `outcome` is what it is called when it succeeds."""
        changes: list[Change] = []
        problem = self._guard.attempt(lambda: changes.append(action.apply(controls)))
        reason = decision.reason
        if isinstance(problem, Refused):
            outcome, reason = "refused", str(problem)
        elif problem is not None:
            outcome, reason = "failed", f"{type(problem).__name__}: {problem}"
        change = changes[0] if changes else Change()
        self._record(decision, action, change, step, outcome, " ".join(filter(None, (reason, change.note))))
        return outcome

    def _record(
        self, decision: Decision, action: Action, change: Change, step: int, outcome: Outcome, reason: str
    ) -> None:
        self._counted[decision.policy, action.name, outcome] += 1
        adjustment = Adjustment(
            ts=time.time(),
            step=step,
            policy=decision.policy,
            action=action.name,
            arguments=arguments(action),
            rule=decision.rule,
            episode=decision.episode,
            optimizer=decision.optimizer,
            before=change.before,
            after=change.after,
            outcome=outcome,
            reason=reason,
            count=self._counted[decision.policy, action.name, outcome],
            budget_remaining=decision.budget_remaining,
        )
        self.adjustments.append(adjustment)
        self._emit(adjustment)

    def _fence(self, decision: Decision, step: int) -> None:
        """What was seen before an adjustment is no evidence any more."""
        of_all = not decision.optimizer or any(action.stage == "cycle_end" for action in decision.actions)
        self._judge.fence(step, None if of_all else decision.optimizer)
        if of_all:
            self._engine.fence()
            self._on_device.clear()
            self._cycle.dropped()
        self._trailing.fence(self._clock())
        for label in self.optimizers if of_all else [decision.optimizer]:
            self._engine.scaled(label, self._actuators.steering.scale(label), by_person=decision.policy == PERSON)

    def _is_due(self, waiting: _Waiting, label: str, may_write: bool) -> bool:
        if waiting.stage == "after_step":
            return waiting.decision.optimizer in ("", label)
        if not may_write:
            return False
        waiting.attempts += 1
        if self._actuators.snapshots.may_restore(self._actuators.parts()):
            return True
        if self._follows_cycle:
            self._cycle.blocked(label)
        return waiting.attempts > ATTEMPTS  # which is refused then

    def _snapshot(self, step: int) -> None:
        if all(map(self._judge.healthy, self.optimizers)):
            step_s = self._sampler.gradient_spacing.median_step_s
            if self._take(lambda: self._actuators.snapshots.take(self._actuators.parts(), step, step_s)):
                self._snapshot_at = self._clock()

    def _take(self, take: Callable[[], object]) -> bool:
        """Whether a snapshot could be taken; why not is told once."""
        try:
            take()
        except Refused as refused:
            self._say("snapshots", str(refused))
            return False
        return True
