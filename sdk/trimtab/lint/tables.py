"""CSV files with a header, and `trainer_state.json` of Transformers."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError
from trimtab.lint.points import JUDGED, Point, Table, choose, point

DELIMITERS = ",;\t"
FILTERED = (
    "Transformers leaves NaN and Inf out of the loss that it logs, unless logging_nan_inf_filter=False: that "
    "loss_nonfinite did not fire says little."
)


def read_csv(file: Path, given: Mapping[str, str]) -> Table:
    """A CSV file with a header, separated by commas, semicolons or tabs. Empty cells are not known.

    Raises:
        ConfigError: no header, nothing to judge, a cell that is no number.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            header = lines.readline()
            lines.seek(0)
            rows = csv.DictReader(lines, delimiter=max(DELIMITERS, key=header.count))
            columns = choose(file, rows.fieldnames or (), given)
            return Table("CSV", _points(file, columns, list(rows)), _steps(columns))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file}: not a CSV file ({error}). Give one with a header, in UTF-8.") from error


def read_trainer_state(file: Path, given: Mapping[str, str]) -> Table:
    """The `log_history` of Transformers' Trainer.

    Raises:
        ConfigError: other JSON, or nothing to judge.
    """
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not JSON ({error}). Give the trainer_state.json of a checkpoint.") from error
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise ConfigError(f"{file}: it has no log_history. Give the trainer_state.json of a checkpoint.")
    names = dict.fromkeys(name for row in history for name in row if name != "train_loss")  # that is the whole run's
    columns = choose(file, names, given)
    return Table("trainer_state", _points(file, columns, history), (*_steps(columns), FILTERED))


def _points(file: Path, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    found = (point(file, columns, row, number) for number, row in enumerate(rows, start=1))
    points = [each for each in found if each is not None]
    if not points:
        raise ConfigError(
            f"{file}: no row of it holds a number in {_listed(columns)}. Give the log of a run that took steps."
        )
    return points


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(name for kind, name in columns.items() if kind in JUDGED)


def _steps(columns: Mapping[str, str]) -> tuple[str, ...]:
    return () if "step" in columns else ("No column is the step: rows are counted.",)
