import json
import math
import os
from pathlib import Path

import pytest

from trimtab import logs
from trimtab.errors import ConfigError
from trimtab.testing import UnknownEvent, sample_events, sample_step
from trimtab.types import Epoch, RunEnd, RunStart


def test_log_is_read_as_the_backend_wrote_it(write):
    log = logs.read(write(*sample_events()))
    assert (log.run, log.start.facts["torch"], log.end.status) == ("sample", "2.13.0", "completed")
    assert [(step.step, step.phase, step.steps) for step in log.steps] == [
        (1, "train", 1),
        (5, "train", 4),
        (5, "validation", 1),
    ]
    assert (log.steps[1].loss_min, log.steps[1].loss_max, log.steps[1].learning_rate) == (0.4, 1.0, [0.001])
    assert [epoch.epoch for epoch in log.epochs] == [1]


def test_nan_and_inf_come_back_as_nan(write):
    (step,) = logs.read(write(sample_step(loss=math.inf, gradient_norm=math.nan, learning_rate=[0.1, math.nan]))).steps
    assert math.isnan(step.loss)
    assert math.isnan(step.gradient_norm)
    assert step.learning_rate[0] == 0.1
    assert math.isnan(step.learning_rate[1])


def test_nonfinite_value_that_is_not_there_spoils_no_record(write):
    path = write(sample_step(1, learning_rate=[0.1, math.nan]))
    path.write_text(path.read_text().replace("learning_rate.1", "learning_rate.7"))
    assert logs.read(path).steps[0].learning_rate == [0.1, None]


@pytest.mark.parametrize("name", ["levels", "learning_rate", "epoch", "phase", "nonfinite", "never_heard_of"])
def test_what_holds_no_number_is_not_made_one_by_a_log_that_says_it_was_not_finite(write, name):
    path = write(sample_step(1, loss=math.nan))
    record = {key: value for key, value in json.loads(path.read_text()).items() if key != name}
    path.write_text(json.dumps({**record, "nonfinite": ["loss", name]}) + "\n")
    (step,) = logs.records(path)
    assert math.isnan(step.loss)
    assert getattr(step, name, None) in (None, "train", ("loss", "nonfinite"))


def test_alert_of_a_severity_that_there_is_not_is_ignored(write):
    path = write(*sample_events())
    assert len(logs.read(path).alerts) == 1
    path.write_text(path.read_text().replace('"severity":"warning"', '"severity":"odd"'))
    assert logs.read(path).alerts == []


def test_what_was_not_known_stays_none(write):
    (step,) = logs.read(write(sample_step(accuracy=None))).steps
    assert step.accuracy is None


def test_unknown_events_and_keys_are_ignored(write):
    path = write(UnknownEvent(ts=0.0, step=1), sample_step(2))
    path.write_text(path.read_text().replace('"step":2,', '"step":2,"from_the_future":{"a":[1]},'))
    assert [step.step for step in logs.read(path).steps] == [2]


@pytest.mark.parametrize("torn", [b'{"ts":"2026-01-01T0', b'{"ts":"2026-01-01T0\n', b"\xff\xfe\n", b"\n", b"[]\n"])
def test_line_that_is_not_whole_is_ignored_wherever_it_is(write, torn):
    path = write(sample_step(1), sample_step(2))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + torn.rstrip(b"\n") + b"\n" + second + torn)
    assert [step.step for step in logs.read(path).steps] == [1, 2]


def test_last_run_of_a_file_is_read(write):
    path = write(
        RunStart(ts=0.0, step=0, facts={}), sample_step(7), RunEnd(ts=1.0, step=7, status="failed", seconds=1.0)
    )
    path.write_text(path.read_text().replace("0a1b", "ffff"))
    write(RunStart(ts=0.0, step=7, facts={}), sample_step(8))
    log = logs.read(path)
    assert log.run_id.endswith("0a1b")
    assert [step.step for step in log.steps] == [8]
    assert log.end is None


@pytest.mark.parametrize("content", [b"", b"\n", b"not a log\n", b'{"event":"step"}\n'])
def test_file_without_records_is_an_error(tmp_path, content):
    path = tmp_path / "some.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="no record of a run is in it"):
        logs.read(path)


def test_log_is_located_by_file_directory_and_name(write):
    path = write(sample_step(1))
    runs = path.parent.parent
    for given in (path, str(path.parent), "sample"):
        assert logs.locate(given, runs) == path


