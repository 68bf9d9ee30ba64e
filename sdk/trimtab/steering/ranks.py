"""Where a run has several ranks: rank 0 judges the mean of their losses and decides, and all of them carry it out.

What rank 0 decides waits here until the next judged step, where every rank hears of it and hands it to its own
`Execution`; from there on all do the same at the same moments, and vote before they change weights. Ranks that lose
each other end that for the rest of the run, and train on with the scales that they have.
"""

from __future__ import annotations

import datetime
import itertools
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from torch import Tensor

from trimtab import stores
from trimtab.guard import Guard, in_words
from trimtab.policies import Decision, Engine
from trimtab.policies.reading import action, describe
from trimtab.sample.readings import Point
from trimtab.steering.agreement import MOST, Agreement, patience, possible
from trimtab.steering.execution import Execution, Moment, Told
from trimtab.types import Outcome

T = TypeVar("T")

MEETING_S = 30.0  # for every rank to come to its first step, once one has
PATIENCE_S = 60.0  # with one that is late; whoever waits for it here would have waited in its next backward
SHARE = 0.0025  # of the step time, that hearing of each other may take: a quarter of the default overhead budget
LOST = "the ranks have lost each other"
UNMET = "ranks meet before the first step of an optimizer, and none is seen to step"
SHARDED = ("device_mesh", "_fsdp_flattened")  # what DTensor, and the parameters of FSDP 1, have

_runs = itertools.count()


