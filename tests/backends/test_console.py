import io
import math
import re
import subprocess
import sys

import pytest

from trimtab.errors import BackendError
from trimtab.testing import SAMPLE_TIME, BackendContract, UnknownEvent, sample_events, sample_run, sample_step
from trimtab.types import Adjustment, Alert, Epoch, Health, Metric, Notice, PhaseSummary, RunEnd, RunStart
from trimtab_backends.console import NAMES_APART, ConsoleBackend


class TestConsoleContract(BackendContract):
    def make_backend(self, tmp_path):
        return ConsoleBackend(stream=io.StringIO())


class Screen(io.StringIO):
    def isatty(self):
        return True


class TestConsoleOnATerminalContract(BackendContract):
    def make_backend(self, tmp_path):
        return ConsoleBackend(stream=Screen())

    @pytest.fixture(autouse=True)
    def _terminal(self, monkeypatch):
        monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize("term", ["", "dumb", None])
def test_terminal_of_which_nothing_is_known_gets_no_escape_sequence(monkeypatch, tmp_path, term):
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    screen = Screen()
    backend = ConsoleBackend(stream=screen)
    backend.start(sample_run(tmp_path))
    backend.write(sample_events())
    backend.close()
    assert "completed" in screen.getvalue()
    assert "\x1b" not in screen.getvalue()


@pytest.fixture
def stream():
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8")


@pytest.fixture
def console(tmp_path, stream):
    backend = ConsoleBackend(stream=stream)
    backend.start(sample_run(tmp_path))
    yield backend
    backend.close()


def said(stream):
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding).splitlines()


def at(seconds=0.0, step=1):
    return {"ts": SAMPLE_TIME + seconds, "step": step}


def test_the_start_says_where_everything_is(console, stream):
    addresses = {"jsonl": "runs/rank-0.jsonl", "prometheus": "http://127.0.0.1:9464/metrics", "statsd": "udp://h"}
    console.write([RunStart(**at(), facts={}, addresses=addresses)])
    assert said(stream) == [
        "trimtab  run sample  log runs/rank-0.jsonl  metrics http://127.0.0.1:9464/metrics  statsd udp://h"
    ]


def test_an_epoch_is_one_line(console, stream):
    steps = [sample_step(i, epoch=3, step_seconds=0.0070123, data_wait_seconds=0.0007) for i in range(1, 4)]
    train = PhaseSummary(loss=0.21344, accuracy=0.93214)
    console.write([*steps, Epoch(**at(), epoch=3, train=train, validation=PhaseSummary(loss=0.2, accuracy=0.94))])
    assert said(stream) == [
        "trimtab  epoch 3  train loss 0.2134 accuracy 93.21%  validation loss 0.2 accuracy 94%"
        "  lr 0.001  |g| 1.5  step 7.012 ms  wait 9.982%"
    ]


def test_an_epoch_without_a_loader_says_nothing_of_waiting(console, stream):
    steps = [sample_step(i, epoch=3, step_seconds=0.007, data_wait_seconds=None) for i in range(1, 4)]
    console.write([*steps, Epoch(**at(), epoch=3, train=PhaseSummary(loss=0.2))])
    assert said(stream)[0].endswith("step 7 ms")


def test_an_accuracy_over_a_part_of_the_samples_says_so(console, stream):
    train = PhaseSummary(loss=0.5, accuracy=0.9583, samples=1440, accuracy_samples=96)
    console.write([Epoch(**at(), epoch=7, train=train)])
    assert said(stream) == ["trimtab  epoch 7  train loss 0.5 accuracy 95.83% of 96"]


def test_criterion_is_shown_where_the_objective_is_another(console, stream):
    validation = PhaseSummary(loss=0.48, criterion=0.48)
    for number, criterion in enumerate((0.59, 471.0001, None), 1):
        train = PhaseSummary(loss=471.0, criterion=criterion)
        console.write([Epoch(**at(60 * number), epoch=number, train=train, validation=validation)])
    assert [line.split("  ", 2)[2] for line in said(stream)] == [
        "train loss 471 criterion 0.59  validation loss 0.48",
        "train loss 471  validation loss 0.48",
        "train loss 471  validation loss 0.48",
    ]


def test_what_is_not_known_of_an_epoch_is_left_out(console, stream):
    console.write([Epoch(**at(), epoch=1, train=PhaseSummary(loss=0.5))])
    assert said(stream) == ["trimtab  epoch 1  train loss 0.5"]


