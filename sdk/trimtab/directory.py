"""What a run leaves on disk beside its backends' output: its directory, and `run.json` with facts and status.

Others may write there, on a shared file system, and a full disk cuts files short: what is read is bounded and checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from trimtab import files, processes, renaming
from trimtab.errors import ConfigError
from trimtab.types import Config, RunInfo, Status

FILE = "run.json"
STATE = "steering.json"
LARGEST = 16 * 1024 * 1024  # bytes that are read of either
LARGEST_NUMBER = 2**63 - 1  # that is whole, and read of a state
LOCKED_FOR = 2.0  # seconds at most that a run waits for another one which starts at the same time


class Facts(msgspec.Struct):
    """What a run says of its process."""

    host: str | None = None
    pid: Annotated[int, msgspec.Meta(gt=0, lt=2**31)] | None = None
    process_start: str | None = None  # see `processes.started`

    def is_alive(self, host: str) -> bool | None:
        """Whether the process is there; None where that cannot be told on `host`."""
        if self.host != host or self.pid is None:
            return None
        return processes.lives(self.pid, self.process_start)


class Written(msgspec.Struct):
    """What is read of a `run.json`."""

    status: Status
    run_id: str
    facts: Facts = msgspec.field(default_factory=Facts)


def read(directory: Path) -> Written:
    """The `run.json` of the run in `directory`. Raises OSError or ValueError where there is none, or it is none."""
    try:
        # `json` reads all that it wrote: msgspec refuses the half characters of a name that is no UTF-8.
        return msgspec.convert(json.loads(_content(directory / FILE)), Written)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def of(config: Config) -> Path:
    """Where the run's files belong, absolute: the program may go to another directory.

    Raises ConfigError for a relative one where the working directory is gone.
    """
    try:
        return (config.directory / config.run).absolute()
    except OSError as error:
        raise ConfigError(
            f"directory={str(config.directory)!r}: the working directory is gone. Give an absolute path: "
            "directory=..., or TRIMTAB_DIR."
        ) from error


class Former(NamedTuple):
    """What was there before a run."""

    is_new: bool  # the directory: there was none
    status: bytes | None  # its `run.json`


def make(run: RunInfo) -> Former:
    """Make the run's directory, and have it say that this process writes there.

    Raises ConfigError when it cannot be written, or another process is writing it: also one that starts at this moment.
    """
    is_new = not os.path.exists(run.directory)  # False where nobody may look, which the probe tells
    try:
        _probe(run.directory, run, lambda error: _unwritable(run, run.directory, error))
        return Former(is_new, _claim(run) if run.rank == 0 else None)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):  # there is something in it
                run.directory.rmdir()
        raise


def make_for_snapshots(run: RunInfo) -> None:
    """Make the directory that snapshots were asked to be kept in: without them nothing can be rolled back.

    Raises ConfigError when it cannot be written. It stays, since other ranks may be about to write there.
    """
    asked = run.config.snapshot_directory
    if asked is None:
        return

    def unusable(error: OSError) -> ConfigError:
        return ConfigError(
            f"snapshot_directory={str(asked)!r}: cannot be written: {error.strerror}. Give a directory that you can "
            "write to, or leave it out to keep snapshots in memory."
        )

    _probe(asked, run, unusable)


def _probe(directory: Path, run: RunInfo, unusable: Callable[[OSError], ConfigError]) -> None:
    """Make `directory`, and a file in it for a moment."""
    probe = directory / f".probe-{run.run_id}-{run.rank}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unusable(error) from error


def _claim(run: RunInfo) -> bytes | None:
    """Have `run.json` name this process. Returns the one before it."""
    with _locked(run.directory):
        other = _writing_process(run)
        if other is not None:
            raise ConfigError(
                f"run={run.run!r}: process {other} on this machine is writing {run.directory}. "
                "Give this run another name."
            )
        try:
            status = _content(run.directory / FILE)
        except (OSError, ValueError):
            status = None
        write_status(run, "running", 0)
    return status


def unmake(run: RunInfo, former: Former) -> None:
    """Leave the directory of a run that could not start as it was."""
    with contextlib.suppress(OSError):
        if former.status is not None:
            renaming.put(run.directory / FILE, former.status, by=_temporary(FILE))
        elif run.rank == 0:
            (run.directory / FILE).unlink(missing_ok=True)
        if former.is_new:
            if run.log.exists() and run.log.stat().st_size == 0:  # its backend opened it, and wrote nothing
                run.log.unlink()
            run.directory.rmdir()


def write_status(run: RunInfo, status: Status, step: int) -> None:
    """Write `run.json`, renamed into place. Rank 0 writes for all. Raises ConfigError when it cannot be written."""
    if run.rank != 0:
        return
    content = {
        "run": run.run,
        "run_id": run.run_id,
        "status": status,
        "step": step,
        "updated": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "facts": {**run.facts, "world_size": run.world_size, "process_start": processes.started(os.getpid())},
    }
    path = run.directory / FILE
    try:
        _put(path, json.dumps(content, indent=2, default=str))
    except OSError as error:
        raise _unwritable(run, path, error) from error


def write_state(run: RunInfo, state: dict[str, Any]) -> None:
    """Write what a resumed run goes on with: scales, budgets, episodes. Renamed into place; rank 0 writes for all."""
    if run.rank == 0:
        _put(run.directory / STATE, json.dumps(state))


def drop_state(run: RunInfo) -> None:
    """Remove what an earlier run of this name wrote with `write_state`: it is not this one's."""
    if run.rank == 0:
        with contextlib.suppress(OSError):
            (run.directory / STATE).unlink(missing_ok=True)


