"""The numbers of a run in, verdicts out. Pure: no clock, no torch, nothing but what it is given.

Each rule has a signal and a level for every optimizer that it judges; rules about validation, records and logged values
are judged once for the run, under the empty name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from trimtab import signals
from trimtab.catalog.rules import RULES, RuleSpec
from trimtab.errors import did_you_mean
from trimtab.rules.bench import FAILURES, AnyRule, Bench
from trimtab.rules.contest import Contest
from trimtab.rules.findings import Findings
from trimtab.rules.rates import LearningRate
from trimtab.rules.rule import LOGGED
from trimtab.signals import Reads, Validated, ValidationFalls, ValidationLost, ValidationsSinceBest
from trimtab.signals.course import BASELINE, Traits
from trimtab.types import GradientReading, Verdict

__all__ = ["FAILURES", "SKIPS", "AnyRule", "Judge", "Traits"]

SKIPS = 3  # of GradScaler in a row, which are more than looking for its scale


class Judge:
    """Every rule of a run. `monitor` is what tells a better model, and whether less of it is better.

    `attempt(function)` calls a function of the user's and returns what it raised, or None: see `Guard.attempt`.
    `traits(optimizer)` is asked once for each. `chosen` are rules of which the user knows what they rest on, see
    `distrust_loss`.
    A step costs about 8 us while nothing is the matter.
    """

    def __init__(
        self,
        rules: Sequence[AnyRule],
        monitor: tuple[str, Literal["min", "max"]] = ("loss", "min"),
        attempt: Callable[[Callable[[], object]], Exception | None] | None = None,
        traits: Callable[[str], Traits] = lambda optimizer: Traits(),
        chosen: Collection[str] = (),
    ) -> None:
        self.rules = [rule.name for rule in rules]
        self.monitor, self._mode = monitor
        self.improved = False  # whether the newest validation pass, or value of the monitored name, is the best so far
        self.monitored = False  # whether the monitored value was ever seen
        self.newest = 0.0  # ... and what it was last
        self.contest = Contest()
        self.trusts_loss = True  # to come down where training goes well, see `distrust_loss`
        self._given = list(rules)
        self._attempt = attempt
        self._traits = traits
        self._chosen = chosen
        self._unjudged: Collection[str] = ()
        self._benches: dict[str, Bench] = {}
        self._episodes: dict[str, dict[str, int]] = {}  # of a run that this one resumes: optimizer to rule to number
        self._rates: dict[str, LearningRate] = {}  # by optimizer
        self._learned: set[str] = set()  # optimizers that trained by another objective before
        self._began_at = 0  # the first step of the objective of now, since a run begins with one
        self._best = ValidationsSinceBest(self._mode)
        self._lost = ValidationLost()
        self._validation = ValidationFalls()
        self._several = False  # optimizers

    def step(
        self,
        optimizer: str,
        step: int,
        loss: float | None,
        gradients: GradientReading | None,
        learning_rate: float | None,
        backwards: int = 1,
    ) -> list[Verdict]:
        """Judge one step of one optimizer. `learning_rate` is the schedule's own, without a scale of ours.

        `loss` is the sum over so many `backwards`, see `accumulation`.
        """
        bench = self._benches.get(optimizer) or self._bench(optimizer)
        if self._several and loss is not None:
            self.contest.step(optimizer, loss)
            bench.contested = self.contest.involves(optimizer)
        bench.unjudged = self._unjudged
        return bench.step(step, loss, gradients, learning_rate, backwards)

    def distrust_loss(self) -> Collection[str]:
        """That the loss comes down says nothing in this run: rules that presume it are not judged from now on.

        Those that the user chose are. Returns the names of the others.
        """
        self.trusts_loss = False
        presuming = (rule.name for rule in self._given if isinstance(rule, RuleSpec) and rule.descent)
        self._unjudged = [name for name in presuming if name not in self._chosen]
        return self._unjudged

    def skipped(self, optimizer: str, step: int) -> list[Verdict]:
        """GradScaler skipped a step. One is information; three in a row are gradients that are not finite."""
        bench = self._bench(optimizer)
        bench.skips += 1
        return bench.take("norm", step, math.inf) if bench.skips >= SKIPS else []

    def validation(
        self,
        step: int,
        loss: float | None,
        accuracy: float | None,
        train_loss: float | None,
        beginning: float | None = None,
        *,
        settled: bool = True,
    ) -> list[Verdict]:
        """Judge a validation pass.

        `train_loss` is the same quantity as `loss`, its mean over the training steps since the pass before, and
        `beginning` over the first steps of the run: None where the objective itself is that quantity. `settled` is
        whether there were losses enough (see the property), where each loss is that of a step.
        """
        bench = self._bench("")
        if beginning is None:
            beginning = next((b.course.first for name, b in self._benches.items() if name and b.course.count), None)
        elif not math.isfinite(beginning):  # one of the first steps was not
            beginning = None
        of_training = [each for name, each in self._benches.items() if name]
        steady = all(each.steady for each in of_training)
        at_chance = bool(of_training) and all(each.course.is_no_better(train_loss or 0.0) for each in of_training)
        verdicts = bench.take("validated", step, Validated(loss, train_loss, beginning, steady, settled, at_chance))
        if loss is not None and math.isfinite(loss):
            lost = self._lost.update(loss, beginning)
            self._validation.update(loss)
            for each in self._benches.values():
                each.course.take_validation(loss, lost, falls=self._validation.falls)
        self.improved = False
        monitored = {"loss": loss, "accuracy": accuracy}.get(self.monitor)
        return verdicts if monitored is None else verdicts + self._monitored(step, monitored)

    @property
    def settled(self) -> bool:
        """Whether every loss has a baseline."""
        return all(b.course.count >= BASELINE for name, b in self._benches.items() if name and b.course.count)

    def logged(self, step: int, name: str, value: float, *, of_training: bool = False) -> list[Verdict]:
        """Judge a value that the user logged. One `of_training` is not the monitored one, whatever its name."""
        bench = self._bench("")
        self.improved = False
        verdicts = bench.take(LOGGED + name, step, value)
        is_monitored = name == self.monitor and not of_training
        return verdicts + self._monitored(step, value) if is_monitored else verdicts

    def record(self, step: int, **values: float) -> list[Verdict]:
        """Judge what is measured about the run itself, by the names of the signals: `data_wait_share` and its like."""
        bench = self._bench("")
        return [v for name, value in values.items() for v in bench.take(name, step, value)]

    def fence(self, step: int, optimizer: str | None = None, back_to: int | None = None) -> None:
        """What was seen of `optimizer`, or (None) of all and of validation, is no evidence any more.

        `back_to` is the step whose weights were restored, where some were.
        """
        for name, bench in self._benches.items():
            if optimizer is None or name == optimizer:
                bench.fence()
                if back_to is not None:
                    bench.course.turn_back(step - back_to)

    def begin_anew(self, optimizer: str, step: int) -> None:
        """After `step` another model is trained under this label: nothing that was seen of the one before it counts.

        Its open episodes are over, and new ones are numbered on.
        """
        self._began_at = step + 1
        self._forget(optimizer)
        self._rates.pop(optimizer, None)
        self._learned.discard(optimizer)
        self.forget_validation()

    def has_learned(self, optimizer: str) -> bool:
        """Whether its loss has come down, under this objective or another one."""
        bench = self._benches.get(optimizer)
        return optimizer in self._learned or (bench is not None and bench.course.has_come_down)

    def learned_before(self, optimizer: str) -> None:
        """It goes on with a model that it has trained before. To be told before its first step is judged."""
        self._learned.add(optimizer)

    def forget_losses(self, step: int, *, has_to_fall: bool = False) -> None:
        """After `step` training has another objective: no loss or gradient up to there is a measure of what follows.

        No trouble began before. Weights that have learned something may have next to no loss under the other one as
        well; not so where the loss `has_to_fall`, being high by now. Episodes are as in `begin_anew`.
        """
        of_training = {name: bench.course for name, bench in self._benches.items() if name}
        self._learned |= {name for name, course in of_training.items() if course.count >= BASELINE}
        if has_to_fall:
            self._learned -= of_training.keys()
        self._began_at = step + 1
        self._forget(*of_training)

    def is_left(self, optimizer: str, loss: float) -> bool:
        """Whether a loss is far from what those of this optimizer were: see `Course.is_left_by`."""
        bench = self._benches.get(optimizer)
        return bench is not None and bench.course.is_left_by(loss)

    def forget_validation(self) -> None:
        """Validation has another measure: neither its course nor its best counts. Episodes are as in `begin_anew`."""
        self._forget("")
        self._best = ValidationsSinceBest(self._mode)
        self._lost = ValidationLost()
        self._validation = ValidationFalls()

    @property
    def has_baseline(self) -> bool:
        """Whether there have been losses enough, of any optimizer, to measure others by."""
        return any(b.course.count >= BASELINE for name, b in self._benches.items() if name)

    def take_levels(self, optimizer: str) -> dict[str, float]:
        """The worst level of every rule that has one, since this was last asked."""
        bench = self._benches.get(optimizer)
        return bench.take_levels() if bench is not None else {}

    def signals(self) -> dict[tuple[str, str], float]:
        """The newest value of every signal, by its name and the optimizer."""
        return {
            (seat.signal_name, optimizer): seat.level.value
            for optimizer, bench in self._benches.items()
            for seat in bench.seats
            if seat.level.level is not None
        }

    def healthy(self, optimizer: str) -> bool:
        """Whether no rule that may act is near its threshold at its newest point, and the loss has been seen."""
        bench = self._benches.get(optimizer)
        return bench is not None and bench.course.count > 0 and bench.healthy()

    def usual_norm(self, optimizer: str) -> float | None:
        """The geometric mean of the norms before the newest one, None while there are few."""
        bench = self._benches.get(optimizer)
        return bench.usual_norm.value if bench is not None else None

    def chance(self, optimizer: str, loss: float | None, *, is_exact: bool = True) -> None:
        """The loss at chance of what this optimizer is trained on: see `sample.chance`. None where it is not known."""
        course = self._bench(optimizer).course
        course.chance, course.chance_is_exact = loss, is_exact

    def loss_at_chance(self, optimizer: str) -> float | None:
        """What `chance` was told last."""
        bench = self._benches.get(optimizer)
        return bench.course.chance if bench is not None else None

    def always_worse(self, optimizer: str) -> float | None:
        """The mean loss of now, where it was worse than the best constant answer all along: see `Course.always_worse`.

        None where it was not, and where nothing follows from a loss that does not come down; nor while the rate warms
        up.
        """
        bench = self._benches.get(optimizer)
        if bench is None or bench.may_rise or not (self._has_to_fall(bench) and bench.course.always_worse):
            return None
        return bench.course.middle

    def findings(self, optimizer: str) -> Findings:
        """What was found out about this optimizer."""
        bench = self._benches.get(optimizer)
        return Findings(bench, self._validation, has_to_fall=bench is not None and self._has_to_fall(bench))

    def firing(self) -> list[str]:
        """The rules about losses, validation and what the user logs that fire now, but for those of severity info."""
        firing = [seat.rule for bench in self._benches.values() for seat in bench.seats if seat.level.firing]
        of_loss = [rule for rule in firing if not isinstance(rule, RuleSpec) or rule.judged in ("step", "validation")]
        return list(dict.fromkeys(rule.name for rule in of_loss if rule.severity != "info"))

    @property
    def awaits_logged(self) -> str:
        """The name of a value that has to be logged to be monitored, and was not yet; "" where there is none."""
        return "" if self.monitored or self.monitor in ("loss", "accuracy") else self.monitor

    def not_monitored(self, logged: Collection[str]) -> str:
        """What to tell the user where nothing of the monitored name was seen; `logged` are the names that were."""
        hint = did_you_mean(self.monitor, {"loss", "accuracy", *logged}, "Log it, or name one of {}.")
        return f"monitor={self.monitor!r}: no such value has been seen, so that no state is kept as the best. {hint}"

    def described(self) -> dict[str, dict[str, Any]]:
        """By what each rule is judged in this run, in plain values: for the record."""
        names = ("threshold", "hold", "clear", "severity")
        return {r.name: {name: getattr(r, name) for name in names} | {"judged": _judged(r)} for r in self._given}

    def state(self) -> dict[str, dict[str, int]]:
        """The number of episodes so far, by optimizer and rule, also of rules that are not judged in this run."""
        counted = {optimizer: dict(rules) for optimizer, rules in self._episodes.items()}
        for optimizer, bench in self._benches.items():
            counted.setdefault(optimizer, {}).update({seat.rule.name: seat.level.episode for seat in bench.seats})
        return counted

    def number(self, rule: str) -> int:
        """The number of an episode that has begun of a rule that is judged elsewhere."""
        counted = self._episodes.get("", {})
        number = counted.get(rule, 0) + 1
        self._episodes = {**self._episodes, "": {**counted, rule: number}}
        return number

    def restore(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Number episodes on from `state`. Everything is judged anew."""
        self._episodes = {o: {rule: int(episode) for rule, episode in counted.items()} for o, counted in state.items()}
        for optimizer, bench in self._benches.items():
            bench.number(self._episodes.get(optimizer, {}))

    def _has_to_fall(self, bench: Bench) -> bool:
        """Whether something follows from a loss that does not come down."""
        return self.trusts_loss and not bench.contested

    def _forget(self, *names: str) -> None:
        self._episodes = self.state()
        for name in names:
            self._benches.pop(name, None)

    def _monitored(self, step: int, value: float) -> list[Verdict]:
        self.improved, self.monitored, self.newest = self._best.update(value) == 0.0, True, value
        for bench in self._benches.values():
            bench.course.validated(self.improved)
        return self._bench("").take("monitor", step, value)

    def _bench(self, optimizer: str) -> Bench:
        bench = self._benches.get(optimizer)
        if bench is None:
            of_run = ("validation", "record")
            rules = [r for r in self._given if ((_judged(r) in of_run) == (not optimizer)) and _judged(r) != "watchdog"]
            rate = self._rates.setdefault(optimizer, LearningRate())
            bench = Bench(optimizer, rules, self._mode, rate, self._attempt, began_at=self._began_at)
            self._benches[optimizer] = bench
            bench.course.learned = optimizer in self._learned
            bench.course.traits = self._traits(optimizer) if optimizer else Traits()
            bench.number(self._episodes.get(optimizer, {}))
            self._several = len(self._benches.keys() - {""}) > 1
        return bench


def _judged(rule: AnyRule) -> str:
    """What one point of a rule is."""
    if isinstance(rule, RuleSpec):
        return rule.judged
    if not isinstance(rule.signal, str):
        return "step"
    if rule.signal.startswith(LOGGED):
        return "record"
    reads: Reads = signals.find(rule.signal).reads
    shipped = next((spec.judged for spec in RULES.values() if spec.signal == rule.signal), None)
    return shipped or {"validated": "validation", "monitor": "validation", "number": "record"}.get(reads, "step")