def test_times_of_an_epoch_are_means_over_its_own_steps(console, stream):
    def epoch(number, seconds):
        return [sample_step(number, step_seconds=seconds, steps=3), Epoch(**at(), epoch=number)]

    console.write([*epoch(1, 0.5), sample_step(2, step_seconds=0.1), *epoch(2, 0.5)])
    assert [re.search(r"step (\S+ \S+)", line)[1] for line in said(stream)] == ["500 ms", "400 ms"]


def test_rates_and_norms_of_another_epoch_are_left_out(console, stream):
    console.write([sample_step(1), Epoch(**at(), epoch=1)])
    console.write([Epoch(**at(), epoch=2, train=PhaseSummary(loss=0.5))])
    console.write([sample_step(9, gradient_norm=None, epoch=3), Epoch(**at(), epoch=3)])
    assert [("lr" in line, "|g|" in line) for line in said(stream)] == [(True, True), (False, False), (True, False)]


def test_record_over_two_epochs_has_the_rates_of_the_later_and_the_norm_of_neither(console, stream):
    console.write([sample_step(10, epoch=2, steps=10), Epoch(**at(step=5), epoch=1), Epoch(**at(step=10), epoch=2)])
    console.write([sample_step(13, epoch=3, steps=3), sample_step(15, epoch=3, steps=2), Epoch(**at(step=15), epoch=3)])
    assert [("lr" in line, "|g|" in line) for line in said(stream)] == [(False, False), (True, False), (True, True)]


