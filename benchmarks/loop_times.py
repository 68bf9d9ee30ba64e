"""How long it takes from trouble to the adjustment: through real servers, by asking and by webhook, and in process.

Each trial is a run of its own that trains well until its learning rate is set far too high. Time counts from the
record that its own level reached 1, to that of the adjustment; both are made where it happens, by the same clock.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from results import Figure
from servers import Alertmanager, Prometheus, free_port
from torch import nn

import trimtab
from trimtab.actions import ScaleLearningRate
from trimtab.policies import Policy
from trimtab.testing import RecordingBackend
from trimtab.types import Adjustment, Alert

RULES = Path(__file__).parents[1] / "deploy" / "prometheus" / "trimtab-acting.rules.yml"
TRIALS, QUICK_TRIALS = 10, 3
PULLED_BAR_S, WEBHOOK_BAR_S = 5.0, 3.0
HEALTHY_S = 3.0  # before the fault, and up to a second more, so that it comes at any time between two scrapes
PATIENCE_S = 60.0
STEP_S = 0.005
POLICIES = [Policy(on="loss_diverged", ladder=[ScaleLearningRate(0.003)])]
ANSWERED = ("loss_diverged", "firing")  # other rules may fire before it, and have no policy here


@dataclass(frozen=True, slots=True)
class Trial:
    """From the level at 1 to the adjustment: seconds, steps of the loop since it was judged, what brought it about."""

    seconds: float
    steps: int
    sources: tuple[str, ...]


def pulled(quick: bool) -> list[Figure]:
    """A run asks Alertmanager each second; Prometheus scrapes and evaluates each second."""
    trials = _through_servers(quick, asks=True)
    return [_figure("level at 1 to adjustment, pulled each second", trials, PULLED_BAR_S)]


def webhook(quick: bool) -> list[Figure]:
    """Alertmanager posts to the run, without waiting for others of the group."""
    trials = _through_servers(quick, asks=False)
    return [_figure("... by webhook, group_wait 0s", trials, WEBHOOK_BAR_S)]


def process(quick: bool) -> list[Figure]:
    """The run judges itself, with no server."""
    with tempfile.TemporaryDirectory() as directory:
        trials = [
            _trial(f"process-{n}", n, act="process", directory=directory, backends=["jsonl"])
            for n in range(QUICK_TRIALS if quick else TRIALS)
        ]
    steps = [trial.steps for trial in trials]
    measured = f"{max(steps)} steps after it was judged, {1e3 * max(t.seconds for t in trials):.1f} ms at most"
    note = f"{len(trials)} runs; 0: in the step that was judged, before the next one"
    return [Figure("... in process", measured, bar="the next judged step", met=max(steps) <= 1, note=note)]


def _figure(name: str, trials: list[Trial], bar_s: float) -> Figure:
    seconds = sorted(trial.seconds for trial in trials)
    middle = seconds[len(seconds) // 2]
    every = ", ".join(f"{each:.1f}" for each in seconds)
    return Figure(
        name,
        f"{middle:.1f} s, {seconds[-1]:.1f} s at most",
        bar=f"<= {bar_s:g} s, every one of {TRIALS}",
        met=len(seconds) >= TRIALS and seconds[-1] <= bar_s,
        note=f"{every} s; scraped and evaluated each second, settings of the run are the defaults",
    )


def _through_servers(quick: bool, *, asks: bool) -> list[Trial]:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory, port = Path(name), free_port()
        url = f"http://127.0.0.1:{port}"
        hook = {} if asks else {"webhook": f"{url}/api/v1/alerts", "token": _token(directory)}
        alertmanager = stack.enter_context(Alertmanager(directory / "alertmanager", **hook))
        options: dict[str, Any] = {"interval": "1s", "rules": [RULES], "alertmanager": alertmanager.url}
        prometheus = stack.enter_context(Prometheus(directory / "prometheus", [url], **options))
        asking = {"alerts": alertmanager.url, "alerts_every": 1.0} if asks else {}
        more = {"act": "alerts", "directory": directory, "backends": ["prometheus", "jsonl"], "port": port, **asking}
        _wait_for_alertmanager(prometheus)
        trials = [_trial(f"trial-{n}", n, **more) for n in range(QUICK_TRIALS if quick else TRIALS)]
    expected = {"alertmanager"} if asks else {"webhook"}
    assert {source for trial in trials for source in trial.sources} == expected, trials
    return trials


def _token(directory: Path) -> str:
    """The token of the webhook, told to runs by its file."""
    file = directory / "webhook-token"
    file.write_text("benchmark")
    file.chmod(0o600)
    os.environ["TRIMTAB_WEBHOOK_TOKEN_FILE"] = str(file)
    return "benchmark"


def _wait_for_alertmanager(prometheus: Prometheus) -> None:
    """Prometheus looks for Alertmanagers some seconds after it has started, and the first alerts would be lost."""
    end = time.monotonic() + PATIENCE_S
    while not prometheus.get("/api/v1/alertmanagers")["data"]["activeAlertmanagers"]:
        if time.monotonic() > end:
            raise RuntimeError("Prometheus did not find its Alertmanager")
        time.sleep(0.1)


def _trial(name: str, seed: int, **options: Any) -> Trial:
    """Train well, spoil it, and wait for the adjustment."""
    seen, training = RecordingBackend(), _Training(seed)
    options["backends"] = [*options["backends"], seen]
    with trimtab.watch(run=name, policies=POLICIES, linger=0, **options) as run:
        training.until(lambda: False, HEALTHY_S + random.Random(seed).random())
        assert not run.alerts, run.alerts
        training.spoil()
        training.until(lambda: any((each.rule, each.state) == ANSWERED for each in run.alerts), PATIENCE_S)
        judged = training.steps
        training.until(lambda: any(each.outcome == "applied" for each in run.adjustments), PATIENCE_S)
    return _judged(seen, training.steps - judged)


def _judged(seen: RecordingBackend, steps: int) -> Trial:
    cut = next(each for each in seen.of(Adjustment) if each.outcome == "applied")
    risen = next(
        each
        for each in seen.of(Alert)
        if (each.source, each.state, each.rule, each.episode) == ("process", "firing", cut.rule, cut.episode)
    )
    accepted = [each for each in seen.of(Alert) if each.source != "process" and each.outcome == "accepted"]
    assert (cut.rule, cut.after["learning_rate_scale"]) == ("loss_diverged", 0.003), cut
    return Trial(cut.ts - risen.ts, steps, tuple(sorted({each.source for each in accepted})))


class _Training:
    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self._x = torch.randn(256, 8)
        self._y = self._x[:, :3].argmax(1)
        self._model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=0.01)
        self.steps = 0

    def until(self, condition: Any, seconds: float) -> None:
        """Train until something is so, or for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not condition():
            batch = torch.randint(0, 256, (32,))
            self._optimizer.zero_grad()
            nn.functional.cross_entropy(self._model(self._x[batch]), self._y[batch]).backward()
            self._optimizer.step()
            self.steps += 1
            time.sleep(STEP_S)

    def spoil(self) -> None:
        """From now on its learning rate is far too high."""
        for group in self._optimizer.param_groups:
            group["lr"] = 3.0
