"""A run that takes alerts in: wired, served, and taken apart again."""

import json
import os
import threading
import time
import urllib.error
import urllib.request

import pytest
import torch
from sending import alert, posted

import trimtab
from trimtab import tokens
from trimtab.actions import ScaleLearningRate
from trimtab.errors import ConfigError
from trimtab.policies import Policy
from trimtab.testing import RecordingBackend
from trimtab.types import Alert, Intake, Notice

POLICIES = [Policy(on="alert:GpuHot", ladder=[ScaleLearningRate(0.5)])]


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def hook(tmp_path, token_file, monkeypatch):
    """A run with a webhook; `hook(**options)` gives its watch and what it records."""

    def hook(*backends, token=True, **options):
        if token:
            monkeypatch.setenv("TRIMTAB_WEBHOOK_TOKEN_FILE", str(token_file))
        recording = RecordingBackend()
        settings = {"run": "resnet", "directory": tmp_path, "port": 0, "linger": 0, "policies": POLICIES, **options}
        return trimtab.watch(backends=[*(backends or ["prometheus"]), recording], **settings), recording

    return hook


def post(run, body, token="s3cret"):
    url = run.addresses["prometheus"].replace("/metrics", "/api/v1/alerts")
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def step():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()


def is_told(recording, run, received):
    """Whether the record says so while the run goes on."""
    end = time.monotonic() + 10
    while time.monotonic() < end and [intake.received for intake in recording.of(Intake)][-1:] != [received]:
        run.log(waiting=1.0)
        time.sleep(0.05)
    return [intake.received for intake in recording.of(Intake)][-1:] == [received]


def gpu_hot(now):
    return posted(alert(rule=None, at=now, alertname="GpuHot", run_id=None, purpose=None))


def test_alert_that_is_posted_adjusts_the_run_at_its_next_step(hook):
    watch, recording = hook(act="alerts", gradients_every=1)
    with watch as run:
        assert post(run, gpu_hot(time.time())) == (200, {"accepted": 1, "duplicate": 0, "ignored": 0})
        step()
        assert is_told(recording, run, {"webhook": {"accepted": 1}})
    (cut,) = [adjustment for adjustment in run.adjustments if adjustment.outcome == "applied"]
    assert (cut.rule, cut.after["learning_rate_scale"]) == ("alert:GpuHot", 0.5)
    (record,) = recording.of(Alert)
    assert (record.rule, record.source, record.outcome, record.step) == ("alert:GpuHot", "webhook", "accepted", 1)
    assert recording.of(Intake)[-1].last_success == {"webhook": pytest.approx(time.time(), abs=60)}


