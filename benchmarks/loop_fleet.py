"""A thousand runs ask one Alertmanager, which has two thousand alerts, as often as they do by default.

    python benchmarks/loop_fleet.py URL FIRST COUNT SECONDS     so many of the runs, in a process of their own

The runs are those that ask, and nothing else of a run: each has the poller, the client, the inbox and the thread that
it would have beside its training. Four processes hold them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from results import Figure
from servers import Alertmanager

from trimtab.alerts.client import Client
from trimtab.alerts.inbox import Inbox
from trimtab.alerts.pull import Poller
from trimtab.alerts.silences import Silences, expected_labels
from trimtab.catalog.rules import alert_name
from trimtab.config import resolve
from trimtab.guard import Guard

RUNS, ALERTS, SILENCES = 1_000, 2_000, 20
PROCESSES = 4
SECONDS, QUICK_S = 60.0, 20.0
RULES = ("loss_diverged", "loss_nonfinite")
BATCH = 250  # alerts in a request


def measure(quick: bool) -> list[Figure]:
    """A fifth of the runs and of the alerts would not tell: `quick` only asks for less long."""
    seconds = QUICK_S if quick else SECONDS
    with tempfile.TemporaryDirectory() as directory, Alertmanager(Path(directory)) as server:
        _fill(server)
        before, started = server.cpu_seconds, time.monotonic()
        found = _ask(server.url, seconds)
        spent, took = server.cpu_seconds - before, time.monotonic() - started
    return _figures(found, seconds, spent / took)


def _figures(found: list[dict[str, Any]], seconds: float, server_cpu: float) -> list[Figure]:
    errors: Counter[str] = sum((Counter(each["errors"]) for each in found), Counter())
    asked, wrong = sum(each["asked"] for each in found), sum(each["wrong"] for each in found)
    latencies = sorted(took for each in found for took in each["seconds"])
    middle, last = statistics.median(latencies), latencies[int(0.99 * len(latencies))]
    name = f"{RUNS:,} runs ask one Alertmanager with {ALERTS:,} alerts, each {_interval_s():g} s"
    crowded = sum(each["crowded"] for each in found)
    told = ", ".join(f"{count} times {kind}" for kind, count in errors.items())
    measured = f"{sum(errors.values())} errors in {asked:,} questions, {wrong} runs without both their alerts"
    said = f"for {seconds:g} s; a question is two requests: alerts of the run, silences ({SILENCES} active)"
    return [
        Figure(name, measured, bar="no error", met=not errors and not wrong, note=f"{said}{'; ' * bool(told)}{told}"),
        Figure("... processor time of the Alertmanager", f"{100 * server_cpu:.0f} % of a core", bar="stated"),
        Figure(
            "... processor time of asking, each run",
            f"{1e3 * sum(each['cpu'] for each in found) / asked:.1f} ms a question",
            bar="stated",
        ),
        Figure(
            "... a run is answered each",
            f"{seconds * RUNS / asked:.1f} s",
            note=f"{crowded:,} questions came too many at a time (503) and came again",
        ),
        Figure(
            "... a question takes, coming again included",
            f"median {1e3 * middle:.0f} ms, 99 % below {1e3 * last:.0f} ms",
        ),
    ]


def _fill(server: Alertmanager) -> None:
    """Two alerts for each run, of the labels that Prometheus gives them, and some silences about other runs."""
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    alerts = [
        {"labels": {"alertname": alert_name(rule), **_labels(number, rule)}, "endsAt": ends}
        for number in range(RUNS)
        for rule in RULES
    ]
    assert len(alerts) == ALERTS
    for first in range(0, ALERTS, BATCH):
        server.post("/api/v2/alerts", alerts[first : first + BATCH])
    for number in range(SILENCES):
        matcher = {"name": "run", "value": f"other-{number}", "isRegex": False, "isEqual": True}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        said = {"matchers": [matcher], "startsAt": now, "endsAt": ends, "createdBy": "bench", "comment": "-"}
        server.post("/api/v2/silences", said)


def _labels(number: int, rule: str) -> dict[str, str]:
    labels = {"run": f"run-{number}", "run_id": f"{number:016x}", "rule": rule}
    return {**labels, "severity": "critical", "purpose": "act"}


def _ask(url: str, seconds: float) -> list[dict[str, Any]]:
    count = RUNS // PROCESSES
    commands = [[sys.executable, __file__, url, str(n * count), str(count), str(seconds)] for n in range(PROCESSES)]
    # In a fleet the runs are on other machines: they must not take the server's processor.
    asking = [subprocess.Popen(["nice", "-n", "10", *each], stdout=subprocess.PIPE, text=True) for each in commands]
    return [json.loads(process.communicate()[0]) for process in asking]


def _interval_s() -> float:
    return resolve(default_name="bench", environ={}).alerts_every


class _Asking:
    """What asks for one run, and what came of it."""

    def __init__(self, url: str, number: int, errors: Counter[str], seconds: list[float]) -> None:
        run, run_id = f"run-{number}", f"{number:016x}"
        self._seconds, self._asked_at = seconds, 0.0
        self.inbox = Inbox(run, run_id, RULES)
        self.crowded = 0  # questions that the server had no time for
        self._errors = errors
        self.poller = Poller(
            _Timed(url, self),
            self.inbox,
            Silences(),
            expected_labels(run, run_id, dict.fromkeys(RULES, "critical")),
            run=run,
            interval_s=_interval_s(),
            guard=Guard(self._wrong),
            say=self._wrong,
            published=self._answered,
        )

    def _wrong(self, kind: str, text: str) -> None:
        self._errors[kind] += 1

    def begun(self) -> None:
        """A question begins."""
        self._asked_at = self._asked_at or time.perf_counter()

    def _answered(self) -> None:
        if self.poller._crowded:
            self.crowded += 1
            return
        self._seconds.append(time.perf_counter() - self._asked_at)
        self._asked_at = 0.0

    @property
    def complete(self) -> bool:
        """Whether both alerts of this run came in, and none of another."""
        return {waiting.rule for waiting in self.inbox.take()} == set(RULES) and not self.inbox.received


class _Timed(Client):
    """The client, which also says when it is first asked."""

    def __init__(self, url: str, asking: _Asking) -> None:
        super().__init__(url)
        self._asking = asking

    def get(self, path: str) -> bytes:
        self._asking.begun()
        return super().get(path)


def _run(url: str, first: int, count: int, seconds: float) -> dict[str, Any]:
    errors: Counter[str] = Counter()
    took: list[float] = []
    asking = [_Asking(url, number, errors, took) for number in range(first, first + count)]
    for each in asking:
        each.poller.start()
    threading.Event().wait(seconds)
    cpu, asked = sum(each.poller.busy_seconds for each in asking), len(took)
    for each in asking:
        each.poller._ending.set()
    return {
        "errors": errors,
        "asked": asked,
        "seconds": took,
        "cpu": cpu,
        "crowded": sum(each.crowded for each in asking),
        "wrong": sum(not each.complete for each in asking),
    }


if __name__ == "__main__":
    print(json.dumps(_run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
    sys.stdout.flush()
