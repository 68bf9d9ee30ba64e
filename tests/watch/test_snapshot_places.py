"""Snapshots that a process left as files when it was killed go with the next run of its name, and no others."""

import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys

import pytest

import trimtab
from trimtab import directory, processes, snapshot_places
from trimtab.testing import sample_run

KILLED = """
    with watch(act="process", snapshot_directory="kept"):
        for _ in range(40):
            step()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("resume", [False, True])
def test_snapshots_of_a_process_that_was_killed_go_with_the_next_run_of_its_name(start, tmp_path, resume):
    for _ in range(2):
        assert start(KILLED).exit_code() == -signal.SIGKILL
    (left,) = (tmp_path / "kept").iterdir()  # by the second one
    assert len(list(left.glob("*.pt"))) == 2
    options = {"directory": tmp_path / "runs", "act": "process", "snapshot_directory": tmp_path / "kept"}
    with trimtab.watch(run="other", backends=["jsonl"], **options):
        assert left in list((tmp_path / "kept").iterdir())
    with trimtab.watch(run="test", backends=["jsonl"], resume=resume, **options):
        (own,) = (tmp_path / "kept").iterdir()
        assert own != left
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.fixture
def gone():
    """What a process says of itself that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        facts = directory.Facts(platform.node(), process.pid, processes.started(process.pid))
        process.communicate(b"\n")
    return facts


@pytest.fixture
def run(tmp_path):
    info = sample_run(tmp_path, snapshot_directory=tmp_path / "kept")
    return dataclasses.replace(info, run_id="0" * 16, facts={"host": platform.node()})


@pytest.fixture
def left(tmp_path):
    """`left(name, owner)` is a directory with a snapshot in it, as `owner` left it."""

    def left(name, owner):
        place = tmp_path / "kept" / name
        place.mkdir(parents=True)
        for file in ("snapshot-32-1.pt", "snapshot-64-2.pt.partial"):
            (place / file).write_text("")
        if owner is not None:
            content = {name: getattr(owner, name) for name in owner.__struct_fields__}
            (place / snapshot_places.OWNER).write_text(json.dumps(content))
        return place

    return left


ID = "0123456789abcdef"
HERE = directory.Facts(platform.node(), os.getpid(), processes.started(os.getpid()))


@pytest.mark.parametrize(
    "name", [f"sample-{ID}-rank-0", f"sample-{'0' * 16}-rank-0"], ids=["a run before", "restarted"]
)
def test_what_a_process_left_that_is_gone_is_removed(run, left, gone, name):
    place = left(name, gone)
    snapshot_places.claim(run)
    assert not list(place.glob("snapshot*"))
    assert place.exists() == (place == snapshot_places.of(run))


@pytest.mark.parametrize(
    "name",
    [f"sample-{ID}-rank-1", f"sample-two-{ID}-rank-0", f"sample-{ID}-{ID}-rank-0", f"xsample-{ID}-rank-0", "sample"],
)
def test_what_another_run_or_rank_left_stays(run, left, gone, name):
    place = left(name, gone)
    snapshot_places.claim(run)
    assert len(list(place.iterdir())) == 3


@pytest.mark.parametrize(
    "owner",
    [HERE, directory.Facts("elsewhere", 1, ""), directory.Facts(), None],
    ids=["alive", "on another machine", "says nothing", "not said"],
)
def test_what_a_process_wrote_that_may_live_stays(run, left, owner):
    place = left(f"sample-{ID}-rank-0", owner)
    before = sorted(place.iterdir())
    snapshot_places.claim(run)
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"host": 1}', b"\xff", b'{"x": ' + b"[" * 10_000, b" " * 100_000], ids=range(7)
)
def test_what_nobody_can_tell_the_owner_of_stays(run, left, content):
    place = left(f"sample-{ID}-rank-0", None)
    (place / snapshot_places.OWNER).write_bytes(content)
    snapshot_places.claim(run)
    assert len(list(place.iterdir())) == 3


def test_files_that_are_no_snapshots_stay(run, left, gone):
    place = left(f"sample-{ID}-rank-0", gone)
    (place / "notes.txt").write_text("mine")
    snapshot_places.claim(run)
    assert sorted(path.name for path in place.iterdir()) == ["notes.txt", snapshot_places.OWNER]


def test_link_to_another_directory_is_not_followed(run, left, gone, tmp_path):
    place = left("elsewhere", gone)
    (tmp_path / "kept" / f"sample-{ID}-rank-0").symlink_to(place)
    snapshot_places.claim(run)
    assert len(list(place.iterdir())) == 3


def test_run_that_cannot_start_leaves_no_place_for_snapshots(tmp_path, monkeypatch):
    def start(*args):
        raise RuntimeError("no backend")

    monkeypatch.setattr("trimtab.plugins.start", start)
    options = {"directory": tmp_path / "runs", "act": "process", "snapshot_directory": tmp_path / "kept"}
    with pytest.raises(RuntimeError, match="no backend"), trimtab.watch(run="new", **options):
        pass
    assert list((tmp_path / "kept").iterdir()) == []