def test_norm_of_the_first_record_of_an_epoch_is_shown_where_another_optimizer_ended_the_one_before(console, stream):
    def records(number):
        return [sample_step(number + i, optimizer=name, steps=4, epoch=number // 8) for i, name in enumerate("GD")]

    console.write([*records(8), Epoch(**at(step=9), epoch=1), *records(16), Epoch(**at(step=17), epoch=2)])
    assert [line.count("|g| 1.5 / 1.5") for line in said(stream)] == [1, 1]


def test_each_optimizer_has_its_numbers(console, stream):
    console.write([sample_step(1, optimizer=name, loss=loss) for name, loss in (("G", 0.7), ("D", 1.4))])
    console.write([Epoch(**at(), epoch=1)])
    assert "|g| 1.5 / 1.5" in said(stream)[0]


def test_a_notice_and_a_metric_are_a_line_each(console, stream):
    console.write([Notice(**at(), kind="k", text="Look here."), Metric(**at(step=7), values={"bleu": 31.24567})])
    console.write([Metric(**at(step=8), values={"f1": 0.5, "auc": math.nan}, phase="validation")])
    assert said(stream) == [
        "trimtab  Look here.",
        "trimtab  step 7  bleu 31.25",
        "trimtab  step 8  validation  f1 0.5  auc NaN",
    ]


def test_what_a_server_says_is_told_apart_from_what_is_judged_here(console, stream):
    alert = {"rule": "loss_diverged", "episode": 1, "state": "firing", "severity": "critical"}
    console.write([Alert(**at(), **alert), Alert(**at(), **alert, source="grafana", outcome="too_old")])
    assert said(stream) == [
        "trimtab  step 1  CRITICAL loss_diverged",
        "trimtab  step 1  grafana loss_diverged  too old",
    ]


def test_alert_says_by_how_much_while_it_fires(console, stream):
    alert = {"rule": "loss_diverged", "episode": 1, "severity": "critical", "value": 0.61762, "threshold": 0.6}
    console.write([Alert(**at(), **alert, state="firing"), Alert(**at(step=9), **alert, state="resolved")])
    assert said(stream) == [
        "trimtab  step 1  CRITICAL loss_diverged  0.6176, threshold 0.6",
        "trimtab  step 9  resolved loss_diverged",
    ]


def test_adjustment_says_nothing_of_what_was_not_there_before(console, stream):
    adjustment = {"policy": "p", "action": "clip_gradients", "rule": "r", "outcome": "applied", "reason": "because"}
    console.write([Adjustment(**at(), **adjustment, before={"steps": None}, after={"max_norm": 1.0, "steps": 8})])
    assert said(stream) == ["trimtab  step 1  applied clip_gradients  max_norm 1  steps 8  for r  because"]


def test_adjustment_says_what_it_changed_and_why(console, stream):
    adjustment = {"policy": "p", "action": "halt", "rule": "r", "outcome": "applied", "reason": "because"}
    console.write([Adjustment(**at(), **adjustment, before={"halted": False}, after={"halted": True})])
    assert said(stream) == ["trimtab  step 1  applied halt  halted False -> True  for r  because"]


class Unspeakable:
    def __str__(self):
        raise RuntimeError("no words")


def test_a_value_without_words_costs_no_line(console, stream):
    adjustment = {"policy": "p", "action": "own", "outcome": "applied"}
    console.write([Adjustment(**at(), **adjustment, before={"state": Unspeakable()}, after={"state": None})])
    assert "state <Unspeakable> -> None" in said(stream)[0]


def test_steps_of_an_adjustment_have_all_their_digits(console, stream):
    adjustment = {"policy": "p", "action": "roll_back", "outcome": "applied"}
    console.write(
        [Adjustment(**at(), **adjustment, before={"weights_of_step": 11625}, after={"weights_of_step": 10209})]
    )
    assert said(stream) == ["trimtab  step 1  applied roll_back  weights_of_step 11625 -> 10209"]


def test_rates_of_an_adjustment_have_four_digits_too(console, stream):
    adjustment = {"policy": "p", "action": "scale_learning_rate", "outcome": "applied"}
    rates = {"before": {"learning_rate": [1.0, None]}, "after": {"learning_rate": [0.1 + 0.2, None]}}
    console.write([Adjustment(**at(), **adjustment, **rates)])
    assert said(stream) == ["trimtab  step 1  applied scale_learning_rate  learning_rate [1, None] -> [0.3, None]"]


def test_adjustment_names_its_rule_once(console, stream):
    adjustment = {
        "policy": "p",
        "action": "halt",
        "rule": "r",
        "outcome": "applied",
        "reason": "r at twice its threshold",
    }
    console.write([Adjustment(**at(), **adjustment, before={}, after={})])
    assert said(stream) == ["trimtab  step 1  applied halt  r at twice its threshold"]


def test_group_without_a_rate_is_left_out_of_the_rates(console, stream):
    console.write([sample_step(1, learning_rate=(None, 0.25)), Epoch(**at(), epoch=1)])
    assert "lr 0.25 " in said(stream)[0]


def test_the_end_says_how_it_went_and_where_the_log_is(console, stream):
    start = RunStart(**at(), facts={}, addresses={"jsonl": "runs/sample/rank-0.jsonl"})
    health = Health(
        **at(), overhead_seconds=1, overhead_ratio=0.00431, gradient_interval_steps=4, dropped={"jsonl": {"error": 12}}
    )
    console.write([start, health, RunEnd(**at(step=1234), status="failed", seconds=63.21, error="ValueError: x")])
    assert said(stream)[1:] == [
        "trimtab  failed after 1234 steps in 63.21 s  ValueError: x  overhead 1 s, 0.431%  lost jsonl 12 error"
        "  log runs/sample/rank-0.jsonl"
    ]


def test_the_end_has_the_beginning_of_a_long_error(console, stream):
    """As of `load_state_dict`, which names every key: Python has said all of it, and the log holds it."""
    keys = ", ".join(f"layer.{number}.weight" for number in range(3000))
    console.write([RunEnd(**at(), status="failed", seconds=1.0, error=f"RuntimeError: Missing key(s): {keys}")])
    assert "RuntimeError: Missing key(s): layer.0.weight" in said(stream)[0]
    assert len(said(stream)[0]) < 400


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "NaN"), (math.inf, "+Inf"), (-math.inf, "-Inf")])
def test_what_is_not_finite_is_said(console, stream, value, shown):
    console.write([sample_step(1, gradient_norm=value), Epoch(**at(), epoch=1, train=PhaseSummary(loss=value))])
    assert f"train loss {shown}  lr 0.001  |g| {shown}" in said(stream)[0]


def test_a_minute_without_an_epoch_is_broken_by_a_step_line(console, stream):
    console.write([RunStart(**at(), facts={})])
    for second in range(1, 130):
        console.write([sample_step(second, ts=SAMPLE_TIME + second, loss=0.5)])
    lines = said(stream)[1:]
    assert [line.split("  ")[1:3] for line in lines] == [["step 60", "loss 0.5"], ["step 120", "loss 0.5"]]


