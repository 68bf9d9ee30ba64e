"""The whole loop: a run, a Prometheus that scrapes it, an Alertmanager, and back into the run."""

import contextlib
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import torch
from servers import Alertmanager, Prometheus
from torch import nn

import trimtab
from trimtab.actions import RollBack, ScaleLearningRate
from trimtab.policies import Policy
from trimtab.testing import RecordingBackend
from trimtab.types import Alert, Intake

pytestmark = pytest.mark.servers

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "trimtab-acting.rules.yml"
PATIENCE_S = 40.0
SCALE = 0.003
POLICIES = [Policy(on="loss_diverged", ladder=[(RollBack(), ScaleLearningRate(SCALE))])]


class Servers:
    """A Prometheus and an Alertmanager. Runs that are kept in `directory` are found by their files."""

    def __init__(self, directory, prometheus, alertmanager):
        self.directory = directory
        self.alertmanager = alertmanager
        self._prometheus = prometheus

    def ask(self, promql):
        """The values, one a series; nothing while the server is still starting."""
        return [float(series["value"][1]) for series in self._prometheus(promql)]

    def silence(self, run):
        """Silence every alert about `run`, for an hour."""
        now = datetime.now(timezone.utc)
        body = {
            "matchers": [{"name": "run", "value": run, "isRegex": False, "isEqual": True}],
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(hours=1)).isoformat(),
            "createdBy": "test",
            "comment": "hands off",
        }
        self.alertmanager.post("/api/v2/silences", body)

    def alert(self, **labels):
        """Raise an alert, as some other Prometheus would."""
        self.alertmanager.post("/api/v2/alerts", [{"labels": labels}])


@pytest.fixture(scope="module")
def servers(tmp_path_factory, program):
    program("prometheus"), program("prometheus-alertmanager")
    directory = tmp_path_factory.mktemp("servers")
    with Alertmanager(directory / "alertmanager") as alertmanager:
        found = {"files": directory / "targets" / "*.json", "rules": [RULES], "alertmanager": alertmanager.url}
        with Prometheus(directory / "prometheus", interval="500ms", **found) as prometheus:
            yield Servers(directory, prometheus, alertmanager)


class Faulty:
    """A training that goes well until its learning rate is set far too high."""

    def __init__(self):
        torch.manual_seed(0)
        self.x = torch.randn(256, 8)
        self.y = self.x[:, :3].argmax(1)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)

    def until(self, condition, at_least=0):
        """Train until `condition()` is true, which is asked a few times a second."""
        end, asked, steps = time.monotonic() + PATIENCE_S, time.monotonic(), 0
        while time.monotonic() < end:
            batch = torch.randint(0, 256, (32,))
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.x[batch]), self.y[batch]).backward()
            self.optimizer.step()
            time.sleep(0.002)  # a step of a real model
            steps += 1
            if steps >= at_least and time.monotonic() - asked > 0.2:
                asked = time.monotonic()
                if condition():
                    return
        raise AssertionError("it did not happen in time")

    def spoil(self):
        for group in self.optimizer.param_groups:
            group["lr"] = 3.0


@contextlib.contextmanager
def spoilt(servers, name, act, before=lambda run, training: None):
    """A run that was healthy until both servers knew it and `before` had been called, and then was not."""
    recording, training = RecordingBackend(), Faulty()
    options = {
        "alerts": servers.alertmanager.url,
        "alerts_every": 0.5,
        "policies": POLICIES,
        "linger": 0,
        "gradients_every": 1,
    }
    with trimtab.watch(
        run=name, directory=servers.directory, backends=["prometheus", recording], port=0, act=act, **options
    ) as run:
        known = f'trimtab_alert_source_last_success_timestamp_seconds{{run="{name}"}}'
        training.until(lambda: servers.ask(known), at_least=300)
        before(run, training)
        training.spoil()
        yield run, recording, training


def applied(run):
    return [(a.rule, a.episode, a.action) for a in run.adjustments if a.outcome == "applied" and a.rule]


def test_alert_that_comes_back_cuts_the_rate_and_the_loss_recovers(servers):
    with spoilt(servers, "saved", "alerts") as (run, recording, training):
        ask = servers.ask
        training.until(lambda: ask(f'trimtab_learning_rate_scale{{run="saved"}} == {SCALE}'))
        training.until(lambda: ask('trimtab_loss{run="saved", phase="train"} < 0.5'))
        assert ask('max_over_time(trimtab_loss{run="saved", phase="train"}[1m])')[0] > 2.0
        assert ask('max_over_time(trimtab_rule_level{run="saved", rule="loss_diverged"}[1m])')[0] >= 1
        assert ask('count_over_time(ALERTS{run="saved", alertname="TrimtabLossDiverged", alertstate="firing"}[1m])')
        assert ask('trimtab_alerts_received_total{run="saved", source="alertmanager", outcome="accepted"}')[0] >= 1
    (cut,) = [a for a in run.adjustments if a.outcome == "applied" and a.action == "scale_learning_rate"]
    assert (cut.rule, cut.episode) == ("loss_diverged", 1)
    accepted = [a for a in recording.of(Alert) if a.outcome == "accepted" and a.rule == "loss_diverged"]
    assert accepted[0].step <= cut.step


def test_who_comes_first_has_the_episode(servers):
    with spoilt(servers, "once", True) as (run, _, training):
        training.until(lambda: applied(run))
        polls = servers.ask('trimtab_alert_source_last_success_timestamp_seconds{run="once"}')[0] + 3
        known = f'trimtab_alert_source_last_success_timestamp_seconds{{run="once"}} > {polls}'
        training.until(lambda: servers.ask(known))
    assert applied(run)
    assert set(Counter(applied(run)).values()) == {1}


@pytest.mark.parametrize("act", ["alerts", True])
def test_silence_at_the_server_keeps_everybodys_hands_off(servers, act):
    name = f"silenced-{act}".lower()
    servers.silence(name)
    with spoilt(servers, name, act) as (run, recording, training):
        told = f'trimtab_alerts_received_total{{run="{name}", outcome="silenced"}}'
        training.until(lambda: servers.ask(told))
    assert applied(run) == []
    assert recording.of(Intake)[-1].received["alertmanager"].keys() == {"silenced"}
    assert ({"silenced"} if act is True else set()) == {a.outcome for a in run.adjustments}


def test_inhibition_at_the_server_keeps_alerts_from_acting(servers):
    servers.alert(alertname="HandsOff", run="inhibited")
    with spoilt(servers, "inhibited", "alerts") as (run, recording, training):
        told = 'trimtab_alerts_received_total{run="inhibited", outcome="silenced"}'
        training.until(lambda: servers.ask(told))
    assert list(run.adjustments) == []
    outcomes = recording.of(Intake)[-1].received["alertmanager"].keys()
    assert outcomes == {"silenced", "unknown_rule"}  # HandsOff itself is about no rule


def test_inhibition_of_an_alert_that_is_there_vetoes_what_is_judged_in_process(servers):
    """One that is not there is inhibited by nobody: the run does not know what Alertmanager would say of it."""

    def inhibit(run, training):
        servers.alert(alertname="HandsOff", run=run.name)
        servers.alert(alertname="TrimtabLossDiverged", run=run.name, run_id=run.id, rule="loss_diverged", purpose="act")
        told = f'trimtab_alerts_received_total{{run="{run.name}", outcome="silenced"}}'
        training.until(lambda: servers.ask(told))

    with spoilt(servers, "inhibited-true", True, before=inhibit) as (run, _, training):
        training.until(lambda: run.adjustments)
    assert {a.outcome for a in run.adjustments} == {"silenced"}
