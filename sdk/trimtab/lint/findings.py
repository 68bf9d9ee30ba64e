"""Which rules fired, told from levels: at the thresholds that the run was judged with, or at others.

A level is the least of the last `hold` points of a signal over its threshold. So the level at another threshold is that
level times the old threshold over the new one, exactly, and from the worst levels of each record follows in which
records a rule with any other threshold would have fired. Not for another hold: a longer one lowers levels by what is
no longer in the log.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from msgspec import Meta

from trimtab.catalog.rules import RULES
from trimtab.errors import ConfigError, did_you_mean
from trimtab.types import Severity

OF_THE_RUN = frozenset({"validation", "record", "watchdog"})  # what is judged so is about no optimizer


class Levels(NamedTuple):
    """The worst level of each rule over the steps up to `step` since the one before it."""

    step: int
    optimizer: str
    levels: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """How one rule was judged."""

    threshold: Annotated[float, Meta(gt=0)]
    severity: Severity = "warning"
    clear: float = 0.8
    hold: int = 0  # not known
    judged: str = "step"


def shipped() -> dict[str, Bar]:
    """How every rule of the catalog is judged."""
    return {
        name: Bar(rule.threshold, rule.severity, rule.clear, rule.hold, rule.judged) for name, rule in RULES.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule that fired. `step` is the first one known to have been in trouble, or the record's that holds it."""

    rule: str
    optimizer: str
    severity: Severity
    step: int
    level: float  # the worst
    threshold: float
    episodes: int  # at least

    @property
    def value(self) -> float:
        """The signal's, at the worst level: the least of the points that the rule held for."""
        return self.level * self.threshold


@dataclass(slots=True)
class Judgement:
    """What there is to say of one log."""

    name: str
    kind: str
    steps: int  # the last one
    status: str = ""  # how the run ended, where the log knows
    findings: list[Finding] = field(default_factory=list)
    unjudged: dict[str, str] = field(default_factory=dict)  # rule to why it could not be judged
    notes: list[str] = field(default_factory=list)


class LevelTally:
    """Takes levels in the order of a log, and remembers little.

    Args:
        bars: how each rule was judged.
        asked: the rules to judge now, each with a threshold, or None for the one it had. Empty: every rule as it was.

    Raises:
        ConfigError: a rule was asked for that there is not.
    """

    def __init__(self, bars: Mapping[str, Bar], asked: Mapping[str, float | None]) -> None:
        for rule in asked:
            if rule not in bars:
                raise ConfigError(f"--rule {rule}: there is no such rule. {did_you_mean(rule, bars)}")
        self.seen: set[str] = set()  # rules that had a level
        self._bars = bars
        self._asked = asked
        self._worst: dict[tuple[str, str], float] = {}
        self._first: dict[tuple[str, str], int] = {}
        self._episodes: Counter[tuple[str, str]] = Counter()
        self._alerts: Counter[tuple[str, str]] = Counter()
        self._firing: set[tuple[str, str]] = set()

    def add(self, at: Levels) -> None:
        """Take the levels of one record."""
        for rule, level in at.levels.items():
            bar = self._bars.get(rule)
            if bar is None:
                continue
            self.seen.add(rule)
            key = rule, "" if bar.judged in OF_THE_RUN else at.optimizer
            level *= bar.threshold / self._threshold(rule)
            self._worst[key] = max(level, self._worst.get(key, 0.0))
            if level >= 1.0 and key not in self._firing:
                self._begin(key, at.step)
            elif level < bar.clear:
                self._firing.discard(key)

    def fired(self, rule: str, optimizer: str, step: int, value: float) -> None:
        """An alert says so: `value` is the signal's when it began.

        It is sure of the step, and stands for levels that no record holds: those that an adjustment ended, or the end
        of the process.
        """
        bar = self._bars.get(rule)
        if bar is None:
            return
        self.seen.add(rule)
        level = max(value / bar.threshold, 1.0)
        level *= bar.threshold / self._threshold(rule)
        if level >= 1.0:
            key = rule, optimizer
            self._worst[key] = max(level, self._worst.get(key, 0.0))
            self._first[key] = min(step, self._first.get(key, step))
            self._alerts[key] += 1

    def findings(self) -> list[Finding]:
        """Every rule that fired, in the order in which they first did."""
        found = []
        for (rule, optimizer), step in self._first.items():
            bar = self._bars[rule]
            found.append(
                Finding(
                    rule=rule,
                    optimizer=optimizer,
                    severity=bar.severity,
                    step=step,
                    level=self._worst[rule, optimizer],
                    threshold=self._threshold(rule),
                    episodes=self._count((rule, optimizer)),
                )
            )
        return sorted(found, key=lambda finding: finding.step)

    def conclude(self, judged: Judgement, unseen: str) -> None:
        """Write down what fired, and which of the rules asked for had no level: `unseen` says why."""
        judged.findings = [finding for finding in self.findings() if not self._asked or finding.rule in self._asked]
        judged.unjudged |= {rule: unseen for rule in self._asked or self._bars if rule not in self.seen}

    def _count(self, key: tuple[str, str]) -> int:
        """Alerts are exact, but for another threshold there may have been more."""
        if self._alerts[key] and self._threshold(key[0]) == self._bars[key[0]].threshold:
            return self._alerts[key]
        return max(self._alerts[key], self._episodes[key])

    def _threshold(self, rule: str) -> float:
        return self._asked.get(rule) or self._bars[rule].threshold

    def _begin(self, key: tuple[str, str], step: int) -> None:
        self._firing.add(key)
        self._first.setdefault(key, step)
        self._episodes[key] += 1


def worst_of(levels: Mapping[str, float | None]) -> dict[str, float]:
    """Levels as they were logged: one that is missing was infinite."""
    return {rule: math.inf if level is None else level for rule, level in levels.items()}
