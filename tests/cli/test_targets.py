"""`trimtab targets` tells files of the living from those of the dead."""

import os
import signal
import time

import pytest

from trimtab.discovery import SILENT_AFTER_S, Target, TargetFile


@pytest.fixture
def killed(desk, train):
    """A run that serves and was killed, beside the directory of targets that it left."""
    desk.environ |= {"TRIMTAB_BACKENDS": "prometheus", "TRIMTAB_PORT": "0"}
    desk.write("script.py", train, "step(); wait()")
    process = desk.start("--run", "killed", "script.py")
    yield process
    process.kill()
    process.communicate()


def test_list_tells_the_living_from_the_dead(desk, killed):
    assert desk.trimtab("targets", "list").stdout.splitlines()[1].split()[-1] == "alive"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    header, row = desk.trimtab("targets", "list").stdout.splitlines()
    assert header.split() == ["RUN", "RANK", "ADDRESS", "HOST", "PID", "SEEN", "STATE"]
    assert (row.split()[0], row.split()[-1]) == ("killed", "dead")


def test_clean_removes_the_dead_only(desk, killed):
    assert desk.trimtab("targets", "clean").stdout == ""
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (path,) = (desk.directory / "runs" / "targets").iterdir()
    assert desk.trimtab("targets", "clean").stdout == f"removed {path}  killed rank 0\n"
    assert not path.exists()


def test_files_of_other_machines_are_left_alone_but_for_silent_ones_when_asked(desk):
    folder = desk.directory / "runs" / "targets"
    facts = {"address": "node7:9464", "scheme": "http", "rank": 0, "host": "node7", "pid": 2, "process_start": ""}
    heard, silent = (TargetFile(folder, Target(run=name, run_id=name, **facts)).path for name in ("heard", "silent"))
    past = time.time() - SILENT_AFTER_S - 60
    os.utime(silent, (past, past))
    assert desk.trimtab("targets", "clean").stdout == ""
    assert desk.trimtab("targets", "clean", "--silent").stdout == f"removed {silent}  silent rank 0\n"
    assert list(folder.iterdir()) == [heard]


def test_no_name_of_a_file_is_obeyed_by_the_terminal(desk):
    folder = desk.directory / "runs" / "targets"
    folder.mkdir(parents=True)
    (folder / "\x1b[2Jgone.json").write_text("{}")
    (row,) = desk.trimtab("targets", "list").stdout.splitlines()[1:]
    assert row.startswith("gone.json")


def test_list_of_nothing_is_its_header(desk):
    assert len(desk.trimtab("targets", "list").stdout.splitlines()) == 1


def test_directory_that_is_named_must_exist(desk):
    done = desk.trimtab("targets", "list", "--targets", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "targets='nowhere': no such directory" in done.stderr
