"""Judges one log, of any kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from trimtab import logs
from trimtab.errors import ConfigError
from trimtab.lint import events, tables
from trimtab.lint.findings import Judgement
from trimtab.lint.others import judge_points
from trimtab.lint.ours import Record, judge_record, points_of
from trimtab.lint.points import Table


def judge(given: str, place: Path, asked: Mapping[str, float | None], columns: Mapping[str, str]) -> Judgement:
    """Judge the log that `given` names: a file, a directory, or the name of a run in `place`.

    Args:
        asked: the rules to judge, each with a threshold, or None for the one it had. Empty: every rule as it was.
        columns: kinds of values (see `lint.points`) to their names in a log of another tool.

    Raises:
        ConfigError: no log, one that cannot be read, a rule that there is not, or columns of a log of ours.
        TrimtabError: a package is missing to read it.
    """
    table = _table(Path(given), columns)
    if table is not None:
        return judge_points(given, table, asked)
    path = logs.locate(given, place)
    if columns:
        raise ConfigError(f"--column: {path} is a log of ours, of which every column is known. Judge it without.")
    record = Record.read(path)
    if record.has_levels or not record.has_steps:
        return judge_record(path, record, asked)
    judged = judge_points(record.run, Table("log without levels", list(points_of(path, record.run_id))), asked)
    return dataclasses.replace(judged, steps=record.steps, status=record.status)


def _table(path: Path, columns: Mapping[str, str]) -> Table | None:
    """The log of another tool at `path`, or None where it is one of ours, or nothing."""
    try:
        if path.is_dir():
            return _table_of_directory(path, columns)
        if not path.is_file():
            return None
        if "tfevents" in path.name:
            return events.read_events(path, columns)
        if path.suffix.lower() == ".json":
            return tables.read_trainer_state(path, columns)
        return tables.read_csv(path, columns) if path.suffix.lower() in (".csv", ".tsv") else None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Give a log that can be read.") from error


def _table_of_directory(path: Path, columns: Mapping[str, str]) -> Table | None:
    if any(path.glob("rank-*.jsonl")):
        return None
    if any(path.glob(events.PATTERN)):
        return events.read_events(path, columns)
    states = [*path.glob("trainer_state.json"), *path.glob("checkpoint-*/trainer_state.json")]
    if not states:
        return None
    newest = max(states, key=lambda state: (state.stat().st_mtime, state.parent == path))
    return tables.read_trainer_state(newest, columns)
