"""Reads the record of a run back: JSON Lines, as `docs/log.md` describes them.

Unknown keys and events are ignored, and so is a line that is not whole: a run that was killed leaves one at the end, a
disk that was full one in the middle. What was NaN or Inf stands as `null` in the log and comes back as NaN.
"""

from __future__ import annotations

import difflib
import functools
import math
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args

import msgspec

from trimtab.discovery import FOLDER
from trimtab.errors import ConfigError
from trimtab.types import Severity

_SUFFIX = ".jsonl"
Whole: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # what arrays of numbers hold


class _Record(msgspec.Struct, tag_field="event"):
    ts: datetime
    run: str
    run_id: str
    step: Whole
    nonfinite: tuple[str, ...] = ()  # dotted paths of the values that were NaN or Inf

    def __post_init__(self) -> None:
        for path in self.nonfinite:
            name, _, index = path.partition(".")
            if not index:
                if name in _numbers(type(self)) and getattr(self, name) is None:
                    setattr(self, name, math.nan)
            elif isinstance(held := getattr(self, name, None), list):
                if index.isdecimal() and int(index) < len(held):
                    held[int(index)] = math.nan
            elif isinstance(held, dict) and name == "levels":  # which are never NaN
                held[index] = math.inf


@functools.cache
def _numbers(kind: type[_Record]) -> frozenset[str]:
    """The fields of such a record that hold a number which may be NaN."""
    return frozenset(field.name for field in msgspec.structs.fields(kind) if float in get_args(field.type))


class RunStart(_Record, tag="run_start"):
    facts: dict[str, Any] = {}

    @property
    def resumes(self) -> bool:
        """Whether it goes on with the run before it in the log."""
        config = self.facts.get("config")
        return isinstance(config, dict) and config.get("resume") is True


class Step(_Record, tag="step"):
    """See `types.Step`; a key that is missing here was not known, or is not read yet."""

    steps: Whole = 1
    optimizer: str = ""
    epoch: int | None = None
    phase: str = "train"
    loss: float | None = None
    loss_min: float | None = None
    loss_max: float | None = None
    accuracy: float | None = None
    learning_rate: list[float | None] | None = None
    gradient_mean: float | None = None
    gradient_variance: float | None = None
    gradient_norm: float | None = None
    gradient_max_abs: float | None = None
    gradient_preclip_norm: float | None = None
    levels: dict[str, float | None] | None = None


class Epoch(_Record, tag="epoch"):
    epoch: int = 0


class Alert(_Record, tag="alert"):
    """See `types.Alert`. A `value` that was infinite is NaN here."""

    rule: str = ""
    optimizer: str = ""
    episode: int = 0
    state: str = ""
    source: str = "process"
    severity: Severity = "warning"
    value: float | None = None
    threshold: float | None = None


class Adjustment(_Record, tag="adjustment"):
    """See `types.Adjustment`."""

    moment: str = "after_step"
    policy: str = ""
    action: str = ""
    arguments: dict[str, Any] = {}
    rule: str = ""
    episode: int | None = None
    optimizer: str = ""
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    outcome: str = ""
    reason: str = ""


class RunEnd(_Record, tag="run_end"):
    status: str = ""
    seconds: float | None = None


Record: TypeAlias = RunStart | Step | Epoch | Alert | Adjustment | RunEnd


class RunLog(msgspec.Struct):
    """One run as it was written down, with all that resumed it. `start` and `end` are None where the log lacks them.

    Levels of rules are left out here: `records` has them.
    """

    path: Path
    run: str
    run_id: str
    start: RunStart | None = None
    end: RunEnd | None = None
    seconds: float | None = None  # of all that ended
    steps: list[Step] = []
    epochs: list[Epoch] = []
    alerts: list[Alert] = []
    adjustments: list[Adjustment] = []

    def add(self, record: Record) -> None:
        record.run, record.run_id = self.run, self.run_id  # one copy of each, not one a record
        if isinstance(record, Step):
            record.levels = None
            self.steps.append(record)
        elif isinstance(record, Epoch):
            self.epochs.append(record)
        elif isinstance(record, Alert):
            self.alerts.append(record)
        elif isinstance(record, Adjustment):
            self.adjustments.append(record)
        elif isinstance(record, RunStart):
            self.start, self.end = self.start or record, None
        else:
            self.end = record
            if record.seconds is not None and math.isfinite(record.seconds):
                self.seconds = (self.seconds or 0.0) + record.seconds


