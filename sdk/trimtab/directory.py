"""What a run leaves on disk beside its backends' output: its directory, and `run.json` with facts and status."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError
from trimtab.types import RunInfo, Status

FILE = "run.json"
STATE = "steering.json"


def make(run: RunInfo) -> None:
    """Make the run's directory. Raises ConfigError when it cannot be written, or another process is writing it."""
    probe = run.directory / f".probe-{run.run_id}"
    try:
        run.directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(run, run.directory, error) from error
    other = _writing_process(run)
    if other is not None:
        raise ConfigError(
            f"run={run.run!r}: process {other} on this machine is writing {run.directory}. Give this run another name."
        )


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
        "facts": {**run.facts, "world_size": run.world_size},
    }
    path = run.directory / FILE
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(run, path, error) from error


def write_state(run: RunInfo, state: dict[str, Any]) -> None:
    """Write what a resumed run goes on with: scales, budgets, episodes. Renamed into place; rank 0 writes for all."""
    if run.rank == 0:
        path = run.directory / STATE
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(state) + "\n")
        temporary.replace(path)


def read_state(run: RunInfo) -> dict[str, Any] | None:
    """What `write_state` wrote; None where there is none, or it is no state."""
    try:
        state = json.loads((run.directory / STATE).read_text())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def last_step(run: RunInfo) -> tuple[int, str | None]:
    """The step at which the run that is resumed stood, and what to tell the user where that is not known."""
    from trimtab import logs

    path = run.directory / f"rank-{run.rank}.jsonl"
    try:
        log = logs.read(path)
    except ConfigError:
        return 0, f"resume=True: {path} tells of no run yet. Steps count from 0."
    return max((record.step for record in (*log.steps, *log.epochs)), default=0), None


def _unwritable(run: RunInfo, path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"directory={str(run.config.directory)!r}: cannot write {path}: {error.strerror}. "
        "Give a directory that you can write to: directory=..., or TRIMTAB_DIR."
    )


def _writing_process(run: RunInfo) -> int | None:
    """The living process of this machine that says it writes this run, other than ours."""
    if run.rank != 0:
        return None
    try:
        content: dict[str, Any] = json.loads((run.directory / FILE).read_text())
        facts = content["facts"]
        if content["status"] != "running" or facts["host"] != run.facts["host"] or facts["pid"] == os.getpid():
            return None
        os.kill(facts["pid"], 0)
        return int(facts["pid"])
    except (OSError, ValueError, KeyError, TypeError):  # no such file or process, or a file that is not ours
        return None
