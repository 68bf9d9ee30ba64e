"""Whether an alert that came in moves the run. Decided on the thread that trains, at a step, so that it is on record.

An alert about a rule of ours is accepted when the run itself had that rule at its level within the last minute: a
server can say when to act, not that something is the matter. One that the user bound by name is taken at its word.
Either must have begun after the last fence. "Resolved" ends an alert and undoes nothing.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from trimtab.alerts.inbox import REMEMBERED, Inbox, Waiting
from trimtab.alerts.payloads import Incoming
from trimtab.alerts.silences import Silences
from trimtab.catalog import CLOCK_SKEW_S
from trimtab.errors import printable
from trimtab.policies import Decision, Engine
from trimtab.types import Act, Alert, Severity, Verdict

LONGEST_NAME = 64  # characters of an alert's that are recorded, where it is about nothing of ours

Levels = Callable[[], Mapping[str, float]]


class Acceptance:
    """Takes alerts out of the inbox and asks the policies.

    Args:
        rules: severities of the rules that are judged, by name.
        act: who may adjust the run. Alerts are recorded in any case.
        emit: takes the record of what became of each alert.
        decided: called when it is known what became of all that waited.
        clock: seconds since the epoch.
        elapsed: seconds since some moment, which nobody sets.
    """

    def __init__(
        self,
        inbox: Inbox,
        silences: Silences,
        engine: Engine,
        rules: Mapping[str, Severity],
        emit: Callable[[Alert], None],
        *,
        act: Act,
        decided: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inbox = inbox
        self._silences = silences
        self._engine = engine
        self._rules = rules
        self._emit = emit
        self._asked = act in (False, True, "alerts")
        self._decided = decided
        self._clock, self._elapsed = clock, elapsed
        self._open: dict[str, tuple[Incoming, Verdict | None]] = {}  # accepted, and perhaps not answered yet
        self.fence()
        self._episodes: Counter[str] = Counter()  # of alerts that are bound by name
        self._numbered: OrderedDict[tuple[str, float], None] = OrderedDict()  # alerts bound by name that have a number
        self._recorded: OrderedDict[tuple[str, str, float], int] = OrderedDict()  # alerts that fire: which episode

    @property
    def due(self) -> bool:
        """Whether there is anything to decide. Costs nothing to speak of."""
        return bool(self._open) or self._inbox.waiting

    def decide(self, step: int, levels: Levels) -> list[Decision]:
        """What to do at `step` about the alerts that came in. `levels` are each rule's worst of the last minute."""
        newest = levels()
        taken = self._inbox.take()
        for waiting in taken:
            self._take(waiting, step, newest)
        if taken:
            self._decided()
        decisions: list[Decision] = []
        for rule, (alert, verdict) in sorted(self._open.items(), key=self._precedence):
            if verdict is None and newest.get(rule, 0.0) < 1.0:
                del self._open[rule]
                continue
            answer = self._engine.alerted(rule, step, source=alert.source, verdict=verdict)
            if verdict is not None and any(decision.outcome in (None, "dry_run") for decision in answer):
                del self._open[rule]
            decisions += answer
        return decisions

    def fence(self) -> None:
        """Something changed the run: alerts that began before are no evidence any more."""
        self._fenced_at, self._fenced = self._clock(), self._elapsed()
        self._open.clear()

    def state(self) -> dict[str, int]:
        """The number of episodes so far of each alert that is bound by name."""
        return dict(self._episodes)

    def restore(self, state: Counter[str]) -> None:
        """Number episodes on from `state`, see `numbered`. A resumed run begins with a fence."""
        self._episodes = Counter(state)
        self.fence()

    def _take(self, waiting: Waiting, step: int, levels: Mapping[str, float]) -> None:
        alert, rule, outcome = waiting
        if alert.state == "resolved":
            outcome = outcome or "resolved"
            if rule in self._open and self._open[rule][0].fingerprint == alert.fingerprint:
                del self._open[rule]  # before anything was done: a server that was started anew may list it again
                self._numbered.pop((alert.fingerprint, alert.starts_at), None)
        if outcome is None:
            outcome = self._judge(alert, rule, levels)
        verdict = None
        if outcome in ("accepted", "silenced") and alert.state == "firing":
            verdict = self._verdict(alert, rule, step) if rule not in self._rules else None
            self._open[rule] = (alert, verdict)
        self._inbox.count(alert.source, outcome)
        self._record(alert, rule, step, outcome, verdict)

    def _judge(self, alert: Incoming, rule: str, levels: Mapping[str, float]) -> str:
        ago = self._clock() - (self._elapsed() - self._fenced)  # earlier where the clock has been set back since
        if alert.starts_at < min(self._fenced_at, ago) - CLOCK_SKEW_S:
            return "too_old"
        if rule in self._rules and levels.get(rule, 0.0) < 1.0:
            return "disagrees"
        if rule not in self._rules and (alert.fingerprint, alert.starts_at) in self._numbered:
            return "duplicate"  # by another way: whoever is asked and posts, or two servers of one set of rules
        if not self._asked:
            return "not_asked"
        return "silenced" if self._silences.cover(rule) else "accepted"

    def _precedence(self, item: tuple[str, tuple[Incoming, Verdict | None]]) -> tuple[int, int]:
        """Only one is answered before the next fence."""
        rule, (_, verdict) = item
        severity = self._rules.get(rule, "warning") if verdict is None else verdict.severity
        return self._engine.precedence(rule, severity)

    def _verdict(self, alert: Incoming, rule: str, step: int) -> Verdict:
        """What an alert from elsewhere says, in the words of a rule."""
        self._episodes[rule] += 1
        self._numbered[alert.fingerprint, alert.starts_at] = None
        if len(self._numbered) > REMEMBERED:
            self._numbered.popitem(last=False)
        return Verdict(
            rule=rule,
            optimizer="",
            episode=self._episodes[rule],
            state="firing",
            severity=_severity(alert),
            value=1.0 if alert.value is None else alert.value,
            threshold=1.0,
            level=1.0,
            step=step,
            since=step,
        )

    def _episode(self, alert: Incoming, rule: str, verdict: Verdict | None) -> int:
        """Which one the alert is about: while it fires the newest, and when it is over the one that it began with."""
        key = alert.source, alert.fingerprint, alert.starts_at
        if alert.state == "resolved":
            return self._recorded.pop(key, 0)
        episode = self._engine.episode(rule) if verdict is None else verdict.episode
        self._recorded.setdefault(key, episode)
        if len(self._recorded) > REMEMBERED:
            self._recorded.popitem(last=False)
        return episode

    def _record(self, alert: Incoming, rule: str, step: int, outcome: str, verdict: Verdict | None) -> None:
        self._emit(
            Alert(
                ts=self._clock(),
                step=step,
                rule=rule or printable(alert.name[:LONGEST_NAME]),
                episode=self._episode(alert, rule, verdict),
                state="resolved" if alert.state == "resolved" else "firing",
                source=alert.source,
                severity=self._rules.get(rule) or _severity(alert),
                value=alert.value,
                outcome=outcome,
            )
        )


def numbered(state: Mapping[str, Any]) -> Counter[str]:
    """What `Acceptance.state` gave, read back. Raises ValueError, TypeError or AttributeError for another."""
    return Counter({str(name): int(count) for name, count in state.items()})


def _severity(alert: Incoming) -> Severity:
    known: dict[str, Severity] = {"info": "info", "warning": "warning", "critical": "critical"}
    return known.get(alert.severity, "warning")