def test_alert_that_comes_while_a_scaler_skips_every_step_adjusts_the_run(hook):
    weight, scaler = torch.nn.Parameter(torch.ones(2)), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD([weight], lr=0.1)
    watch, _ = hook(act="alerts", gradients_every=1)
    with watch as run:
        assert post(run, gpu_hot(time.time()))[0] == 200
        for _ in range(3):
            scaler.scale((weight * torch.inf).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert [adjustment.outcome for adjustment in run.adjustments] == ["applied"]


def test_alerts_that_come_while_a_run_lingers_are_answered_and_not_told(hook):
    class Late(RecordingBackend):
        def linger(self):
            answers.extend(post(run, gpu_hot(time.time()))[0] for _ in range(3))
            time.sleep(1.2)  # the second of a line that comes later

    answers = []
    watch, recording = hook("prometheus", Late())
    with watch as run:
        assert post(run, gpu_hot(time.time()))[0] == 200
        step()
    assert answers == [200, 200, 200]
    assert [event.name for event in recording.events][-1] == "run_end"
    assert recording.of(Intake)[-1].received["webhook"]["accepted"] == 1


def test_without_a_token_no_webhook_is_served(hook):
    watch, _ = hook(token=False)
    with watch as run:
        assert post(run, b"{}")[0] == 404


@pytest.mark.parametrize(("body", "token", "status"), [(b"{}", "wrong", 401), (b"{}", "s3cret", 400)])
def test_webhook_refuses_over_http_too(hook, body, token, status):
    watch, _ = hook()
    with watch as run:
        assert post(run, body, token)[0] == status


def test_body_of_up_to_a_mebibyte_reaches_the_webhook_and_no_more(hook):
    watch, _ = hook()
    with watch as run:
        fitting = b'{"version": "4", "alerts": [], "x": "' + b"y" * 1_000_000 + b'"}'
        assert post(run, fitting)[0] == 200
        assert post(run, fitting + b" " * 100_000)[0] == 413


def test_what_was_posted_is_counted_soon_though_nothing_comes_after_it(hook):
    watch, recording = hook()
    with watch as run:
        for times in (1, 2):  # the later ones, too
            for body in (b"{}", posted(alert(at=time.time())), b"]"):
                post(run, body)
            assert is_told(recording, run, {"webhook": {"malformed": 2 * times, "other_run": times}})
            assert times > 1 or len(recording.of(Intake)) == 2  # a line a second at most


def test_run_without_a_server_says_that_it_has_no_webhook(hook):
    watch, recording = hook("jsonl")
    with watch:
        pass
    assert any("no backend of this run serves HTTP" in notice.text for notice in recording.of(Notice))


def test_nothing_is_left_of_a_run_that_asked(hook):
    before = threading.active_count()
    watch, recording = hook("jsonl", token=False, alerts="http://127.0.0.1:1", alerts_every=0.5)
    with watch as run:
        assert any(thread.name == "trimtab-alerts" for thread in threading.enumerate())
        while not recording.of(Intake):
            run.log(waiting=1.0)
            threading.Event().wait(0.01)
        assert recording.of(Intake)[0].last_success == {"alertmanager": 0.0}  # never: what pages people rests on it
    assert "cannot be reached" in recording.of(Notice)[0].text
    assert threading.active_count() == before


def test_token_is_in_nothing_that_is_written(hook, tmp_path):
    watch, _ = hook("prometheus", "jsonl", "console", alerts="http://127.0.0.1:1", alerts_every=0.5)
    with watch as run:
        post(run, b"{}", "wrong")
        step()
    written = [path.read_text() for path in (tmp_path / "resnet").iterdir() if path.is_file()]
    assert len(written) >= 2
    assert not any("s3cret" in text for text in written)


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        ("s3cret", 0o644, "others than its owner may use it. Run: chmod 600"),
        ("s3cret", 0o620, "others than its owner"),
        ("\n", 0o600, "empty"),
        ("s3cret\nX-Evil: 1", 0o600, "one line without spaces"),
        ("\ufeffs3cret", 0o600, "in ASCII"),  # as an editor of Windows writes it: nobody could send that token
        ("s3cret" * 2_000, 0o600, "8,192 bytes at most"),
    ],
)
def test_token_file_that_cannot_be_used_is_refused_at_the_start(tmp_path, content, mode, sentence):
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        tokens.read("alerts_token_file", path)
    assert sentence in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.fixture
def pipe(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "PIPE_S", 0.5)
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    return path


@pytest.mark.parametrize("pause", [0.0, 0.2])
def test_token_may_come_through_a_pipe(pipe, pause):
    def write():
        with pipe.open("wb") as end:
            for part in (b"s3", b"cret\n"):
                time.sleep(pause)
                end.write(part)
                end.flush()

    writer = threading.Thread(target=write)
    writer.start()
    assert tokens.read("alerts_token_file", pipe) == b"s3cret"
    writer.join()


def test_pipe_into_which_nobody_writes_is_not_waited_for_without_end(pipe):
    with pytest.raises(ConfigError, match=r"cannot be read \(a pipe that nobody wrote to the end in .* s\)"):
        tokens.read("alerts_token_file", pipe)


def test_token_goes_in_plain_text_only_with_a_warning(hook, token_file, monkeypatch):
    monkeypatch.setenv("TRIMTAB_ALERTS_TOKEN_FILE", str(token_file))
    watch, recording = hook("jsonl", token=False, alerts="http://alerts.invalid")
    with watch:
        pass
    assert any("in plain text. Use https" in notice.text for notice in recording.of(Notice))


def test_address_in_plain_text_needs_no_warning_where_no_token_goes_there(hook):
    watch, recording = hook("jsonl", token=False, alerts="http://alerts.invalid")
    with watch:
        pass
    assert not any("in plain text" in notice.text for notice in recording.of(Notice))
