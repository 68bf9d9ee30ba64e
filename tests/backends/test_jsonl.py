import dataclasses
import json
import math
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import pytest

from trimtab import testing
from trimtab.bus import Bus
from trimtab.errors import BackendError
from trimtab.guard import Guard
from trimtab.testing import (
    SAMPLE_TIME,
    BackendContract,
    UnknownEvent,
    faulty_event,
    sample_events,
    sample_run,
    sample_step,
)
from trimtab.types import Epoch, Metric, PhaseSummary, RunStart
from trimtab_backends.jsonl import JsonlBackend

HEAD = ["ts", "event", "run", "run_id", "rank", "step"]


class TestJsonlContract(BackendContract):
    def make_backend(self, tmp_path):
        return JsonlBackend()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "sample" / "rank-0.jsonl"


@pytest.fixture
def log(tmp_path):
    backend = JsonlBackend()
    backend.start(sample_run(tmp_path))
    yield backend
    backend.close()


def records(file):
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_a_line_starts_with_what_every_line_has(log, file):
    log.write(sample_events())
    lines = records(file)
    assert [line["event"] for line in lines] == [event.name for event in sample_events()]
    assert all(list(line)[:6] == HEAD for line in lines)
    assert [lines[1][key] for key in HEAD] == [
        "2026-01-01T00:00:00.350000Z", "step", "sample", "sample-20260101T000000Z-0a1b", 0, 1,
    ]  # fmt: skip


def test_a_line_carries_the_fields_of_its_event_and_no_more(log, file):
    step = sample_step(3, optimizer="generator", accuracy=None)
    log.write([step])
    (line,) = records(file)
    fields = dict(step.fields())
    assert {key: line[key] for key in line if key not in HEAD} == fields | {"learning_rate": [0.001]}
    assert not line.keys() & {"accuracy", "totals", "step_durations", "batch", "weight_decay"}


def test_time_is_utc_to_the_microsecond(log, file):
    log.write([sample_step(ts=0.0), sample_step(ts=1_700_000_000.123456)])
    assert [line["ts"] for line in records(file)] == ["1970-01-01T00:00:00.000000Z", "2023-11-14T22:13:20.123456Z"]


def test_nan_and_infinity_become_null_and_are_named(log, file):
    log.write([sample_step(loss=math.nan, learning_rate=(0.1, math.inf)), sample_step(2)])
    bad, good = records(file)
    assert (bad["loss"], bad["learning_rate"]) == (None, [0.1, None])
    assert bad["nonfinite"] == ["loss", "learning_rate.1"]
    assert "nonfinite" not in good


def test_what_is_not_known_is_left_out_on_every_level(log, file):
    log.write([Epoch(ts=SAMPLE_TIME, step=1, epoch=1, train=PhaseSummary(loss=math.nan))])
    (line,) = records(file)
    assert line["train"] == {"loss": None}
    assert line["nonfinite"] == ["train.loss"]
    assert "validation" not in line


def test_a_learning_rate_that_the_optimizer_keeps_to_itself_stays_null(log, file):
    log.write([sample_step(learning_rate=(0.1, None))])
    (line,) = records(file)
    assert line["learning_rate"] == [0.1, None]
    assert "nonfinite" not in line


def test_values_of_foreign_types_are_written(log, file):
    numpy = pytest.importorskip("numpy", reason="needs numpy: pip install numpy")
    facts = {"path": Path("a"), "odd": "caf\udce9 \u2028 \x00", "view": MappingProxyType({"a": 1}), "none": None}
    log.write([RunStart(ts=SAMPLE_TIME, step=0, facts=facts)])
    log.write([Metric(ts=SAMPLE_TIME, step=0, values={"a": numpy.float64(1.5), "b": numpy.float64("nan")})])
    start, metric = records(file)
    assert start["facts"] == {"path": "a", "odd": "caf? \u2028 \x00", "view": {"a": 1}}
    assert metric["values"] == {"a": 1.5, "b": None}
    assert metric["nonfinite"] == ["values.b"]


@pytest.mark.parametrize("number", [type("Count", (int,), {})(3), type("Rate", (float,), {})(0.5)])
def test_a_number_of_a_class_of_the_users_own_is_a_number(log, file, number):
    log.write([RunStart(ts=SAMPLE_TIME, step=0, facts={"number": number})])
    assert records(file)[0]["facts"] == {"number": number}


class Unspeakable:
    def __str__(self):
        raise RuntimeError("no words")


def test_a_value_without_words_costs_no_line(log, file):
    facts = {"value": Unspeakable(), "path": Path("a"), "by_key": {Unspeakable(): None, "a": 1}}
    log.write([sample_step(1), RunStart(ts=SAMPLE_TIME, step=1, facts=facts), sample_step(2)])
    assert records(file)[1]["facts"] == {"value": "<Unspeakable>", "path": "a", "by_key": {"a": 1}}
    assert [record["event"] for record in records(file)] == ["step", "run_start", "step"]


def test_an_event_of_an_unknown_kind_is_recorded_too(log, file):
    log.write([UnknownEvent(ts=SAMPLE_TIME, step=1)])
    assert records(file)[0]["surprise"] == 1.0


def test_what_was_written_before_is_kept(tmp_path, file):
    for step in (1, 2):
        backend = JsonlBackend()
        backend.start(sample_run(tmp_path))
        backend.write([sample_step(step)])
        backend.close()
    assert [line["step"] for line in records(file)] == [1, 2]