class Ranks:
    """The other ranks, as the controller of one sees them. Used by the thread that steps.

    Args:
        usual_norm: of the gradients of an optimizer, by its label, as rank 0 knows it.
        stand_down: called when nothing can be adjusted together, or not any more.
        acts: without it they meet, and do nothing together after that.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        execution: Execution,
        engine: Engine,
        guard: Guard,
        usual_norm: Callable[[str], float | None],
        stand_down: Callable[[str], None],
        *,
        acts: bool = True,
    ) -> None:
        self.leads = rank == 0
        self.takes_snapshot = False  # whether all are to take one at the end of this step
        self._rank = rank
        self._world_size = world_size
        self._execution = execution
        self._engine = engine
        self._guard = guard
        self._own_norm = usual_norm
        self._stand_down = stand_down
        self._acts = acts
        self._agreement: Agreement | None = None
        self._have_met = False
        self._over = False
        self._norms: Mapping[str, float | None] = {}
        self._cost_s = math.inf  # of an exchange for which nobody was waited
        self._outbox: list[tuple[Decision, Told | None]] = []

    def meet(self, parameters: Sequence[Tensor], state: Mapping[str, Any]) -> dict[str, Any] | None:
        """Before the first step of the first optimizer: find the others. Returns the `state` of rank 0, once."""
        if self._agreement is not None or self._over:
            return None
        refusal = _why_not(parameters, self._world_size) or self._why_alone()
        if refusal:
            self._end(f"{refusal} This is a dry run.")
            return None
        self._agreement = agreement = self._attempt(lambda: Agreement(self._rank, patience(PATIENCE_S)))
        self._have_met = agreement is not None
        self._execution.others = self if agreement is not None and self._acts else None
        return None if agreement is None else self._attempt(lambda: agreement.tell(state))

    def take_up(self, decision: Decision, moment: Moment, told: Told | None = None) -> None:
        """Rank 0 decided: it is told to all at the next judged step. What is only for the record is recorded now."""
        if decision.outcome is not None or self._over:
            self._execution.take_up(decision, moment, told)
        elif self.leads:
            self._outbox.append((decision, told))

    def level(self, step: int, read: Sequence[Point]) -> list[Point]:
        """The same steps with the mean losses of all ranks."""
        own = [point.loss for point in read]
        agreement = self._agreement
        means = None if agreement is None else self._attempt(lambda: agreement.mean_losses(step, own))
        return list(read) if means is None else [p._replace(loss=m) for p, m in zip(read, means, strict=True)]

    def proceed(
        self, moment: Moment, labels: Sequence[str], interval: int, *, step_s: float | None, snapshot: bool
    ) -> int:
        """At the end of judging: hear what is to be done, and do it. Returns every how many steps to judge.

        `labels`, `interval` and `snapshot` are what rank 0 says of its optimizers, of judging, and of snapshots. With
        `step_s`, what a step takes there, the interval is lengthened until the exchange costs little.
        """
        self.takes_snapshot = False
        outbox, self._outbox = self._outbox, []
        message = None
        if self.leads:
            message = {
                "interval": self._worth_it(interval, step_s),
                "snapshot": snapshot,
                "norms": {label: self._own_norm(label) for label in labels},
                "decisions": [_written(decision) for decision, _ in outbox],
            }
        agreement = self._agreement
        began = time.perf_counter()
        heard = None if agreement is None else self._attempt(lambda: agreement.tell(message))
        self._cost_s = min(self._cost_s, 2 * (time.perf_counter() - began))  # the losses took as long
        if heard is None:
            for decision, told in outbox:
                self._execution.leave(decision, moment, "refused", LOST if self._have_met else UNMET, told)
            return interval
        self.takes_snapshot, self._norms = heard["snapshot"], heard["norms"]
        decided = outbox if self.leads else [(self._read(each), None) for each in heard["decisions"]]
        for decision, told in decided:
            self._execution.take_up(decision, moment, told)
        return int(heard["interval"])

    def usual_norm(self, label: str) -> float | None:
        """Of the gradients, as rank 0 said last: the same for all, also when they have lost each other."""
        return self._norms.get(label) if self._have_met else self._own_norm(label)

    def vote(self, value: float) -> bool:
        """Whether all ranks say the same."""
        agreement = self._agreement
        return agreement is not None and bool(self._attempt(lambda: agreement.same(value)))

    def common(self, steps: Collection[int]) -> Collection[int]:
        """Those of the steps that all ranks name."""
        agreement = self._agreement
        return (None if agreement is None else self._attempt(lambda: agreement.common(steps))) or ()

    def part(self, reason: str) -> None:
        """The ranks have done different things, as far as they could tell."""
        self._end(f"{reason} Nothing is adjusted any more.")

    def withdraw(self, moment: Moment, outcome: Outcome, reason: str, *, spares_persons: bool) -> None:
        """What was decided, by all or by policies, is not told to the others any more, and not done."""
        outbox, self._outbox = self._outbox, []
        for decision, told in outbox:
            if spares_persons and decision.by_person:
                self._outbox.append((decision, told))
            else:
                self._execution.leave(decision, moment, outcome, reason, told)

    def _worth_it(self, interval: int, step_s: float | None) -> int:
        while step_s and interval < MOST and self._cost_s < math.inf and self._cost_s > SHARE * interval * step_s:
            interval *= 2
        return interval

    def _read(self, written: Mapping[str, Any]) -> Decision:
        own = [each for policy in self._engine.policies for rung in policy.rungs for each in rung]
        actions = tuple(action(given, where="rank 0", known=own) for given in written["actions"])
        return Decision(**{**written, "actions": actions})

    def _why_alone(self) -> str:
        """Every rank leaves a word in the store of the process group before it waits for all others in a new one."""
        try:
            store = stores.of_group()
        except (AttributeError, ValueError):
            return "This torch gives no way to tell whether every rank is watched."
        waited = patience(MEETING_S)
        key = stores.key(f"{next(_runs)}/{'act' if self._acts else 'watch'}/")
        try:
            store.set(f"{key}{self._rank}", "here")
            store.wait([f"{key}{rank}" for rank in range(self._world_size)], datetime.timedelta(seconds=waited))
        except RuntimeError:
            return f"Not every rank is watched, with the same act=, or takes steps: waited {waited:g} s for the others."
        return ""

    def _attempt(self, collective: Callable[[], T]) -> T | None:
        found: list[T] = []
        problem = self._guard.attempt(lambda: found.append(collective()))
        if problem is None:
            return found[0]
        self._end(f"The ranks have lost each other ({in_words(problem)}): nothing is adjusted any more.")
        return None

    def _end(self, reason: str) -> None:
        self._over, self._agreement = True, None
        self._stand_down(reason)


def _why_not(parameters: Sequence[Tensor], world_size: int) -> str:
    if not possible(world_size):
        return f"act= needs a process group of all {world_size} ranks at the first step, to agree over."
    if any(hasattr(p, mark) for p in parameters for mark in SHARDED):
        return "act= over ranks needs whole parameters on every rank, as DDP has: these are sharded."
    return ""


def _written(decision: Decision) -> dict[str, Any]:
    """What an action of the user's own holds is not looked into: it may be anything."""
    plain = {spec.name: getattr(decision, spec.name) for spec in fields(decision)}
    return {**plain, "actions": [describe(each) for each in decision.actions]}
