"""What lies in a run's directory may be cut short, or written by somebody else: nothing of it breaks a run."""

import json
import os
import platform

import pytest

import trimtab
from trimtab import directory, logs, processes
from trimtab.errors import ConfigError
from trimtab.steering import control
from trimtab.testing import RecordingBackend
from trimtab.types import Notice

HOST = platform.node()
DEEP = "[" * 100_000
GARBLED = {
    "nothing": "",
    "cut short": '{"status": "running", "run_',
    "no JSON": "\x00\xff",
    "a list": "[]",
    "deep": DEEP,
    "no facts": '{"status": "running", "run_id": "1"}',
    "no pid": json.dumps({"status": "running", "run_id": "1", "facts": {"host": HOST}}),
    **{
        f"pid {pid}": json.dumps({"status": "running", "run_id": "1", "facts": {"host": HOST, "pid": pid}})
        for pid in (10**400, 2**63, 2**31, 0, -1, True, 1.5, "1", None, [1])
    },
    "host is a list": json.dumps({"status": "running", "run_id": "1", "facts": {"host": [HOST], "pid": os.getppid()}}),
}


@pytest.fixture
def place(tmp_path):
    place = tmp_path / "test"
    place.mkdir()
    return place


def start(place, **options):
    with trimtab.watch(run="test", directory=place.parent, backends=[backend := RecordingBackend()], **options):
        return backend


@pytest.mark.parametrize("case", GARBLED)
def test_garbled_run_json_is_nobodys(place, case):
    (place / "run.json").write_text(GARBLED[case], encoding="latin-1")
    start(place)
    assert json.loads((place / "run.json").read_text())["status"] == "completed"


def test_run_json_of_a_living_process_is_believed(place):
    facts = {"host": HOST, "pid": os.getppid()}
    (place / "run.json").write_text(json.dumps({"status": "running", "run_id": "1", "facts": facts}))
    with pytest.raises(ConfigError, match=f"process {os.getppid()} on this machine is writing"):
        start(place)


def test_run_json_of_another_machine_says_nothing_of_a_process_of_this_one(place):
    facts = {"host": "another", "pid": os.getppid()}
    (place / "run.json").write_text(json.dumps({"status": "running", "run_id": "1", "facts": facts}))
    start(place)
    assert json.loads((place / "run.json").read_text())["facts"]["host"] == HOST


def test_run_json_of_a_process_that_bears_the_number_of_another_is_nobodys(place):
    facts = {"host": HOST, "pid": os.getppid(), "process_start": "boot/0"}
    (place / "run.json").write_text(json.dumps({"status": "running", "run_id": "1", "facts": facts}))
    start(place)
    assert json.loads((place / "run.json").read_text())["facts"]["process_start"] == processes.started(os.getpid())


@pytest.mark.parametrize("name", ["run.json", "steering.json"])
def test_pipe_in_place_of_a_file_is_not_waited_for(place, name):
    os.mkfifo(place / name)
    start(place, resume=True)
    assert (place / name).is_file()


@pytest.mark.parametrize("content", [DEEP, "[]", "", "\x00", "1e999", '{"engine"', "{}", '{"engine": 5}'])
def test_garbled_state_is_told_and_the_run_begins_anew(place, content):
    (place / "steering.json").write_text(content)
    backend = start(place, resume=True)
    assert any("budgets and cooldowns begin anew" in notice.text for notice in backend.of(Notice))


def test_state_of_an_earlier_run_is_not_taken_for_that_of_one_that_began_anew(place):
    (place / "steering.json").write_text("{}")
    with trimtab.watch(run="test", directory=place.parent, backends=[RecordingBackend()]):
        assert not (place / "steering.json").exists()


@pytest.mark.parametrize("line", [f'{{"event":"step","levels":{DEEP}', f'{{"event":"step","x":{DEEP}', "\xff", "[]"])
def test_line_of_a_log_that_is_none_is_passed_over(place, line):
    log = place / "rank-0.jsonl"
    good = '{"event":"step","run":"test","run_id":"1","rank":0,"ts":"2026-01-01T00:00:00Z","step":7}'
    log.write_text(f"{good}\n{line}\n{good}\n", encoding="latin-1")
    assert len(logs.read(log).steps) == 2


@pytest.mark.parametrize("content", ["", "[]", "{}", DEEP, '{"outcome": "applied", "step": "x", "text": ""}'])
def test_garbled_answer_is_told_in_a_sentence(place, content):
    (place / "control").mkdir(mode=0o700)
    done = place / "control" / "1.done"
    done.write_text(content)
    done.chmod(0o600)
    with pytest.raises(ConfigError, match="no answer of a run"):
        control.answer(place, "1")


def test_link_in_the_way_is_not_written_through(place, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    for name in ("run", "steering"):
        (place / f"{name}.{os.getpid()}.tmp").symlink_to(elsewhere)
    with trimtab.watch(run="test", directory=place.parent, backends=[RecordingBackend()]) as run:
        directory.write_state(run.info, {})
        assert (place / "steering.json").read_text() == "{}\n"
    assert elsewhere.read_text() == "precious"
    assert json.loads((place / "run.json").read_text())["status"] == "completed"


def test_state_that_does_not_fit_the_disk_leaves_the_one_before_and_nothing_else(place, full_disk):
    with trimtab.watch(run="test", directory=place.parent, backends=[RecordingBackend()]) as run:
        directory.write_state(run.info, {"of": "before"})
        with full_disk(), pytest.raises(OSError, match="too large"):
            directory.write_state(run.info, {"of": "x" * 2000})
        assert sorted(os.listdir(place)) == ["control", "run.json", "steering.json"]
        assert json.loads((place / "steering.json").read_text()) == {"of": "before"}


def test_run_json_with_an_argument_that_is_no_utf8_is_read(place, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "\udcff"])
    start(place)
    assert directory.read(place).status == "completed"