def test_a_torn_last_line_does_not_spoil_the_next(tmp_path, file):
    file.parent.mkdir()
    file.write_text('{"ts": "20')
    backend = JsonlBackend()
    backend.start(sample_run(tmp_path))
    backend.write([sample_step(7)])
    backend.write([sample_step(8)])
    backend.close()
    torn, *whole = file.read_text().splitlines()
    assert torn == '{"ts": "20'
    assert [json.loads(line)["step"] for line in whole] == [7, 8]


def test_each_rank_has_its_own_file(tmp_path):
    backend = JsonlBackend()
    backend.start(sample_run(tmp_path, rank=3, world_size=4))
    backend.write([sample_step()])
    backend.close()
    assert backend.address == str(tmp_path / "sample" / "rank-3.jsonl")
    assert records(tmp_path / "sample" / "rank-3.jsonl")[0]["rank"] == 3


def test_what_was_handed_over_survives_kill_9(tmp_path, file):
    program = """
import sys
from pathlib import Path
from trimtab.testing import sample_run, sample_step
from trimtab_backends.jsonl import JsonlBackend
backend = JsonlBackend()
backend.start(sample_run(Path(sys.argv[1])))
for batch in range(1_000_000):
    backend.write([sample_step(batch * 10 + i) for i in range(1, 11)])
    print(batch, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        handed_over = [int(child.stdout.readline()) for _ in range(20)][-1]
        os.kill(child.pid, signal.SIGKILL)
    *whole, _ = file.read_bytes().split(b"\n")  # the kernel may break off in the middle of a write
    steps = [json.loads(line)["step"] for line in whole]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= (handed_over + 1) * 10


def test_a_full_disk_costs_records_which_are_counted_and_told(tmp_path, file, guarded):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which Linux has")
    file.parent.mkdir()
    file.symlink_to("/dev/full")
    told = []
    backend = JsonlBackend()
    backend.start(sample_run(tmp_path))
    lanes = Bus({"jsonl": backend}, Guard(lambda place, text: told.append(text)))
    for step in range(5):
        lanes.publish(sample_step(step + 1))
    lanes.close(5.0)
    assert lanes.dropped() == {"jsonl": {"error": 5}}
    assert len(told) == 1
    assert "No space left on device" in told[0]


def test_a_batch_that_fits_in_part_is_taken_back_whole(log, file):
    log.write([sample_step(1)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            log.write([sample_step(2), sample_step(3)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.write([sample_step(4)])
    assert [line["step"] for line in records(file)] == [1, 4]


def test_a_value_without_an_end_is_cut_and_costs_nothing_else(log, file):
    endless = {"lr": 0.1}
    endless["self"] = endless
    change = {"endless": endless, "list": [endless], "nan": math.nan}
    adjustment = next(event for event in sample_events() if event.name == "adjustment")
    log.write([sample_step(1), dataclasses.replace(adjustment, after=change), sample_step(2)])
    before, line, after = records(file)
    assert (before["step"], after["step"]) == (1, 2)
    assert line["after"]["endless"]["self"]["self"]["lr"] == line["after"]["list"][0]["lr"] == 0.1
    assert line["nonfinite"] == ["after.nan"]
    assert (before["event"], line["event"]) == ("step", "adjustment")


def test_key_that_json_does_not_have_is_written_as_text(log, file):
    adjustment = next(event for event in sample_events() if event.name == "adjustment")
    log.write([dataclasses.replace(adjustment, after={"rates": {("a", "lr"): 0.1}, "nan": math.nan, 3: 4})])
    (line,) = records(file)
    assert line["after"] == {"rates": {"('a', 'lr')": 0.1}, "nan": None, "3": 4}


def test_a_faulty_event_leaves_the_file_as_it_was(log, file):
    log.write([sample_step(1)])
    with pytest.raises(ValueError, match="faulty on purpose"):
        log.write([sample_step(2), faulty_event()])
    log.write([sample_step(3)])
    assert [line["step"] for line in records(file)] == [1, 3]


def test_a_directory_that_cannot_be_made_is_one_clear_sentence(tmp_path):
    (tmp_path / "runs").write_text("a file, not a directory")
    with pytest.raises(BackendError, match=r"directory='.*runs': the log .*rank-0.jsonl cannot be written \(Not a dir"):
        JsonlBackend().start(sample_run(tmp_path / "runs"))


def test_the_users_own_structlog_is_neither_used_nor_changed(log, file):
    structlog = pytest.importorskip("structlog", reason="needs structlog: pip install structlog")
    structlog.configure(processors=[lambda *_: 1 / 0])
    try:
        log.write([sample_step()])
        assert structlog.get_config()["processors"]
    finally:
        structlog.reset_defaults()
    assert len(records(file)) == 1


def test_the_samples_of_the_tests_cover_every_kind_of_event():
    kinds = {kind.name for kind in testing.Event.__subclasses__() if kind.__module__ == "trimtab.types"}
    assert {event.name for event in sample_events()} == kinds


@pytest.mark.parametrize("way", [lambda file: file.rename(file.with_name("old")), Path.unlink])
def test_log_that_is_moved_or_removed_is_begun_anew(log, file, way):
    log.write([sample_step(1)])
    way(file)
    log.write([sample_step(2)])
    log.write([sample_step(3)])
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [2, 3]


def test_log_whose_directory_is_gone_is_not_lost_without_a_word(log, file):
    log.write([sample_step(1)])
    file.unlink()
    file.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        log.write([sample_step(2)])
