"""Of several processes that start one run at the same time, one writes it."""

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys

import pytest

import trimtab
from trimtab import directory, facts, processes
from trimtab.errors import ConfigError
from trimtab.testing import sample_run

PROCESSES, ROUNDS = 4, 10
fork = multiprocessing.get_context("fork")


def own(place, name):
    return dataclasses.replace(sample_run(place, run=name), run_id=str(os.getpid()), facts=facts.collect())


def start(place, barrier, made):
    for number in range(ROUNDS):
        info = own(place, f"run-{number}")
        barrier.wait(timeout=60)
        try:
            directory.make(info)
            made.put(number)
        except ConfigError:
            pass
    barrier.wait(timeout=60)  # nobody ends before all have asked who lives


def test_one_of_those_that_start_at_once_gets_the_directory(tmp_path):
    barrier, made = fork.Barrier(PROCESSES), fork.Queue()
    processes = [fork.Process(target=start, args=(tmp_path, barrier, made)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    numbers = sorted(made.get(timeout=60) for _ in range(ROUNDS))
    for process in processes:
        process.join(timeout=60)
    assert numbers == list(range(ROUNDS))
    assert made.empty()


@pytest.mark.skipif(sys.platform != "linux", reason="the name of a process can be set so on Linux alone")
def test_process_whose_name_is_cut_amid_a_letter_is_told_from_others():
    """As that of a script with a long name in Cyrillic, which is run by its first line."""
    name = "обучение-модели".encode()[:15]
    cut = "import ctypes, sys; ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1])); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", cut, name.hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        began = processes.started(process.pid)
        assert (bool(began), processes.lives(process.pid, began)) == (True, True)
        process.stdin.close()


@pytest.fixture
def failing(monkeypatch):
    """No backend can be started."""

    def start(*args):
        raise RuntimeError("no backend")

    monkeypatch.setattr("trimtab.plugins.start", start)


def test_relative_directory_is_refused_where_the_working_directory_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="directory='runs': the working directory is gone"):
        trimtab.watch(run="new", backends=["jsonl"]).__enter__()
    with trimtab.watch(run="new", backends=["jsonl"], directory=tmp_path) as run:
        assert run.directory == tmp_path / "new"


def test_run_that_cannot_start_leaves_no_directory(tmp_path, failing):
    with pytest.raises(RuntimeError, match="no backend"), trimtab.watch(run="new", directory=tmp_path):
        pass
    assert not (tmp_path / "new").exists()


def test_run_that_cannot_start_leaves_the_run_json_of_the_one_before(tmp_path, failing):
    (tmp_path / "old").mkdir()
    before = json.dumps({"status": "completed", "run_id": "1"})
    (tmp_path / "old" / "run.json").write_text(before)
    with pytest.raises(RuntimeError, match="no backend"), trimtab.watch(run="old", directory=tmp_path):
        pass
    assert [each.name for each in (tmp_path / "old").iterdir()] == ["run.json"]
    assert (tmp_path / "old" / "run.json").read_text() == before
