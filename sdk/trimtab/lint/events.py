"""Event files of TensorBoard. Needs the package `tensorboard` (extra of the same name)."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from trimtab.errors import ConfigError, TrimtabError
from trimtab.lint.points import Table, choose, point

PATTERN = "*tfevents*"


def read_events(path: Path, given: Mapping[str, str]) -> Table:
    """The scalars of one event file, or of all in one directory, put together by step.

    Raises:
        ConfigError: no scalars, nothing to judge among them, or a column for the step, which each of them has.
        TrimtabError: tensorboard is missing; the message holds the install command.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise TrimtabError(
            "event files need tensorboard, which is not installed. Run: pip install 'trimtab[tensorboard]'"
        )
    if "step" in given:
        raise ConfigError(f"--column step={given['step']}: each point of {path} has a step already. Judge it without.")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    rows: defaultdict[int, dict[str, float]] = defaultdict(dict)
    tags = events.Tags()
    for tag in tags["scalars"]:
        for scalar in events.Scalars(tag):
            rows[scalar.step][tag] = scalar.value
    for tag in tags["tensors"]:  # as TensorFlow 2 and Keras write scalars
        for tensor in events.Tensors(tag):
            value = tensor_util.make_ndarray(tensor.tensor_proto)
            if value.size == 1 and value.dtype.kind == "f":
                rows[tensor.step][tag] = float(value.item())
    names = dict.fromkeys(tag for row in rows.values() for tag in row)
    if not names:
        raise ConfigError(f"{path}: no scalar is in these event files. Give the directory that holds them.")
    columns = {kind: name for kind, name in choose(path, names, given).items() if kind != "step"}
    found = (
        point(path, {**columns, "step": "step"}, {**row, "step": step}, step) for step, row in sorted(rows.items())
    )
    return Table("TensorBoard", [each for each in found if each is not None])
