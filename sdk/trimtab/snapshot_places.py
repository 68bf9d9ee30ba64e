"""Where a run keeps snapshots as files: a directory for each rank, that says which process writes there.

What a process leaves there that was killed, the next run of its name removes: the same rank, on the same machine.
Elsewhere nobody can tell whether it lives, and its files stay.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trimtab import directory, files, processes, renaming
from trimtab.types import RunInfo

OWNER = "process.json"
LARGEST = 64 * 1024  # bytes that are read of it
ID = "[0-9a-f]{16}"  # of a run
WRITTEN = re.compile(r"snapshot-\d+-\d+\.pt(\.partial)?")  # see `actuators.snapshots`


def of(run: RunInfo) -> Path | None:
    """The directory of this run and rank, None where snapshots are kept in memory."""
    place = run.config.snapshot_directory
    return None if place is None else place.absolute() / f"{run.run}-{run.run_id}-rank-{run.rank}"


def claim(run: RunInfo) -> Path | None:
    """Make that directory, have it say that this process writes there, and remove what dead ones of this name left.

    None where there is none to be left again: snapshots make it themselves.
    """
    place = of(run)
    if place is None:
        return None
    try:
        for dead in _dead(place.parent, run):
            _clear(dead)
        place.mkdir(exist_ok=True)
        owner = directory.Facts(run.facts["host"], os.getpid(), processes.started(os.getpid()))
        renaming.put(place / OWNER, msgspec.json.encode(owner), by=f"{OWNER}.tmp")
    except OSError:
        return None
    return place


def leave(place: Path) -> None:
    """Remove the directory at the end of a run, unless there is more in it than `claim` wrote."""
    with contextlib.suppress(OSError):
        if [path.name for path in place.iterdir()] == [OWNER]:
            (place / OWNER).unlink()
            place.rmdir()


def _dead(within: Path, run: RunInfo) -> Iterator[Path]:
    """Directories of this name and rank whose process is known to live no more."""
    named = re.compile(f"{re.escape(run.run)}-{ID}-rank-{run.rank}")
    for place in list(within.iterdir()):
        if named.fullmatch(place.name) and not place.is_symlink():
            with contextlib.suppress(OSError, ValueError, RecursionError):  # nothing in it says whose it is
                owner = msgspec.json.decode(files.content(place / OWNER, LARGEST)[0], type=directory.Facts)
                if owner.is_alive(run.facts["host"]) is False:
                    yield place


def _clear(place: Path) -> None:
    """Remove what `actuators.snapshots` wrote there, and the directory, unless there is more in it."""
    with contextlib.suppress(OSError):
        for path in list(place.iterdir()):
            if WRITTEN.fullmatch(path.name):
                path.unlink()
    leave(place)
