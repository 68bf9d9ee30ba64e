"""Where alerts wait for the thread that trains: filtered, told from what came before, bounded in number and rate.

Any thread may hand alerts in; one thread takes them out, at a step, and decides there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from trimtab.alerts.payloads import Incoming
from trimtab.catalog import CLOCK_SKEW_S
from trimtab.types import AlertSource

CAPACITY = 500  # alerts that wait
REMEMBERED = 10_000  # alerts that are known again
RATE_PER_S = 10.0  # alerts about this run, over all sources
BURST = 200
TOO_LATE = ("inbox_full", "rate_limited")  # may be sent again: what was not taken in is not remembered


class Waiting(NamedTuple):
    """An alert about this run. `outcome` is set when it is clear already that nothing will be done about it."""

    alert: Incoming
    rule: str  # ours, or `alert:NAME`; empty when it is neither
    outcome: str | None


class Inbox:
    """The alerts of one run.

    Args:
        rules: the names of the rules that are judged, and `alert:NAME` for each alert bound to a policy by name.
        clock: seconds since the epoch.
    """

    def __init__(
        self, run: str, run_id: str, rules: Collection[str], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._run = run
        self._run_id = run_id
        self._rules = frozenset(rules)
        self._clock = clock
        self._lock = threading.RLock()  # SIGTERM may come while it is held
        self._waiting: deque[Waiting] = deque()
        self._known: OrderedDict[tuple[str, str, float], str] = OrderedDict()  # alerts, and how each stood last
        self._counted: Counter[tuple[str, str]] = Counter()
        self._heard: dict[str, float] = {}
        self._closed = False
        self._allowance = float(BURST)
        self._refilled = clock()

    @property
    def waiting(self) -> bool:
        """Whether there is anything to take out."""
        return bool(self._waiting)

    @property
    def received(self) -> dict[str, dict[str, int]]:
        """How many came in so far: by source, and what became of them."""
        with self._lock:
            counted = dict(self._counted)
        found: dict[str, dict[str, int]] = {}
        for (source, outcome), count in counted.items():
            found.setdefault(source, {})[outcome] = count
        return found

    @property
    def last_success(self) -> dict[str, float]:
        """When each source was last heard, in seconds since the epoch."""
        with self._lock:
            return dict(self._heard)

    def close(self) -> None:
        """The run is over: nothing is taken in any more."""
        self._closed = True

    def heard(self, source: AlertSource) -> None:
        """A source answered, or sent something that is understood."""
        with self._lock:
            self._heard[source] = self._clock()

    def count(self, source: AlertSource, outcome: str, number: int = 1) -> None:
        """It is known what became of alerts."""
        if number:
            with self._lock:
                self._counted[source, outcome] += number

    def offer(self, alerts: Iterable[Incoming]) -> Counter[str]:
        """Hand alerts in. Returns how many were `taken`, and what became of the others at once."""
        outcomes: Counter[str] = Counter()
        for alert in alerts:
            outcome = self._offer(alert)
            if outcome != "taken":
                self.count(alert.source, outcome)
            outcomes[outcome] += 1
        return outcomes

    def take(self) -> list[Waiting]:
        """Everything that waits, oldest first. Waits for no lock."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]

    def _offer(self, alert: Incoming) -> str:
        if not self._is_ours(alert):
            return "other_run"
        if self._closed:
            return "run_over"
        rule, outcome = self._read(alert)
        key = (alert.source, alert.fingerprint, alert.starts_at)
        with self._lock:
            if self._known.get(key) == alert.state:
                return "duplicate"
            if len(self._waiting) >= CAPACITY:
                return "inbox_full"
            if not self._may_come():
                return "rate_limited"
            self._known[key] = alert.state
            self._known.move_to_end(key)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._waiting.append(Waiting(alert, rule, outcome))
        return "taken"

    def _is_ours(self, alert: Incoming) -> bool:
        """An alert about a rule of ours names the run's id; one that the user bound may name the run alone."""
        if alert.run_id:
            return alert.run_id == self._run_id and alert.run in ("", self._run)
        return alert.run == self._run and not alert.rule

    def _read(self, alert: Incoming) -> tuple[str, str | None]:
        """The rule that an alert is about, and why nothing is to be done about it, if that is so."""
        rule = alert.subject if alert.subject in self._rules else ""
        if not alert.real:
            return rule, "no_alert"
        if alert.purpose not in ("", "act"):
            return rule, "for_people"
        if not rule:
            return rule, "unknown_rule"
        if alert.state == "suppressed":
            return rule, "silenced"
        return rule, "in_future" if alert.starts_at > self._clock() + CLOCK_SKEW_S else None

    def _may_come(self) -> bool:
        now = self._clock()
        self._allowance = min(float(BURST), self._allowance + max(now - self._refilled, 0.0) * RATE_PER_S)
        self._refilled = now
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True
