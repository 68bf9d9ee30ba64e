"""The backend `grafana`: adjustments and alerts as annotations, written to a server with Grafana's endpoints."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from grafana_server import TOKEN

import trimtab
from trimtab import config
from trimtab.actions import ScaleLearningRate
from trimtab.errors import BackendError, ConfigError, GrafanaError
from trimtab.policies import Policy
from trimtab.rules.rule import Rule
from trimtab.testing import BackendContract, sample_events, sample_run, sample_step
from trimtab.types import Adjustment, Alert
from trimtab_backends.grafana import AT_ONCE, GrafanaBackend

ALERT, ADJUSTMENT = (next(e for e in sample_events() if isinstance(e, kind)) for kind in (Alert, Adjustment))


@pytest.fixture(scope="module")
def elsewhere():
    """The address of a server in another process: the contract counts the threads and files of this one."""
    command = [sys.executable, Path(__file__).with_name("grafana_server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


class TestGrafanaContract(BackendContract):
    @pytest.fixture(autouse=True)
    def serve(self, elsewhere, token_file):
        self.settings = {"url": elsewhere, "token_file": token_file}

    def make_backend(self, tmp_path):
        return GrafanaBackend(**self.settings)


@pytest.fixture
def backend(server, token_file, tmp_path):
    backend = GrafanaBackend(url=server.url, token_file=token_file)
    backend.start(sample_run(tmp_path))
    yield backend
    backend.close()


def test_an_adjustment_is_an_annotation_with_before_and_after(server, backend):
    backend.write([sample_step(), ADJUSTMENT])
    (written,) = server.annotations
    assert written["time"] == int(ADJUSTMENT.ts * 1000)
    assert written["tags"] == ["trimtab", "sample", "adjustment", "loss_spike", "dry_run"]
    assert written["text"] == (
        "sample, step 5: scale_learning_rate dry_run (loss_spike): learning_rate_scale 1 to 0.5. act is off"
    )


def test_a_rule_that_fires_is_a_stretch_until_it_is_resolved(server, backend):
    backend.write([ALERT])
    backend.write([dataclasses.replace(ALERT, state="resolved", ts=ALERT.ts + 60)])
    (written,) = server.annotations
    assert written["tags"] == ["trimtab", "sample", "alert", "loss_spike", "warning"]
    assert written["timeEnd"] - written["time"] == 60_000


def test_text_of_an_annotation_is_no_markup(server, backend):
    backend.write([dataclasses.replace(ADJUSTMENT, reason="<img src=x onerror=alert(1)>")])
    assert "<" not in server.annotations[0]["text"]


def test_a_flood_is_cut_short_and_said_so(server, backend):
    backend.write([ADJUSTMENT] * (AT_ONCE + 5))
    assert len(server.annotations) == AT_ONCE + 1
    assert "and 5 more" in server.annotations[-1]["text"]


def test_only_rank_0_writes(server, token_file, tmp_path):
    backend = GrafanaBackend(url=server.url, token_file=token_file)
    backend.start(sample_run(tmp_path, rank=1, world_size=2))
    backend.write([ADJUSTMENT, ALERT])
    assert server.requests == []


def test_a_grafana_that_comes_back_gets_the_next_batch(server, backend):
    server.answer = (502, {}, "<html>bad gateway</html>")
    with pytest.raises(GrafanaError, match="502") as raised:
        backend.write([ADJUSTMENT])
    assert TOKEN not in str(raised.value)
    server.answer = None
    backend.write([ADJUSTMENT])
    assert len(server.annotations) == 1


def test_a_token_that_others_may_read_is_refused_when_the_run_starts(server, token_file, tmp_path):
    token_file.chmod(0o644)
    with pytest.raises(BackendError, match="chmod 600"):
        GrafanaBackend(url=server.url, token_file=token_file).start(sample_run(tmp_path))


def test_no_address_is_said_with_the_setting(tmp_path):
    with pytest.raises(BackendError, match="TRIMTAB_GRAFANA"):
        GrafanaBackend().start(sample_run(tmp_path))


def test_setting_adds_the_backend_and_needs_a_token_file(token_file):
    environ = {"TRIMTAB_GRAFANA": "http://127.0.0.1:3000", "TRIMTAB_BACKENDS": "jsonl"}
    with pytest.raises(ConfigError, match="grafana_token_file"):
        config.resolve(environ=environ, run="test")
    environ["TRIMTAB_GRAFANA_TOKEN_FILE"] = str(token_file)
    assert config.resolve(environ=environ, run="test").backends == ("jsonl", "grafana")


def test_run_does_not_start_without_the_grafana_that_was_asked_for(server, token_file, tmp_path, monkeypatch, guarded):
    token_file.chmod(0o644)
    monkeypatch.setenv("TRIMTAB_GRAFANA_TOKEN_FILE", str(token_file))
    with pytest.raises(BackendError, match="chmod 600"):
        trimtab.watch(run="refused", directory=tmp_path, port=0, grafana=server.url).__enter__()


def test_run_that_adjusts_itself_is_annotated(server, token_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_GRAFANA_TOKEN_FILE", str(token_file))
    rules = [Rule("always", signal=lambda loss: 1.0, threshold=0.5)]
    policies = [Policy(on="always", ladder=[ScaleLearningRate(0.5)])]
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    settings = {"act": "process", "rules": rules, "policies": policies, "backends": "jsonl", "grafana": server.url}
    with trimtab.watch(run="annotated", directory=tmp_path, **settings):
        for _ in range(20):
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()
    texts = [each["text"] for each in server.annotations]
    assert any("always fires, episode 1" in text for text in texts)
    assert any("scale_learning_rate applied (always): learning_rate_scale 1 to 0.5" in text for text in texts)
    assert {each["tags"][1] for each in server.annotations} == {"annotated"}
