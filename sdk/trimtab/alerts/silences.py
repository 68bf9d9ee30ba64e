"""Who wants nothing done: the rules that a silence or an inhibition at the server covers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from trimtab.alerts.expressions import READING, Effort, Exhausted, Unreadable, matches
from trimtab.alerts.payloads import Matcher, Silence
from trimtab.catalog.rules import RULES, alert_name

HOLD_S = 300.0  # the last known silences hold for so long when the server is away

_NONE: frozenset[str] = frozenset()

Labels = Mapping[str, str]


def expected_labels(run: str, run_id: str, rules: Iterable[str]) -> dict[str, Labels]:
    """The labels that the alert of each rule would have, by the rules that ship for servers.

    Those know no severity but the one that a rule ships with, whatever this run has made of it. An alert bound by
    name, `alert:NAME`, has that name.
    """
    labels: dict[str, Labels] = {}
    for rule in rules:
        severity = RULES[rule].severity if rule in RULES else "warning"
        known = {"run": run, "run_id": run_id, "severity": severity}
        if rule.startswith("alert:"):
            labels[rule] = {**known, "alertname": rule.removeprefix("alert:")}
        else:
            name = alert_name(rule) if rule in RULES else "TrimtabUserRule"
            labels[rule] = {**known, "alertname": name, "rule": rule, "purpose": "act"}
    return labels


def covered(silences: Iterable[Silence], labels: Mapping[str, Labels]) -> tuple[frozenset[str], Sequence[str]]:
    """The rules that are silenced, and what could not be read of the silences' matchers.

    Matchers are those of Alertmanager: all of a silence must match, a label that is missing is empty, and an expression
    must match the whole value. One that cannot be read counts as matching a label that the alert has: in doubt,
    nothing is done. Where there is more than 100 ms of them, every rule counts as silenced.
    """
    found: set[str] = set()
    reading = _Reading()
    try:
        for silence in silences:
            holds = reading.of(silence)
            found.update(rule for rule, known in labels.items() if rule not in found and holds(known))
    except Exhausted:
        return frozenset(labels), (*reading.unread, "there are more of them than can be read in time")
    return frozenset(found), tuple(reading.unread)


class _Reading:
    """Matches silences, all of them with one effort. `unread` tells which expressions were not understood."""

    def __init__(self) -> None:
        self.unread: dict[str, None] = {}
        self._effort = Effort()

    def of(self, silence: Silence) -> Callable[[Labels], bool]:
        """Whether labels are silenced. The rules of a run differ in few labels, so no value is looked at twice."""
        matchers = sorted(silence.matchers, key=lambda matcher: matcher.is_regex)  # what costs nothing comes first
        known: dict[tuple[int, str | None], bool] = {}

        def hold(labels: Labels) -> bool:
            for number, matcher in enumerate(matchers):
                key = number, labels.get(matcher.name)
                if key not in known:
                    known[key] = self._holds(matcher, key[1])
                if not known[key]:
                    return False
            return True

        return hold

    def _holds(self, matcher: Matcher, value: str | None) -> bool:
        self._effort.spend(READING)
        if not matcher.is_regex:
            return ((value or "") == matcher.value) == matcher.is_equal
        try:
            return matches(matcher.value, value or "", self._effort) == matcher.is_equal
        except Unreadable as problem:
            self.unread[f"{matcher.name[:64]!r} {matcher.value[:64]!r}: {problem}"] = None
            return value is not None


class Silences:
    """The silences as they are known now. Written by the thread that asks, read by the one that trains.

    `clock` is in seconds, and only differences matter.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        nothing = (_NONE, clock())
        self._known = (nothing, nothing)  # of silences, and of alerts: each with when the server was heard

    def set(self, silenced: frozenset[str], suppressed: frozenset[str] | None = None) -> None:
        """The server was heard: these rules have a silence, and the alerts of those are suppressed.

        Where the alerts are not known (None), what was known of them holds as if the server were away.
        """
        now = self._clock()
        self._known = ((silenced, now), self._known[1] if suppressed is None else (suppressed, now))

    @property
    def rules(self) -> frozenset[str]:
        """What is silenced; nothing once the server has been away for `HOLD_S`."""
        now = self._clock()
        (silenced, heard), (suppressed, listed) = self._known
        return (silenced if now - heard <= HOLD_S else _NONE) | (suppressed if now - listed <= HOLD_S else _NONE)

    @property
    def lapsed(self) -> bool:
        """Whether silences that were known hold no longer, since the server is away."""
        return any(rules for rules, _ in self._known) and not self.rules

    def cover(self, rule: str) -> bool:
        """Whether nothing is to be done about `rule`."""
        return rule in self.rules