def locate(run: str | Path, directory: Path) -> Path:
    """The log of `run`: a file, the directory of a run, or the name of a run in `directory`.

    Of several ranks it is the lowest. Raises ConfigError when there is none, or nobody may look.
    """
    try:
        return _located(run, directory)
    except OSError as error:
        raise ConfigError(f"{run}: {error.strerror}. Give a run that can be read.") from error


def _located(run: str | Path, directory: Path) -> Path:
    path = Path(run)
    if path.is_file():
        return path
    candidates = [candidate for candidate in (path, directory / path) if candidate.is_dir()]
    for candidate in candidates:
        ranks = sorted(candidate.glob(f"rank-*{_SUFFIX}"), key=lambda log: (len(log.name), log.name))
        if ranks:
            return ranks[0]
    for place in candidates:
        if runs := _runs_in(place, f"rank-*{_SUFFIX}"):
            raise ConfigError(
                f"{place} is no run, but holds some. Give one of them, such as {place / runs[-1]}, or all: {place}/*"
            )
    for place in candidates:
        if (place / "run.json").is_file():
            raise ConfigError(f"{place} holds no log: the run had no backend jsonl. Give one that had.")
    if candidates:
        raise ConfigError(f"{candidates[0]} holds no log. {_runs_within(candidates[0], path.name)}")
    raise ConfigError(f"{run}: neither a log nor the directory of a run. {_runs_within(directory, path.name)}")


def without_targets(given: Sequence[str]) -> list[str]:
    """`given` without what `runs/*` names beside runs that can be read: the directory of files for Prometheus, and
    runs that were killed before they wrote anything. All of `given` when nothing would be left."""
    return [each for each in given if not _holds_nothing(Path(each))] or list(given)


def _holds_nothing(place: Path) -> bool:
    if not os.path.isdir(place):  # False where nobody may look, which `locate` tells
        return False
    logs = list(place.glob(f"rank-*{_SUFFIX}"))
    return place.name == FOLDER or (bool(logs) and not any(log.is_file() and log.stat().st_size for log in logs))


def read(path: Path) -> RunLog:
    """The run that `path` tells of; of several in one file the last. Costs about 5 us and 0.7 kB a record.

    Raises ConfigError when the file cannot be read, or holds no record of a run.
    """
    log: RunLog | None = None
    try:
        for record in records(path):
            if log is None or record.run_id != log.run_id:
                log = RunLog(path=path, run=record.run, run_id=record.run_id)
            log.add(record)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Give a log that can be read.") from error
    if log is None:
        raise ConfigError(f"{path}: no record of a run is in it. Give a log that the jsonl backend wrote.")
    return log


def last_step(path: Path) -> int | None:
    """The step at which the run that `path` tells of stood, of several the last; None where it has no record.

    Raises OSError. Costs about 5 us a record, and no memory.
    """
    run_id, step = "", 0
    for record in records(path):
        if record.run_id != run_id:
            run_id, step = record.run_id, 0
        if isinstance(record, Step | Epoch):
            step = max(step, record.step)
    return step if run_id else None


def records(path: Path) -> Iterator[Record]:
    """Every record of a kind that is read here, in the order in which they were written.

    A run and those that resumed it are one: all their records have the `run_id` of the first.
    """
    decode = msgspec.json.Decoder(Record).decode
    first: dict[str, str] = {}  # of a run that resumed another
    newest = ""
    with path.open("rb") as lines:
        for line in lines:
            try:
                record: Record = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # another kind of event, or no whole line
                continue
            if newest and isinstance(record, RunStart) and record.resumes:
                first[record.run_id] = newest
            record.run_id = newest = first.get(record.run_id, record.run_id)
            yield record


def nearest_run(given: str, directory: Path, files: str) -> str | None:
    """The end of an error message: the run of a name like this, or the latest one; None where there is none.

    `files` is the pattern of those in a run's directory that tell of it.
    """
    runs = _runs_in(directory, files)
    if not runs:
        return None
    nearest = difflib.get_close_matches(given, runs, n=1)
    return f"Did you mean {nearest[0]!r}?" if nearest else f"The latest run in {directory} is {runs[-1]!r}."


def _runs_in(directory: Path, files: str) -> list[str]:
    """The names of the runs there, the latest last; twice where there are two files."""
    return [path.parent.name for path in sorted(directory.glob(f"*/{files}"), key=_changed)]


def _changed(path: Path) -> float:
    """When; long ago where it went away meanwhile, or is a link to nothing."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _runs_within(directory: Path, given: str) -> str:
    nearest = nearest_run(given, directory, f"rank-*{_SUFFIX}")
    return nearest or f"{directory} holds no runs; give a file, a directory, or --dir and a name."
