"""Closes the loop: what is sampled is judged, what is judged is answered, what is answered is carried out.

Everything runs on the thread that trains. A step is judged in its pre-hook, where its loss and gradients are known and
not applied yet. What touches that step alone is done there; what changes settings waits for the post-hook, what changes
weights for the end of the optimizer cycle, with no graph pending.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from trimtab.actuators.controls import Actuators
from trimtab.alerts.reception import Reception
from trimtab.guard import Guard
from trimtab.policies import Decision, Engine
from trimtab.policies.policy import PERSON
from trimtab.policies.replay import Replay
from trimtab.rules.judge import Judge
from trimtab.sample.books import Books
from trimtab.sample.ledger import Ledger
from trimtab.sample.pace import Pace
from trimtab.sample.readings import Due
from trimtab.sample.records import Judged
from trimtab.sample.scalars import Held
from trimtab.steering.absent import Absent
from trimtab.steering.answering import Answering
from trimtab.steering.best import DRY, ELSEWHERE, Best
from trimtab.steering.control import Control
from trimtab.steering.elsewhere import Elsewhere
from trimtab.steering.execution import OVER, Execution, Moment
from trimtab.steering.forgetting import Forgetting
from trimtab.steering.judging import Judging, fixed_beside
from trimtab.steering.keeping import Keeping
from trimtab.steering.membership import Membership
from trimtab.steering.orders import Orders
from trimtab.steering.standing import Standing
from trimtab.steering.telling import Telling
from trimtab.steering.wariness import Wariness
from trimtab.types import Adjustment, Alert, Event, PhaseSummary, Verdict


class Controller:
    """Judges every step of a run, and lets policies and persons act. See `capture.capture.RunController`."""

    def __init__(
        self,
        judge: Judge,
        engine: Engine,
        actuators: Actuators,
        books: Books,
        pace: Pace,
        guard: Guard,
        emit: Callable[[Event], None],
        say: Callable[[str, str], None],
        *,
        acts: bool,
        control: Control | None = None,
        no_orders: str = "",
        reception: Reception | None = None,
        replay: Replay | None = None,
        place: tuple[int, int] = (0, 1),
        resumes: bool = False,
        trains_alone: Callable[[], bool] = lambda: True,
        found_ranks: Callable[[int], None] = lambda ranks: None,
    ) -> None:
        """`control` is where a person's orders come in; `no_orders` says why none but a pause can be taken.

        With `replay` what it says is done, and what policies say is not. `place` is the rank and the number of ranks.
        `resumes`: the run goes on with one of before. `trains_alone()` says whether no thread but this one trains.
        `found_ranks` is called with the number of ranks where they turn out to be several.
        """
        self.awaits_steps = False
        self.optimizers: dict[str, weakref.ref[Optimizer]] = {}
        self._labels: dict[str, None] = {}  # of all that steps, also of what has no optimizer of its own
        self._anew: set[str] = set()  # of those that were adjusted since their last step
        self.shared: dict[str, None] = {}  # those that several optimizers have, which step inside `backward`
        self._judge = judge
        self._engine = engine
        self._actuators = actuators
        self._books, self._pace = books, pace
        self._say = say
        self.reception = reception  # None where no alerts are taken in
        self._execution = Execution(
            actuators,
            engine,
            guard,
            emit,
            self._labels,
            self._adjusted,
            say,
            why_no_best=lambda: self._keeping.best.why_not_put_back(),
        )
        self._membership = Membership(
            place,
            self._execution,
            engine,
            actuators.steering,
            books,
            guard,
            say,
            judge.usual_norm,
            acts=acts,
            resumes=resumes,
            replays=replay is not None,
            no_orders=no_orders,
            found=found_ranks,
        )
        ranks = self._membership.ranks
        why_no_best = "" if self._membership.leads else ELSEWHERE
        self._keeping = Keeping(
            actuators,
            judge,
            pace,
            Best(actuators, judge, say, why_no_best if acts else DRY),
            self.optimizers,
            say,
            acts=lambda: self.acts,
            ranks=ranks,
            replay=replay,
        )
        self._telling = Telling(judge, engine, actuators, self.optimizers, emit, self._say)
        self._answering = Answering(
            judge, engine, self._execution, self._membership, self._telling, reception=reception, replay=replay
        )
        self._orders = (
            None
            if control is None
            else Orders(
                control,
                self._execution,
                engine,
                guard,
                say,
                take_up=self._answering.take_up,
                silence=self._membership.silence,
                refusal=lambda: self._membership.no_orders,
            )
        )
        self._judging = Judging(judge, books, say, None if ranks is None else ranks.level)
        self._elsewhere = Elsewhere(
            judge,
            self._judging,
            self._keeping,
            answer=lambda verdicts, step: self._answer("", verdicts, Moment.after(step)),
            step=books.steps_written,
            trains_alone=trains_alone,
        )
        self._forgetting = Forgetting(
            judge, self._judging, self._answering, self._telling, self._labels, say, actuators.snapshots.begin_at
        )
        self._absent = Absent(engine, judge, actuators.steering)
        self._wariness = Wariness(books.steps_written)
        self._standing = Standing(engine, judge, actuators.steering, reception, guard, books.steps_written)

    @property
    def steers(self) -> bool:
        """Whether anything was ever adjusted."""
        return self._execution.steers

    @property
    def adjustments(self) -> Sequence[Adjustment]:
        """Everything that was done, or would have been."""
        return self._execution.adjustments

    @property
    def alerts(self) -> Sequence[Alert]:
        """What rules said so far, see `Run.alerts`."""
        return self._telling.alerts

    @property
    def rules(self) -> Mapping[str, Mapping[str, Any]]:
        """By what each rule is judged: threshold, hold, clear, severity, and what a point of it is."""
        return self._judge.described()

    @property
    def acts(self) -> bool:
        """Whether anything may come of a verdict but a word."""
        return self._membership.acts

    @property
    def judges_at_once(self) -> bool:
        """Whether a bad step may be judged out of turn. Ranks meet where it is the turn of all of them."""
        return self._membership.ranks is None

    @property
    def is_wary(self) -> bool:
        """Whether gradients are worth a look at every step: a short while ago they made the weights NaN."""
        return self._wariness.lasts and self.judges_at_once

    def open(self) -> None:
        """The run begins."""
        if self._orders is not None:
            self._orders.open()

    def met(self, optimizer: Optimizer, label: str) -> None:
        """An optimizer is about to step for the first time: its state now is the first that a rollback can use."""
        self.optimizers[label] = weakref.ref(optimizer)
        self._labels.setdefault(label)
        self._actuators.met(label, optimizer)
        self._absent.met(label, optimizer)
        self._membership.met(optimizer)
        self._keeping.met(self._books.steps_written())
        if self.acts:
            self._execution.met([each for each, held in self.optimizers.items() if held() is not None])
        self.awaits_steps = self._awaits()

    def begins_anew(self, label: str, *, may_return: bool = False) -> None:
        """See `StepController`. A fold of a cross-validation says nothing of the next one, nor can it go back there."""
        step = self._books.steps_written()
        (self._absent.leaves if may_return else self._absent.forget)(label)
        self._forgetting.another_model(label, step)
        self._membership.withdraw(step, "another model is trained by now", spares_persons=True)
        self.optimizers.pop(label, None)
        self._actuators.begin_anew(label)

    def takes_over(self, label: str, former: Sequence[str]) -> None:
        """See `StepController`."""
        step = self._books.steps_written()
        if self._judging.taken_over(label, former, step):
            self._keeping.taken_over(step)

    def another_loss(self, loss: str) -> None:
        """Training has a loss that it did not have before: of the function `loss`, or (empty) written by hand."""
        self._forgetting.another_loss(loss, self._books.steps_written())

    def another_validation(self) -> None:
        """Validation is by a loss function that it was not by before."""
        self._forgetting.another_validation()

    def joined(self, optimizer: Optimizer, label: str) -> None:
        """See `StepController`."""
        self._labels[label] = self.shared[label] = None
        self._actuators.steering.meet(label, optimizer)

    def judge(self, ledger: Ledger, due: Due, *, applied: bool = False) -> int:
        """See `StepController`."""
        label, step = ledger.label, self._books.steps_written() + 1
        if len(self.optimizers) > 1:
            self._judge.contest.held_fixed(fixed_beside(label, self.optimizers), label)
        late = self._judge_steps(ledger, step, due, applied=applied)
        self._take_in(Moment(step, applied, True))
        if self._answering.replays:
            if not applied:
                self._answering.record(label, Moment(step, False, False))
            return 1
        return self._next_in(Moment(step, applied, late or applied))

    def looks_again(self, label: str) -> bool:
        """See `StepController`."""
        return self._execution.has_aided(label)

    def catch_up(self, ledger: Ledger, due: Due) -> None:
        """See `StepController`."""
        step = self._books.steps_written()
        self._judge_steps(ledger, step, due, applied=True)
        verdicts = self._judging.rest(ledger)
        if verdicts is not None:
            self._answer(ledger.label, verdicts, Moment.after(step))

    def _judge_steps(self, ledger: Ledger, step: int, due: Due, *, applied: bool) -> bool:
        """Judge the steps up to `step`, and answer. Whether what was judged is late, being from a device."""
        verdicts, late = self._judging.steps(ledger, step, due)
        if verdicts is not None:
            self._answer(ledger.label, verdicts, Moment(step, applied, late or applied))
        return late

    def left_out(self, optimizer: Optimizer) -> bool:
        """See `StepController`."""
        return self._actuators.steering.skipped(optimizer)

    def rates(self, optimizer: Optimizer) -> Sequence[Any] | None:
        """See `StepController`."""
        used = self._actuators.steering.used(optimizer)
        return None if used is None else used.learning_rates

    def decays(self, optimizer: Optimizer) -> Sequence[Any] | None:
        """See `StepController`."""
        used = self._actuators.steering.used(optimizer)
        return None if used is None else used.weight_decays

    def skipped(self, label: str) -> None:
        """GradScaler skipped a step."""
        step = self._books.steps_written()
        self._answer(label, self._judge.skipped(label, step), Moment.after(step))
        self._take_in(Moment.after(step))
        if self._membership.ranks is not None:  # all of them skip it, whose gradients are alike
            self._next_in(Moment.after(step))
        self._end_step(label, step)
        self.awaits_steps = self._awaits()

    def backward_reached(self, label: str, *, loss: Held, cleared: bool) -> None:
        """A backward wrote to gradients that the optimizer `label` may apply."""
        self._judge.contest.backward(label, loss)
        self._execution.cycle.backward(label, cleared=cleared)

    def backward_spared(self, label: str, *, loss: Held) -> None:
        """See `StepController`."""
        self._judge.contest.backward(label, loss)

    def validating(self) -> None:
        """The first loss of a validation pass was computed."""
        self._keeping.validating()

    def validated(self, summary: PhaseSummary) -> None:
        """A validation pass is over, and the weights are still those that were validated."""
        step = self._books.steps_written()
        verdicts = self._judging.validation(step, summary)
        self._keeping.validated(step)
        self._answer("", verdicts, Moment.after(step))

    def logged(self, values: Mapping[str, float], *, of_training: bool) -> None:
        """The user logged values, on any thread. Those `of_training` tell no better model."""
        self._elsewhere.logged(values, of_training=of_training)
        self.awaits_steps = self.awaits_steps or self._elsewhere.waits

    def recorded(self, **values: float) -> None:
        """What is measured of the run itself, by the names of the signals. May come on any thread."""
        self._elsewhere.recorded(values)
        self.awaits_steps = self.awaits_steps or self._elsewhere.waits

    def hung(self, verdict: Verdict, text: str) -> None:
        """The watchdog says so, on its own thread: advice only."""
        self._telling.tell(verdict)
        self._say(f"hung {verdict.episode}", text)

    def number(self, rule: str) -> int:
        """The number of an episode that has begun of a rule that is judged elsewhere."""
        return self._judge.number(rule)

    def recovered(self, verdict: Verdict) -> None:
        """The run has moved on."""
        self._telling.tell(verdict)

    def look_for_orders(self) -> None:
        """See what a person wants: with each record, of which many optimizers have few, and where steps are judged."""
        if self._orders is not None:
            self._orders.look(time.perf_counter())
            self.awaits_steps = self.awaits_steps or self._orders.waiting

    def stepped(self, label: str, *, pending: bool = False) -> bool:
        """See `StepController`: the moment for what has waited for it."""
        step = self._books.steps_written()
        may_write = self._end_step(label, step, pending=pending)
        if may_write and label in self.optimizers:
            self._keeping.stepped(step)
        self.awaits_steps = self._awaits()
        is_adjusted = label in self._anew
        self._anew.discard(label)
        return is_adjusted

    def judged(self, label: str) -> Judged:
        """What a record says of the steps since the last one."""
        return self._telling.record(label)

    def usual_norm(self, label: str) -> float | None:
        """The norm that the gradients of an optimizer usually have, None while that is not known."""
        return self._membership.usual_norm(label)

    def restore_best(self) -> bool:
        """The user asks for the best state. Whether it is in place now; what was done, or why not, is said."""
        self._elsewhere.hear()
        step = self._books.steps_written()
        best = self._keeping.best.restore(step)
        if best is None:
            return False
        self._execution.withdraw(step, "refused", "the best state was put back first", spares_persons=True)
        self._execution.cycle.dropped()
        self._forgetting.adjusted(Decision(policy=PERSON, step=step, since=step, actions=()), step, True, best)
        return True

    def completed(self) -> None:
        """The run ends by itself, after its last validation: see whether its best state would be lost."""
        self._elsewhere.hear()
        if self._membership.ranks is None:  # of several, one may log for all
            self._judging.completed()
        self._keeping.best.end(self._books.steps_written())

    def close(self) -> None:
        """The run ends: put everything back as the user had it."""
        step = self._books.steps_written()
        self._membership.withdraw(step, OVER)
        if self._orders is not None:
            self._orders.close(step)
        self._answering.close(self._say)
        self._actuators.close()

    def abandon(self) -> None:
        """In a forked child: put everything back there. What waits to be done is its parent's to do, and to answer."""
        self._actuators.close()

    def state(self) -> dict[str, Any]:
        """Scales, budgets, cooldowns and episodes, in plain values that JSON holds."""
        return self._standing.state()

    @property
    def is_under_way(self) -> bool:
        """Whether `state` becomes another one with the steps that are made, and nothing is said."""
        return self._actuators.steering.is_under_way

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises ConfigError where that is none; then everything is as it was."""
        self._standing.restore(state)
        self._forgetting.everything(self._books.steps_written())
        self._execution.steers = True
        if self._engine.paused:
            text = "This run was paused by a person, and still is: no policy adjusts it until `trimtab resume`."
            self._say("paused", text)

    def _end_step(self, label: str, step: int, *, pending: bool = False) -> bool:
        """Do what has waited for the end of a step, taken or skipped. Whether weights may be changed now."""
        self._elsewhere.hear()
        if self._orders is not None:
            self._orders.take_up(step)
        self._answering.record(label, Moment.after(step))
        return self._execution.stepped(label, step, pending=pending)

    def _awaits(self) -> bool:
        is_ordered = self._orders is not None and self._orders.waiting
        waits = is_ordered or self._execution.waits or self._elsewhere.waits
        return waits or self._execution.follows_cycle or self._answering.replays

    def _answer(self, label: str, verdicts: Sequence[Verdict], moment: Moment) -> None:
        if any(verdict.state == "firing" for verdict in verdicts):
            self._books.close_soon(label)
        self._answering.verdicts(label, verdicts, moment)
        self.awaits_steps = self.awaits_steps or self._execution.waits

    def _take_in(self, moment: Moment) -> None:
        self._answering.alerts(moment)
        self.look_for_orders()
        self.awaits_steps = self.awaits_steps or self._execution.waits

    def _adjusted(self, decision: Decision, step: int, of_all: bool, back_to: int | None) -> None:
        self._forgetting.adjusted(decision, step, of_all, back_to)
        self._anew.update(self._labels if of_all else [decision.optimizer])
        if back_to is not None:
            self._wariness.went_back(decision, step)

    def _next_in(self, moment: Moment) -> int:
        """Every how many steps to judge. With other ranks this is where they hear of each other."""
        interval, ranks = self._pace.judging_interval(self.acts), self._membership.ranks
        if ranks is None:
            return interval
        step_s, wanted = self._pace.step_s, self._keeping.wanted(moment.step)
        interval = ranks.proceed(moment, list(self.optimizers), interval, step_s=step_s, snapshot=wanted)
        self.awaits_steps = self._awaits()
        return interval