def test_name_that_no_system_takes_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="File name too long"):
        logs.locate("x" * 5000, tmp_path)


def test_record_whose_step_no_array_holds_is_ignored(write):
    path = write(*sample_events())
    lines = path.read_text().splitlines()
    steps = [line for line in lines if '"event":"step"' in line]
    assert steps
    record = json.loads(steps[0])
    path.write_text("\n".join([*lines, json.dumps({**record, "step": 10**30})]) + "\n")
    assert len(logs.read(path).steps) == len(steps)


def test_lowest_rank_stands_for_the_run(write):
    for rank in (10, 2):
        path = write(sample_step(1), rank=rank)
    assert logs.locate("sample", path.parent.parent).name == "rank-2.jsonl"


def test_run_that_is_not_there_names_the_nearest(write):
    runs = write(sample_step(1), run="resnet").parent.parent
    with pytest.raises(ConfigError, match=r"resnte: neither a log nor the directory of a run. Did you mean 'resnet'\?"):
        logs.locate("resnte", runs)


def test_run_that_is_not_there_names_the_latest(write):
    older, newer = write(sample_step(1), run="a"), write(sample_step(1), run="b")
    os.utime(older, (1, 1))
    with pytest.raises(ConfigError, match=r"The latest run in .* is 'b'\."):
        logs.locate("something else", newer.parent.parent)


def test_directory_of_runs_is_told_from_a_run(write):
    runs = write(sample_step(1), run="a").parent.parent
    said = r"runs is no run, but holds some\. Give one of them, such as .*runs/a, or all: .*runs/\*"
    for given, place in ((runs, Path("elsewhere")), (runs.name, runs.parent)):
        with pytest.raises(ConfigError, match=said):
            logs.locate(given, place)


def test_directory_without_runs_says_what_to_give(tmp_path):
    with pytest.raises(ConfigError, match="holds no runs; give a file, a directory, or --dir and a name"):
        logs.locate("mine", tmp_path)


def test_runs_that_wrote_nothing_are_passed_over_beside_others(write):
    """The shell makes them part of `runs/*`."""
    run = write(sample_step(1)).parent
    killed = run.parent / "killed"
    killed.mkdir()
    (killed / "rank-0.jsonl").touch()
    assert logs.without_targets([str(run), str(killed)]) == [str(run)]
    assert logs.without_targets([str(killed)]) == [str(killed)]  # which is told to be empty


def test_hint_passes_over_a_link_to_nothing(tmp_path):
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "rank-0.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"The latest run in .* is 'gone'\."):
        logs.locate("x", tmp_path)
    assert logs.without_targets([str(tmp_path / "gone"), "other"]) == ["other"]


def began(step=0, *, resumes):
    return RunStart(ts=0.0, step=step, facts={"config": {"resume": resumes}})


def ended(step, seconds):
    return RunEnd(ts=0.0, step=step, status="completed", seconds=seconds)


def test_run_and_those_that_resumed_it_are_one(write):
    write(began(resumes=True), sample_step(40), ended(40, 2.0), run_id="1")  # when there was nothing to resume yet
    write(began(40, resumes=True), run_id="2")  # ends before its first step
    path = write(began(40, resumes=True), sample_step(50), run_id="3")
    log = logs.read(path)
    assert ([step.step for step in log.steps], log.run_id, log.start.step, log.end) == ([40, 50], "1", 0, None)
    write(ended(50, 3.0), run_id="3")
    assert (logs.read(path).end.step, logs.read(path).seconds) == (50, 5.0)


def test_last_step_is_that_of_the_last_run_and_of_what_it_resumed(write):
    path = write(began(resumes=False), sample_step(70), run_id="0")
    assert logs.last_step(path) == 70
    write(began(resumes=False), sample_step(40), run_id="1")
    assert logs.last_step(path) == 40
    write(began(40, resumes=True), Epoch(ts=0.0, step=45, epoch=1), run_id="2")
    write(began(45, resumes=True), run_id="3")  # ends before its first step
    assert logs.last_step(path) == 45


def test_log_without_a_run_has_no_last_step(tmp_path):
    path = tmp_path / "rank-0.jsonl"
    path.write_bytes(b"no record\n")
    assert logs.last_step(path) is None
