"""Ten thousand malformed requests to the webhook of a run that trains, whose rule is at its level all the while.

    python benchmarks/loop_malformed.py PORT TOKEN RUN_ID COUNT     who posts, in a process of its own

An alert as it should be would act at once, and does in the end. The inbox's limit on the rate is lifted, so that it is
not what keeps the others out.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import loop_bodies
import torch
from results import Figure
from servers import free_port

import trimtab
from trimtab.actions import ScaleLearningRate
from trimtab.alerts import inbox
from trimtab.policies import Policy
from trimtab.rules.rule import Rule
from trimtab.testing import RecordingBackend
from trimtab.types import Alert

BODIES, QUICK_BODIES = 10_000, 1_000
TOKEN = "benchmark"
HANG_S = 6.0  # a request may take 5 s
STEP_S = 0.002
REFUSED = (200, 400, 413, 503)  # 200 with the alert ignored
RULES = [Rule("always", signal=lambda loss: 1.0, threshold=0.5)]
POLICIES = [Policy(on="always", ladder=[ScaleLearningRate(0.5)], cooldown=0, budget=10_000)]


def measure(quick: bool) -> list[Figure]:
    """A run trains while another process posts."""
    count = QUICK_BODIES if quick else BODIES
    inbox.RATE_PER_S = inbox.BURST = 1_000_000  # type: ignore[assignment]
    seen = RecordingBackend()
    with tempfile.TemporaryDirectory() as name:
        directory, port = Path(name), free_port()
        token = directory / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        options: dict[str, Any] = {"rules": RULES, "policies": POLICIES, "linger": 0, "webhook_token_file": token}
        options |= {"run": "posted-to", "directory": directory, "port": port, "act": "alerts"}
        with trimtab.watch(backends=["prometheus", "jsonl", seen], **options) as run:
            training = _Training()
            training.until(lambda: False, 1.0)
            found, longest = _post(port, run.id, count, training)
            acted = [each for each in run.adjustments if each.outcome == "applied"]
            training.until(lambda: False, 0.5)
            _Posting(port, TOKEN).post(loop_bodies.good(alert(run.id)))
            training.until(lambda: len(run.adjustments) > len(acted), HANG_S)
            control = len([each for each in run.adjustments if each.outcome == "applied"]) - len(acted)
            faults = sum(run._guard.faults.values())
    accepted = [each for each in seen.of(Alert) if each.outcome == "accepted"][: -control or None]
    return _figures(found, count, {"acted": len(acted) + len(accepted), "faults": faults}, control, longest)


def _figures(found: dict[str, Any], count: int, here: dict[str, int], control: int, longest: float) -> list[Figure]:
    bad = found["crashed"] + here["faults"] + found["hung"] + here["acted"]
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found["kinds"].items()))
    statuses = ", ".join(f"{number} times {status}" for status, number in sorted(found["statuses"].items()))
    crashed = found["crashed"] + here["faults"]
    return [
        Figure(
            "webhook: malformed bodies that crash, hang or act",
            f"{crashed}, {found['hung']} and {here['acted']} of {sum(found['kinds'].values()):,}",
            bar=f"0 of {BODIES:,}",
            control=f"as it should be: {control} acts",
            met=bad == 0 and control == 1 and sum(found["kinds"].values()) == BODIES,
            note=f"{kinds}. Answers: {statuses}. " + "; ".join(found["said"]),
        ),
        Figure(
            "... the slowest answer",
            f"{1e3 * found['slowest']:.0f} ms",
            note=f"longest step of the training meanwhile: {1e3 * longest:.0f} ms",
        ),
    ]


def alert(run_id: str) -> dict[str, Any]:
    """One that acts."""
    labels = {"alertname": "TrimtabUserRule", "run": "posted-to", "run_id": run_id, "rule": "always", "purpose": "act"}
    starts = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"status": "firing", "labels": labels, "annotations": {}, "startsAt": starts, "fingerprint": "f1"}


def _post(port: int, run_id: str, count: int, training: _Training) -> tuple[dict[str, Any], float]:
    """Train until another process has posted everything. Also returns the longest step."""
    command = [sys.executable, __file__, str(port), TOKEN, run_id, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as posting:
        longest = training.until(lambda: posting.poll() is not None, 3_600.0)
        assert posting.stdout is not None
        found: dict[str, Any] = json.loads(posting.stdout.read())
    return found, longest


class _Training:
    def __init__(self) -> None:
        self._weight = torch.nn.Parameter(torch.zeros(1))
        self._optimizer = torch.optim.SGD([self._weight], lr=0.1)

    def until(self, condition: Any, seconds: float) -> float:
        """Train until something is so, or for so long. Returns the seconds of the longest step."""
        end, longest = time.monotonic() + seconds, 0.0
        while time.monotonic() < end and not condition():
            started = time.perf_counter()
            self._optimizer.zero_grad()
            ((self._weight - 1.0) ** 2).sum().backward()
            self._optimizer.step()
            longest = max(longest, time.perf_counter() - started)
            time.sleep(STEP_S)
        return longest


class _Posting:
    """Posts bodies one after the other, over a connection that is kept as long as the server keeps it."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes) -> int:
        """The status of the answer. A connection that was kept may be closed by now: then once more."""
        kept = self._connection is not None
        try:
            return self._once(body)
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException):
            self._connection = None
            if not kept:
                raise
            return self._once(body)

    def _once(self, body: bytes) -> int:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=HANG_S)
        self._connection.request("POST", "/api/v1/alerts", body, self._headers)
        answer = self._connection.getresponse()
        answer.read()
        if answer.will_close:
            self._connection.close()
            self._connection = None
        return answer.status


def _run(port: int, token: str, run_id: str, count: int) -> dict[str, Any]:
    posting = _Posting(port, token)
    statuses: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    crashed = hung = 0
    slowest, said = 0.0, []
    for kind, body in loop_bodies.malformed(alert(run_id), count):
        kinds[kind] += 1
        started = time.perf_counter()
        try:
            status = posting.post(body)
        except TimeoutError:
            hung += 1
        except (OSError, http.client.HTTPException) as error:
            crashed += 1
            said.append(f"{kind}: {error!r}")
        else:
            statuses[status] += 1
            crashed += status not in REFUSED
        slowest = max(slowest, time.perf_counter() - started)
    crashed += not _healthy(port)
    found = {"statuses": statuses, "kinds": kinds, "crashed": crashed, "hung": hung}
    return {**found, "slowest": slowest, "said": sorted(set(said))[:5]}


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


if __name__ == "__main__":
    print(json.dumps(_run(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))))
