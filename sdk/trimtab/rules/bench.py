"""The rules of one optimizer, or of the run as a whole: each with its signal and its level."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, TypeAlias

from trimtab import signals
from trimtab.catalog.rules import RISING, RuleSpec
from trimtab.rules.accumulation import Accumulation
from trimtab.rules.level import Level
from trimtab.rules.rates import LearningRate
from trimtab.rules.rule import LOGGED, Rule
from trimtab.rules.usual import UsualNorm
from trimtab.signals import Course, Itself, Signal, SignalSpec, UpdateExcess, ValidationsSinceBest
from trimtab.signals.gradients import of_trained
from trimtab.types import GradientReading, Verdict

NEAR = 0.5  # the level from which on a rule that may act makes a run no good one to take a snapshot of
LASTS = 8  # steps for which an update ratio is still judged beside their losses, as every 8th is at most measured
EARLY = 2.0  # so many times its rate RMSprop's first 1 / (1 - decay) steps are long on the average, whatever its decay
FAR = 2.0  # ... of a layer: its rate is cut to a twentieth then, and if that is not enough, once more
FAILURES = 5  # of a function of the user's, after which it is left out

Function: TypeAlias = Callable[["float | None"], "float | None"]
AnyRule: TypeAlias = "RuleSpec | Rule"
Seated: TypeAlias = "tuple[Seat, Callable[[Any], float | None], Level]"


class Seat:
    """One rule as it is judged for one optimizer."""

    __slots__ = ("descent", "failures", "level", "reach", "relative", "rule", "signal", "signal_name", "steady")

    def __init__(self, rule: AnyRule, signal: Signal, signal_name: str) -> None:
        self.rule = rule
        self.signal = signal
        self.signal_name = signal_name
        self.relative = rule.relative
        self.steady = isinstance(rule, RuleSpec) and rule.steady
        self.descent = isinstance(rule, RuleSpec) and rule.descent
        self.reach = rule.reach if isinstance(rule, RuleSpec) else 0
        self.level = Level(rule.threshold, rule.hold, rule.clear)
        self.failures = 0


class Bench:
    """All rules of one optimizer, or of the run as a whole."""

    def __init__(
        self,
        optimizer: str,
        rules: Iterable[AnyRule],
        mode: Literal["min", "max"],
        rate: LearningRate,
        attempt: Callable[[Callable[[], object]], Exception | None] | None,
        *,
        began_at: int = 0,
    ) -> None:
        """`began_at` is the step before which no trouble of these can have begun."""
        self.course = Course()
        self.seats: list[Seat] = []
        self.skips = 0
        self.contested = False
        self.unjudged: Collection[str] = ()  # rules, by name
        self.usual_norm = UsualNorm()
        self._accumulation = Accumulation()
        self._optimizer = optimizer
        self._attempt = attempt
        self._rate = rate
        self._began_at = began_at
        self._read: Mapping[str, float] = {}  # the newest update ratios
        self._read_at: float | None = None  # the learning rate of the step that they are of
        self._ratios: Mapping[str, float] = {}  # ... of parameters that have a gradient
        self._until = 0  # the last step with whose loss they are judged
        self.excess = UpdateExcess(self.course)  # whether or not a rule judges by it
        self._backwards = 0  # of the newest step since a fence
        self._first_rate = 0.0  # at which the first update ratio was measured
        self._by_source: dict[str, list[Seated]] = {}
        self._functions: list[tuple[Seat, Function]] = []
        for rule in rules:
            self._seat(rule, mode)

    @property
    def steady(self) -> bool:
        """Whether the learning rate is one to train at."""
        return self._rate.steady

    @property
    def may_rise(self) -> bool:
        """Whether the learning rate may go on rising."""
        return self._rate.may_rise

    def step(
        self,
        step: int,
        loss: float | None,
        gradients: GradientReading | None,
        learning_rate: float | None,
        backwards: int,
    ) -> list[Verdict]:
        verdicts: list[Verdict] = []
        if self._rate.update(learning_rate):
            self._settle()
        self.skips = 0
        if backwards != 1 or self._backwards != 1:
            verdicts += self.take("backwards", step, backwards)
        self._backwards = backwards
        if loss is not None:
            judged = self._accumulation.judged(loss, backwards)
            verdicts += self.take("loss", step, judged)
            if judged - judged == 0.0:  # it is finite
                self.course.update(judged)
        if self._functions:
            verdicts += self._call(step, loss)
        if gradients is not None:
            return verdicts + self._gradients(step, gradients)
        return verdicts + self._updates(step) if step <= self._until else verdicts

    @property
    def first_ratio(self) -> float | None:
        """By how much a first step would have moved a typical layer at the rate of now; None where that is not known.

        Of an optimizer that divides by the size of gradients: this is the rate beside the weights. Of one with a
        decay (see `Traits`) it is `EARLY` times that, up to `FAR`.
        """
        rate = self._rate.last
        if not self._first_rate or rate is None or not (self.course.traits.averages or self.course.traits.decay):
            return None
        first = self.excess.first * rate / self._first_rate
        return min(EARLY * first, FAR) if self.course.traits.decay else first

    def take(self, source: str, step: int, value: Any) -> list[Verdict]:
        """Give `value` to every signal that reads `source`."""
        verdicts: list[Verdict] = []
        rate = self._rate
        hindered = rate.settling > 0 or not rate.steady or self.contested or bool(self.unjudged)
        for seat, signal, level in self._by_source.get(source, ()):
            found = signal(value)
            if not found and (found is None or level.idle):  # as nearly always
                continue
            if hindered and self._hindered(seat):
                if (level.firing or level.value) and self._is_left_out(seat):
                    verdicts += self._drop(seat, step)
                continue
            if level.update(step, found) is not None:
                verdicts.append(self._verdict(seat, step))
        return verdicts

    def _hindered(self, seat: Seat) -> bool:
        """Whether a rule is not judged now."""
        rate = self._rate
        return (seat.relative and rate.settling > 0) or (seat.steady and not rate.steady) or self._is_left_out(seat)

    def _is_left_out(self, seat: Seat) -> bool:
        """Whether what a rule says means nothing here, and hardly will."""
        gone = seat.steady and self._rate.gone
        return gone or (seat.descent and self.contested) or seat.rule.name in self.unjudged

    def _drop(self, seat: Seat, step: int) -> list[Verdict]:
        """Forget what a rule saw before it was left out: else its newest point would stand for all that follow."""
        was_firing = seat.level.firing
        seat.level.fence()
        return [self._verdict(seat, step)] if was_firing else []

    def fence(self) -> None:
        self._until = self.skips = self._backwards = 0
        self.course.fence()
        for seat in self.seats:
            seat.signal.fence()
            seat.level.fence()

    def take_levels(self) -> dict[str, float]:
        taken = ((seat.rule.name, seat.level.take()) for seat in self.seats)
        return {name: level for name, level in taken if level is not None}

    def healthy(self) -> bool:
        return not any(
            seat.level.value >= NEAR * seat.rule.threshold or seat.level.firing
            for seat in self.seats
            if seat.rule.severity != "info"
        )

    def level(self, rule: str) -> Level | None:
        """How high `rule` stands, if it is one of these."""
        return next((seat.level for seat in self.seats if seat.rule.name == rule), None)

    def number(self, episodes: Mapping[str, int]) -> None:
        for seat in self.seats:
            seat.level.episode = max(seat.level.episode, episodes.get(seat.rule.name, 0))

    def _gradients(self, step: int, reading: GradientReading) -> list[Verdict]:
        norm = reading.norm if reading.finite else math.inf
        verdicts = self.take("norm", step, norm)
        if reading.finite:
            verdicts += self.take("layer_norms", step, reading.layer_norms)
            self.usual_norm.update(reading.norm)
        if reading.update_ratios:
            if reading.update_ratios is not self._read:
                self._read, self._until = reading.update_ratios, step + LASTS
                self._ratios = of_trained(reading.update_ratios, reading.layer_norms)
                self._read_at = reading.update_rate
            self.excess.read(self._ratios)
            verdicts += self._updates(step)
            if not self._first_rate and self.excess.first:
                self._first_rate = reading.update_rate or 0.0
        return verdicts

    def _updates(self, step: int) -> list[Verdict]:
        """Judge the newest update ratios, beside the rate and the loss of this step."""
        self.course.growth = _growth(self._read_at, self._rate.last)
        return self.take("update_ratios", step, self._ratios)

    def _settle(self) -> None:
        """The user's learning rate jumped: what relative rules saw before is no evidence any more."""
        for seat in self.seats:
            if seat.relative:
                seat.signal.fence()
                seat.level.fence()

    def _seat(self, rule: AnyRule, mode: Literal["min", "max"]) -> None:
        if not isinstance(rule.signal, str):
            seat = Seat(rule, Itself(), rule.name)
            self._functions.append((seat, rule.signal))
        elif rule.signal.startswith(LOGGED):
            seat = self._place(rule.signal, Seat(rule, Itself(), rule.name))
        else:
            spec = signals.find(rule.signal)
            seat = Seat(rule, self._made(spec, rule, mode), rule.signal)
            self._place(rule.signal if spec.reads == "number" else spec.reads, seat)
        self.seats.append(seat)

    def _made(self, spec: SignalSpec, rule: AnyRule, mode: Literal["min", "max"]) -> Signal:
        if spec.reads == "monitor":
            return ValidationsSinceBest(mode, rule.min_delta if isinstance(rule, RuleSpec) else 0.0)
        return self.excess if spec.formula is UpdateExcess else spec.make(self.course)

    def _place(self, source: str, seat: Seat) -> Seat:
        """Let `seat` be given what `source` brings. What is called on every step is looked up here, once."""
        self._by_source.setdefault(source, []).append((seat, seat.signal.update, seat.level))
        return seat

    def _call(self, step: int, loss: float | None) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for seat, function in self._functions:
            if seat.failures >= FAILURES:
                continue
            found: list[float | None] = []
            problem = self._attempted(function, loss, found)
            if problem is not None:
                seat.failures += 1
            elif found[0] is None or (seat.relative and self._rate.settling > 0):
                continue
            elif seat.level.update(step, found[0]) is not None:
                verdicts.append(self._verdict(seat, step))
        return verdicts

    def _attempted(self, function: Function, loss: float | None, found: list[float | None]) -> Exception | None:
        def call() -> None:
            value = function(loss)
            found.append(None if value is None else float(value))

        if self._attempt is not None:
            return self._attempt(call)
        call()
        return None

    def _since(self, seat: Seat, step: int) -> int:
        """The first step in which the trouble may have begun that shows now."""
        if seat.reach == RISING:
            return min(seat.level.since, step + 1 - self.course.rising)
        return seat.level.since - seat.reach

    def _verdict(self, seat: Seat, step: int) -> Verdict:
        level = seat.level
        return Verdict(
            rule=seat.rule.name,
            optimizer=self._optimizer,
            episode=level.episode,
            state="firing" if level.firing else "resolved",
            severity=seat.rule.severity,
            value=level.least,
            threshold=seat.rule.threshold,
            level=level.level if level.level is not None else 0.0,
            step=step,
            since=max(self._since(seat, step), self._began_at),
        )


def _growth(then: float | None, now: float | None) -> float:
    """How many times as high a rate has become, 1 where it has not."""
    if then is None or now is None or now <= then:
        return 1.0
    return now / then if then else math.inf
