"""A run leaves a file for Prometheus, and what becomes of the files of those that died."""

import dataclasses
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import trimtab
from trimtab import discovery, processes
from trimtab.errors import BackendError
from trimtab.testing import sample_run
from trimtab_backends.prometheus import PrometheusBackend

HOST = platform.node()


@pytest.fixture
def target(tmp_path):
    """A target of this process on this machine; `target(host=...)` is one that differs."""
    made = discovery.Target.of(sample_run(tmp_path), "http://127.0.0.1:9464/metrics")
    return lambda **changes: dataclasses.replace(made, **{"host": HOST, **changes})


@pytest.fixture
def dead_process():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_run_has_a_file_while_it_serves(tmp_path):
    with trimtab.watch(run="found", directory=tmp_path, backends=["prometheus"], port=0) as run:
        (path,) = (tmp_path / "targets").iterdir()
        assert path.name == f"{run.id}-0.json"
        (group,) = json.loads(path.read_text())
        assert group["targets"] == [run.addresses["prometheus"].split("/")[2]]
    assert list((tmp_path / "targets").iterdir()) == []


def test_discovery_sets_no_label_that_a_series_keeps(tmp_path, target):
    path = discovery.TargetFile(tmp_path, target()).path
    (group,) = json.loads(path.read_text())
    assert set(group) == {"targets", "labels"}, "Prometheus refuses other keys"
    assert all(name.startswith("__") and isinstance(value, str) for name, value in group["labels"].items())


def test_ranks_and_runs_have_files_of_their_own(tmp_path, target):
    for run_id in ("a", "b"):
        for rank in (0, 1):
            discovery.TargetFile(tmp_path, target(run_id=run_id, rank=rank))
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["a-0.json", "a-1.json", "b-0.json", "b-1.json"]


def test_file_is_touched_once_a_minute_while_its_process_lives(tmp_path, target):
    file = discovery.TargetFile(tmp_path, target())

    def age():
        (found,) = discovery.read(tmp_path)
        return round(found.age_s, -2)

    os.utime(file.path, (0, time.time() - 1000))
    file.touch()
    assert age() == 1000
    file._touched_at -= discovery.TOUCH_INTERVAL_S + 1
    file.touch()
    assert age() == 0
    os.utime(file.path, (0, time.time() - 1000))
    file.touch()
    assert age() == 1000


def test_file_goes_where_the_setting_says_and_is_read_back(tmp_path):
    backend = PrometheusBackend()
    run = sample_run(tmp_path, targets=tmp_path / "elsewhere", rank=3)
    backend.start(run)
    (found,) = discovery.read(tmp_path / "elsewhere")
    assert (found.target.url, found.target.run, found.target.rank) == (backend.address, "sample", 3)
    backend.close()
    assert list(discovery.read(tmp_path / "elsewhere")) == []


def test_backend_that_cannot_write_its_file_says_so_and_serves_not(tmp_path):
    (tmp_path / "taken").write_text("")
    backend = PrometheusBackend()
    with pytest.raises(BackendError, match="TRIMTAB_TARGETS_DIR"):
        backend.start(sample_run(tmp_path, targets=tmp_path / "taken"))
    assert "trimtab-http" not in {thread.name for thread in threading.enumerate()}


def test_process_that_runs_is_alive(target):
    assert target().state(HOST, 0.0) == "alive"
    assert target().state(HOST, 1e9) == "alive", "nobody scraped it, but it runs"


def test_process_that_ended_is_dead(target, dead_process):
    assert target(pid=dead_process).state(HOST, 0.0) == "dead"


def test_process_that_was_given_the_number_of_another_is_dead(target):
    assert target(process_start="boot/1").state(HOST, 0.0) == "dead"


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="needs namespaces: run on Linux")
def test_process_of_another_namespace_is_not_taken_for_one_of_this(target):
    """Of a container that has the machine's name."""
    boot, ticks, namespace = processes.started(os.getpid()).split("/")
    assert target(process_start=f"{boot}/1/{namespace}").state(HOST, 0.0) == "dead"
    elsewhere = target(process_start=f"{boot}/{ticks}/1")
    assert elsewhere.state(HOST, 0.0) == "elsewhere"
    assert elsewhere.state(HOST, discovery.SILENT_AFTER_S + 1.0) == "silent"
    assert target(process_start=f"another boot/{ticks}/1").state(HOST, 0.0) == "dead"


def test_process_of_another_machine_is_judged_by_age_alone(target, dead_process):
    there = target(host="node-7", pid=dead_process)
    assert there.state(HOST, discovery.SILENT_AFTER_S - 1) == "elsewhere"
    assert there.state(HOST, discovery.SILENT_AFTER_S + 1) == "silent"


def test_file_that_is_none_of_ours_is_told_apart(tmp_path):
    for name, text in {"a": "{", "b": "[]", "c": '[{"targets": ["x:1"], "labels": {}}]', "d": "3"}.items():
        (tmp_path / f"{name}.json").write_text(text)
    (tmp_path / ".half-written.json.tmp").write_text("[")
    assert [found.target for found in discovery.read(tmp_path)] == [None] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "\x1b[2J"},
        {"run": "a\nb"},
        {"pid": "-1"},
        {"pid": "0"},
        {"pid": "9" * 30},
        {"rank": "many"},
        {"scheme": "file"},
        {"host": None},
        {"run": "x" * 301},
    ],
    ids=str,
)
def test_file_that_somebody_forged_is_none_of_ours(tmp_path, target, changes):
    file = discovery.TargetFile(tmp_path, target())
    (group,) = json.loads(file.path.read_text())
    group["labels"].update({f"__meta_trimtab_{name}": value for name, value in changes.items()})
    file.path.write_text(json.dumps([group]))
    assert [found.target for found in discovery.read(tmp_path)] == [None]


def test_whatever_lies_among_the_files_is_neither_waited_for_nor_followed(tmp_path, target):
    shared = tmp_path / "shared"
    good = discovery.TargetFile(tmp_path / "elsewhere", target())
    shared.mkdir()
    os.mkfifo(shared / "pipe.json")
    (shared / "link.json").symlink_to(good.path)
    (shared / "folder.json").mkdir()
    (shared / "deep.json").write_text("[" * 8_000 + "]" * 8_000)
    (shared / "huge.json").write_text(" " * 20_000 + good.path.read_text())
    (shared / "binary.json").write_bytes(bytes(range(256)))
    assert [found.target for found in discovery.read(shared)] == [None] * 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forked_child_leaves_the_file_of_its_parent(tmp_path, target):
    file = discovery.TargetFile(tmp_path, target())
    child = os.fork()
    if child == 0:
        file.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert file.path.exists()


def test_file_is_not_written_through_a_link_that_somebody_else_put_in_the_way(tmp_path, target):
    elsewhere, there = tmp_path / "elsewhere", tmp_path / "targets"
    elsewhere.write_text("precious")
    there.mkdir()
    made = target()
    (there / f".{made.run_id}-{made.rank}.json.tmp").symlink_to(elsewhere)
    assert json.loads(discovery.TargetFile(there, made).path.read_text())
    assert elsewhere.read_text() == "precious"