def read_state(run: RunInfo) -> tuple[dict[str, Any] | None, str | None]:
    """What `write_state` wrote, None where there is none; and what is wrong where something else is there."""
    path = run.directory / STATE
    try:
        state = json.loads(_content(path), parse_int=_whole)  # which knows infinity, as what wrote it
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, RecursionError):
        state = None
    if isinstance(state, dict):
        return state, None
    return None, f"{path} is no state of a run"


def _whole(digits: str) -> int:
    """Raises ValueError for a number that can be no float: it would fail at each step from then on."""
    number = int(digits)
    if abs(number) > LARGEST_NUMBER:
        raise ValueError("out of range")
    return number


def last_step(run: RunInfo) -> tuple[int, str | None]:
    """The step at which the run that is resumed stood, and what to tell the user where that is not known."""
    from trimtab import logs

    try:
        step = logs.last_step(run.log)
    except OSError:
        step = None
    if step is None:
        return 0, f"resume=True: {run.log} has no run yet. Steps count from 0."
    return step, None


def _put(path: Path, content: str) -> None:
    renaming.put(path, content + "\n", by=_temporary(path.name))


def _temporary(name: str) -> str:
    return f"{Path(name).stem}.{os.getpid()}.tmp"


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """While no other process of this machine is in here. Not every system and file system can tell."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    held, until = os.open(directory, os.O_RDONLY), time.monotonic() + LOCKED_FOR
    try:
        while time.monotonic() < until:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:  # no locks there
                break
        yield
    finally:
        os.close(held)


def _unwritable(run: RunInfo, path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"directory={str(run.config.directory)!r}: cannot write {path}: {error.strerror}. "
        "Give a directory that you can write to: directory=..., or TRIMTAB_DIR."
    )


def _writing_process(run: RunInfo) -> int | None:
    """The living process of this machine that says it writes this run, other than ours."""
    try:
        written = read(run.directory)
    except (OSError, ValueError):  # no such file, or one that is not ours
        return None
    other = written.facts
    lives = written.status == "running" and other.pid != os.getpid() and other.is_alive(run.facts["host"])
    return other.pid if lives else None


def _content(path: Path) -> bytes:
    """Raises OSError or ValueError for what is no file of a sensible size. A link is followed."""
    return files.content(path, LARGEST, follows_link=True)[0]