def test_a_run_with_epochs_has_no_step_lines(console, stream):
    console.write([RunStart(**at(), facts={})])
    for second in range(1, 130):
        console.write([sample_step(second, ts=SAMPLE_TIME + second)])
        if second % 50 == 0:
            console.write([Epoch(**at(second), epoch=second // 50)])
    assert [line.split("  ")[1] for line in said(stream)] == ["run sample", "epoch 1", "epoch 2"]


def test_the_last_loss_is_said_at_the_end_where_no_epoch_has_said_one(console, stream):
    console.write([sample_step(3, loss=0.5), RunEnd(**at(1), status="completed", seconds=1)])
    assert [line[:24] for line in said(stream)] == ["trimtab  step 3  loss 0.", "trimtab  completed after"]


def test_no_loss_is_said_at_the_end_of_a_run_with_epochs(console, stream):
    console.write([sample_step(3), Epoch(**at(), epoch=1), RunEnd(**at(1), status="completed", seconds=1)])
    assert [line.split()[1] for line in said(stream)] == ["epoch", "completed"]


def test_values_logged_at_every_step_do_not_flood_the_screen(console, stream):
    for step in range(1, 26):
        console.write([Metric(**at(step, step=step), values={"x": step})])
        console.write([Metric(**at(step, step=step), values={"y": step})])
    console.write([RunEnd(**at(26), status="completed", seconds=26)])
    assert [line for line in said(stream) if " x " in line] == [
        "trimtab  step 1  x 1",
        "trimtab  step 11  x 11  (and 9 before it)",
        "trimtab  step 21  x 21  (and 9 before it)",
        "trimtab  step 25  x 25  (and 3 before it)",
    ]


def test_clock_that_was_set_back_silences_nothing(console, stream):
    for ts in (SAMPLE_TIME, SAMPLE_TIME - 3600.0):
        step = sample_step(5, ts=ts, epoch=None, batch=None)
        console.write([Metric(ts=ts, step=4, values={"x": 1.0}), step])
    assert [line.split()[2] for line in said(stream)] == ["4", "5", "4", "5"]


def test_metrics_of_ever_new_names_share_a_line(console, stream):
    for step in range(1, 1001):
        console.write([Metric(**at(step / 100, step=step), values={f"x{step}": 1.0})])
    lines = said(stream)
    assert len(lines) == NAMES_APART + 1
    console.write([Metric(**at(100, step=1001), values={"y": 1.0})])
    assert said(stream)[-1] == "trimtab  step 1001  y 1  (and 899 before it)"


def test_a_flood_of_epochs_is_one_line_that_counts_them(console, stream):
    console.write([Epoch(**at(), epoch=number) for number in range(1, 11)])
    console.write([Epoch(**at(), epoch=number) for number in range(11, 1011)])
    lines = said(stream)
    assert len(lines) == 11
    assert lines[-1] == "trimtab  epoch 1010  (and 999 epochs before it)"


class Bare:
    """What programs put in the place of `sys.stderr`, to have it in a file as well."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


class BareScreen(Bare):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [Bare, BareScreen])
def test_stream_that_only_writes_gets_plain_lines(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("TERM", "xterm")
    stream = kind()
    backend = ConsoleBackend(stream=stream)
    backend.start(sample_run(tmp_path))
    backend.write([Notice(**at(), kind="k", text="hello")])
    backend.close()
    assert stream.text == "trimtab  hello\n"


def test_only_the_first_rank_speaks(tmp_path, stream):
    backend = ConsoleBackend(stream=stream)
    backend.start(sample_run(tmp_path, rank=1, world_size=2))
    backend.write(sample_events())
    backend.close()
    assert said(stream) == []


def test_lines_that_are_no_terminals_have_no_escapes_whatever_text_comes(console, stream, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console.write([*sample_events(), Notice(**at(), kind="k", text="a\x1b[31mb\r\nc\td\x07")])
    assert all(line.isprintable() for line in said(stream))
    assert said(stream)[-1] == "trimtab  ab  c d "


def test_a_stream_that_speaks_no_unicode_is_no_error(tmp_path):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    backend = ConsoleBackend(stream=stream)
    backend.start(sample_run(tmp_path))
    backend.write([Notice(**at(), kind="k", text="caf\u00e9 \udce9")])
    assert said(stream) == ["trimtab  caf? ?"] or said(stream) == ["trimtab  caf?  "]


def test_an_unknown_kind_says_nothing(console, stream):
    console.write([UnknownEvent(**at())])
    assert said(stream) == []


def test_a_process_without_stderr_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(BackendError, match="no stderr"):
        ConsoleBackend().start(sample_run(tmp_path))


def test_plain_lines_do_not_import_rich(tmp_path):
    program = (
        "import sys; from pathlib import Path; from trimtab.testing import *;"
        "from trimtab_backends.console import ConsoleBackend;"
        "b = ConsoleBackend(); b.start(sample_run(Path('x'))); b.write(sample_events()); print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert "trimtab  run sample" in done.stderr
