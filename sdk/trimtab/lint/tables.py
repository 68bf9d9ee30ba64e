"""CSV files with a header, and `trainer_state.json` of Transformers."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError
from trimtab.lint.points import JUDGED, VALIDATION, LogPoint, Table, anew, choose, in_order, plain_name, point, some

DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r'"?sep=(.)"?\s*\n', re.IGNORECASE)  # a first line for Excel
_ROW = re.compile(r'[\s"]*[-+.,;|\d]|nan', re.IGNORECASE)
TWICE = "There are several columns {name}: the first one is read."
ALIKE = "{name} is read, and not {others}, which counts as the same name. Judge that by --column {kind}=NAME."
SORTED = "The step goes back from row to row: rows are judged in the order of their steps."
ANEW = "The step goes back, to {steps}: from there on another run is judged."
MISSING = "NaN in {name} is taken for a cell that is not known: numbers come after it."
FILTERED = (
    "Transformers leaves NaN and Inf out of the loss that it logs, unless logging_nan_inf_filter=False: that "
    "loss_nonfinite did not fire says little."
)


def read_csv(file: Path, given: Mapping[str, str]) -> Table:
    """A CSV file with a header, separated by one of `DELIMITERS`; by semicolons, numbers may have a decimal comma.

    A line `sep=;` and comments after `#` may stand above it. Empty cells are not known, nor is a NaN in a column of
    validation where numbers come after it.

    Raises:
        ConfigError: nothing in it, no header, nothing to judge, a cell that is no number.
    """
    try:
        text = _decoded(file.read_bytes()).lstrip("\r\n")
        if not text.strip():
            raise ConfigError(f"{file}: it is empty. Give the log of a run that took steps.")
        said = _SEPARATOR.match(text)
        text = _from_header(text[said.end() :] if said else text)
        delimiter = said[1] if said else max(DELIMITERS, key=text.partition("\n")[0].count)
        lines = _lines(text, delimiter)
        header = next(lines, [])
        columns = choose(file, header, given)
        places = {name: header.index(name) for name in columns.values()}
        rows = [{name: line[at] if at < len(line) else None for name, at in places.items()} for line in lines]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file}: not a CSV file ({error}). Give one with a header, in UTF-8.") from error
    if delimiter == ";":
        rows = [{name: cell and cell.replace(",", ".") for name, cell in row.items()} for row in rows]
    found = _points(file, columns, rows)
    points = in_order(found)
    notes = [*_steps(columns), *(TWICE.format(name=name) for name in places if header.count(name) > 1)]
    notes += _alike(header, {kind: name for kind, name in columns.items() if kind not in given})
    notes += [SORTED] if points is not found else []
    missing = [kind for kind in VALIDATION if _goes_on_after_nan(points, kind)]
    for kind in missing:
        points = list(_without_nan(points, kind))
    notes += [MISSING.format(name=columns[kind]) for kind in missing]
    begins = anew(points)
    notes += [ANEW.format(steps=some([f"{points[at].step:,}" for at in begins]))] if begins else []
    return Table("CSV", points, tuple(notes), frozenset(begins))


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


def _from_header(text: str) -> str:
    """Without the comments above it. Where a row comes below them the last is the header, as of `numpy.savetxt`."""
    while text.startswith("#"):
        below = text.partition("\n")[2].lstrip("\r\n")
        if not below or _ROW.match(below):
            break
        text = below
    return text


def _lines(text: str, delimiter: str) -> Iterator[list[str]]:
    """All lines but blank ones, the header first. A cell may be as long as the file."""
    usual = csv.field_size_limit(len(text))
    try:
        yield from filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    finally:
        csv.field_size_limit(usual)


def _decoded(content: bytes) -> str:
    """Text in UTF-8, in UTF-16 with its mark, or else in Latin-1: numbers are the same in all that look like it."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in content:
            raise
        return content.decode("latin-1")


def _alike(header: Sequence[str], columns: Mapping[str, str]) -> Iterator[str]:
    """What is left out of a file of several runs, as wandb exports them: each value has a column for each run."""
    for kind, name in columns.items():
        others = [other for other in header if other != name and plain_name(other) == plain_name(name)]
        if others:
            yield ALIKE.format(name=name, others=some(others), kind=kind)


def _goes_on_after_nan(points: Sequence[LogPoint], kind: str) -> bool:
    known = [value for each in points if (value := getattr(each, kind)) is not None]
    return any(math.isnan(value) and not math.isnan(after) for value, after in itertools.pairwise(known))


def _without_nan(points: Sequence[LogPoint], kind: str) -> Iterator[LogPoint]:
    for each in points:
        value = getattr(each, kind)
        blank: dict[str, Any] = {kind: None}
        without = dataclasses.replace(each, **blank) if value is not None and math.isnan(value) else each
        if any(getattr(without, judged) is not None for judged in JUDGED):
            yield without


def _points(file: Path, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[LogPoint]:
    points: list[LogPoint] = []
    for number, row in enumerate(rows, start=1):
        before = points[-1].step if points and "step" in columns else None
        found = point(file, columns, row, number, before)
        points += [found] if found is not None else []
    if not points:
        raise ConfigError(
            f"{file}: no row of it holds a number in {_listed(columns)}. Give the log of a run that took steps."
        )
    return points


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(name for kind, name in columns.items() if kind in JUDGED)


def _steps(columns: Mapping[str, str]) -> tuple[str, ...]:
    return () if "step" in columns else ("No column is the step: rows are counted.",)
