"""Tells what was judged: an alert at each edge of an episode; in every record where rules, scales and budgets stand."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping

from torch.optim import Optimizer

from trimtab.actuators.controls import Actuators
from trimtab.policies import Engine
from trimtab.rules.judge import Judge
from trimtab.rules.rule import explained
from trimtab.rules.trailing import TrailingWorst
from trimtab.sample.records import Judged
from trimtab.types import Alert, Event, Verdict, Verdicts

EXPLAINED = ("gradients_uncleared",)  # rules whose numbers do not say what is wrong


class Telling:
    """What rules said, kept for as long as somebody may ask for it. It decides nothing."""

    def __init__(
        self,
        judge: Judge,
        engine: Engine,
        actuators: Actuators,
        optimizers: Mapping[str, weakref.ref[Optimizer]],
        emit: Callable[[Event], None],
        say: Callable[[str, str], None],
    ) -> None:
        """`say`: `(kind, text)`, called where the user should be told something once."""
        self.alerts: list[Alert] = []
        self._judge = judge
        self._engine = engine
        self._actuators = actuators
        self._optimizers = optimizers
        self._emit = emit
        self._say = say
        self._trailing = TrailingWorst(judge.rules)
        self._fired: Counter[str] = Counter()

    def tell(self, verdict: Verdict) -> None:
        """A rule began to fire, or ceased to."""
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
            count=self._fired[verdict.rule],
        )
        self.alerts.append(alert)
        self._emit(alert)
        if verdict.state == "firing" and verdict.rule in EXPLAINED:
            self._say(verdict.rule, f"Optimizer {verdict.optimizer!r}: {explained(verdict.rule)}")

    def record(self, label: str) -> Judged:
        """What a record says of the steps of one optimizer since the last one."""
        now = time.perf_counter()
        levels = {**self._judge.take_levels(""), **self._judge.take_levels(label)}
        self._trailing.add(now, levels)
        verdicts = Verdicts(
            rule_levels=self._trailing.worst(now),
            signals=self._judge.signals(),
            learning_rate_scale=self._scales(),
            dropout_ratio=self._actuators.largest_dropout.read(),
            budgets=self._engine.budgets(),
            snapshot_age_s=self._actuators.snapshots.age_s,
        )
        rounded = {rule: float(f"{level:.4g}") for rule, level in levels.items()}
        return Judged(rounded, verdicts, self._judge.loss_at_chance(label))

    def worst(self) -> dict[str, float]:
        """The worst level of every rule over the last minute, as servers see it."""
        return self._trailing.worst(time.perf_counter())

    def fence(self) -> None:
        """What was seen before an adjustment is no evidence any more."""
        self._trailing.fence(time.perf_counter())

    def begin_anew(self) -> None:
        """Another model is trained: forget, and withhold nothing, or short trainings would never be seen."""
        self._trailing.forget()

    def _scales(self) -> dict[tuple[str, int], float]:
        return {
            (name, group): self._actuators.steering.scale(name)
            for name, held in self._optimizers.items()
            if (optimizer := held()) is not None
            for group in range(len(optimizer.param_groups))
        }
