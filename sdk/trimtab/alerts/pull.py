"""Asks an Alertmanager, or a Grafana, for alerts about this run and for silences, in a thread of its own."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import quote

from trimtab.alerts import payloads
from trimtab.alerts.client import Busy, Client, NotThere, Unanswered
from trimtab.alerts.inbox import TOO_LATE, Inbox
from trimtab.alerts.payloads import Incoming, Malformed
from trimtab.alerts.silences import Labels, Silences, covered
from trimtab.catalog import IN_GRAFANA
from trimtab.guard import Guard
from trimtab.types import AlertSource

JITTER = 0.1  # of the interval
LONGEST_S = 60.0  # between two questions to a server that does not answer
CROWDED_S = 60.0  # without an answer from a server that has others to answer, after which the user is told of it
STRETCH, RELAX = 1.5, 0.95  # of the interval, when the server had no time for a question, and when it had
SOON = 2  # intervals, within which who was sent away comes back: none may have bad luck for ever
UNREAD_TOLD = 20  # silences that cannot be read, of a server that has ever new ones
CLOSE_S = 0.5


class Poller:
    """Asks every `interval_s`, less often while nobody answers. Training waits for none of it.

    Args:
        labels: what the alert of each rule would be labelled with, to know which silences are about it.
        say: tells the user something once, by its kind.
        published: called after each question, on this thread.
    """

    def __init__(
        self,
        client: Client,
        inbox: Inbox,
        silences: Silences,
        labels: Mapping[str, Labels],
        *,
        run: str,
        interval_s: float,
        guard: Guard,
        say: Callable[[str, str], None],
        published: Callable[[], None],
        jitter: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._inbox = inbox
        self._silences = silences
        self._labels = labels
        self._query = "/api/v2/alerts?unprocessed=false&filter=" + quote(f'run="{run}"', safe="")
        self._interval_s = interval_s
        self._say = say
        self._published = published
        self._jitter = jitter or random.Random().random  # never the one that the user seeded
        self._prefix = ""  # before the paths of the API
        self._source: AlertSource = "grafana" if IN_GRAFANA in client.address else "alertmanager"
        self._found = False  # which of the two it is
        self._firing: dict[tuple[str, float], Incoming] = {}
        self._unread: set[str] = set()  # silences that the user was told of
        self._failures = 0
        self._crowded = 0  # questions that the server has had no time for, in a row
        self._crowded_since = 0.0
        self._stretched = 1.0  # times the interval
        self._clock = clock
        self.busy_seconds = 0.0  # processor time of asking
        self._ending = threading.Event()
        self._ask_guarded = guard.wrap("alerts", self.ask)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Ask from now on."""
        self._thread = threading.Thread(target=self._work, name="trimtab-alerts", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more. A question that is under way is not waited for longer than `CLOSE_S`."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def ask(self) -> None:
        """One question: what is silenced, and what is firing. Silences count alone too, alerts only with them."""
        try:
            silenced = self._silenced()
            self._silences.set(silenced)  # who can post more alerts than are taken in must not undo them by that
            alerts = payloads.listed(self._get(self._query), self._source)
        except Busy as problem:
            self._wait_for(problem)
        except (Unanswered, Malformed) as problem:
            self._failures += 1
            self._tell(problem)
        else:
            self._answered(alerts, silenced)
        if not self._ending.is_set():
            self._published()

    @property
    def source(self) -> AlertSource:
        """What is asked: an Alertmanager as long as nothing answered, unless the address says that it is a Grafana."""
        return self._source

    @property
    def pause_s(self) -> float:
        """How long to wait until the next question. Who was sent away comes back at any time until then."""
        interval_s = self._interval_s * self._stretched
        if self._crowded:
            return min(interval_s, self._interval_s * SOON) * self._jitter()
        doubled = interval_s * 2.0 ** min(self._failures, 10)
        return min(doubled, max(LONGEST_S, self._interval_s)) * (1.0 + JITTER * (2.0 * self._jitter() - 1.0))

    def _work(self) -> None:
        """A thousand runs that were started together must not ask together: the second question comes at any time."""
        pause_s = self._interval_s * JITTER * self._jitter()
        second = True
        while not self._ending.wait(pause_s):
            self._ask_guarded()
            self.busy_seconds = time.thread_time()
            pause_s = self._interval_s * self._jitter() if second else self.pause_s
            second = False

    def _silenced(self) -> frozenset[str]:
        silences = payloads.silences(self._get("/api/v2/silences"))
        silenced, unread = covered(silences, self._labels)
        for text in unread:
            if text in self._unread or len(self._unread) >= UNREAD_TOLD:
                continue
            self._unread.add(text)
            self._say(f"silence {text}", f"A silence cannot be read, and counts as matching: {text}.")
        return silenced

    def _get(self, path: str) -> bytes:
        """Whether it is an Alertmanager or a Grafana is seen by which path it knows."""
        if self._found:
            return self._client.get(self._prefix + path)
        try:
            body = self._client.get(path)
        except NotThere:
            if self._source == "grafana":
                raise
            body = self._client.get(IN_GRAFANA + path)
            self._prefix, self._source = IN_GRAFANA, "grafana"
        self._found = True
        return body

    def _wait_for(self, problem: Busy) -> None:
        """A server that is busy is there, and no trouble unless it stays so. All ask less often, until it has time."""
        now = self._clock()
        if not self._crowded:
            self._crowded_since = now
        self._failures, self._crowded = 0, self._crowded + 1
        self._stretched = min(self._stretched * STRETCH, max(1.0, LONGEST_S / self._interval_s))
        if now - self._crowded_since > CROWDED_S:
            self._tell(problem)

    def _tell(self, problem: Unanswered | Malformed) -> None:
        kind, text = "malformed", f"{self._client.address} answers with JSON of another kind: {problem}."
        if isinstance(problem, Unanswered):
            kind, text = problem.kind, str(problem)
        self._say(f"alerts: {kind}", f"No alerts come in: {text} Rules judged here go on as act= says.")
        if self._silences.lapsed:
            self._say("alerts: lapsed", "The alert server is away for five minutes: its silences hold no longer.")

    def _answered(self, alerts: tuple[list[Incoming], int], silenced: frozenset[str]) -> None:
        if not self._crowded:
            self._stretched = max(1.0, self._stretched * RELAX)
        self._failures = self._crowded = 0
        self._inbox.heard(self._source)
        found, unreadable = alerts
        self._inbox.count(self._source, "malformed", unreadable)
        suppressed = frozenset(self._rule_of(alert) for alert in found if alert.state == "suppressed")
        self._silences.set(silenced, suppressed - {""})
        self._hand_in(found)

    def _rule_of(self, alert: Incoming) -> str:
        """Only the alert that acts speaks for its rule: paging may be silenced while the run is still steered."""
        return alert.subject if alert.purpose in ("", "act") else ""

    def _hand_in(self, found: list[Incoming]) -> None:
        """What is new, and what has gone. An alert that is just listed again is no news."""
        listed = {(alert.fingerprint, alert.starts_at): alert for alert in found}
        former, self._firing = self._firing, listed
        gone = [replace(alert, state="resolved") for key, alert in former.items() if key not in listed]
        news = [alert for key, alert in listed.items() if key not in former or former[key].state != alert.state]
        for alert in (*gone, *news):
            if self._inbox.offer([alert]).keys().isdisjoint(TOO_LATE):
                continue
            key = (alert.fingerprint, alert.starts_at)  # it is handed in again, as it was when it was known
            if key in former:
                self._firing[key] = former[key]
            else:
                del self._firing[key]
