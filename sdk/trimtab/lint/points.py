"""What a log of another tool holds, under our names."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class LogPoint:
    """One row of a log: what is known of training, of validation, or of both, at a step."""

    step: int
    loss: float | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    optimizer: str = "0"


@dataclass(frozen=True, slots=True)
class Table:
    """A log of another tool, read. `notes` are sentences on what it cannot tell."""

    kind: str
    points: Sequence[LogPoint]
    notes: tuple[str, ...] = ()
    anew: frozenset[int] = frozenset()  # at which points, counted from 0, another run begins


# Each kind of column, and what the tools call it once case and punctuation are gone. The first that is there counts.
NAMES: dict[str, tuple[str, ...]] = {
    "step": ("step", "global_step", "trainer_global_step", "train_global_step", "iteration", "iter", "steps"),
    "loss": (
        "train_loss_step", "loss", "train_loss", "training_loss", "loss_train", "loss_training", "train_loss_epoch",
    ),
    "gradient_norm": ("grad_norm", "gradient_norm", "train_grad_norm", "total_grad_norm", "grad_2_norm_total", "gnorm"),
    "learning_rate": ("learning_rate", "lr", "train_learning_rate", "train_lr", "lr_0"),
    "validation_loss": (
        "val_loss", "valid_loss", "validation_loss", "eval_loss", "loss_val", "loss_valid", "loss_validation",
        "loss_eval", "val_loss_epoch", "dev_loss", "test_loss",
    ),
    "validation_accuracy": (
        "val_accuracy", "val_acc", "valid_accuracy", "valid_acc", "validation_accuracy", "eval_accuracy", "eval_acc",
        "accuracy_val", "accuracy_validation", "acc_val", "dev_accuracy", "test_accuracy",
    ),
}  # fmt: skip
VALIDATION = ("validation_loss", "validation_accuracy")
JUDGED = ("loss", "gradient_norm", *VALIDATION)  # without any of these there is no rule
_BLANK = {"", "none", "null", "-", "n/a", "na"}


def choose(file: Path, present: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
    """Which of the names in `file` is meant by each kind; `given` are those that the user said.

    Raises:
        ConfigError: a kind that there is not, a name that is not in the file, or nothing that rules could judge.
    """
    names = list(present)
    for kind, name in given.items():
        if kind not in NAMES:
            raise ConfigError(f"column {kind}={name}: {kind} is not a kind of column. {did_you_mean(kind, NAMES)}")
        if name not in names:
            raise ConfigError(f"{file}: there is no column {name!r}. {did_you_mean(name, names)}")
    plain = {plain_name(name): name for name in reversed(names)}
    found = {}
    for kind, known in NAMES.items():
        chosen = given.get(kind) or next((plain[n] for n in known if n in plain), None)
        if chosen is not None:
            found[kind] = chosen
    if not any(kind in found for kind in JUDGED):
        raise ConfigError(
            f"{file}: nothing in it looks like a loss, a gradient norm or a validation result. It has "
            f"{some(names)}. Say which is the loss, as in --column loss=NAME."
        )
    return found


def point(
    file: Path, columns: Mapping[str, str], row: Mapping[str, Any], number: int, before: int | None = None
) -> LogPoint | None:
    """The point of a row, the `number`th of the file; None where it holds nothing to judge.

    Without a step it is at that of the row `before`, or where there is none, at its number.
    """
    values = {kind: _number(file, name, row.get(name), number) for kind, name in columns.items()}
    step = values.pop("step", None)
    if all(values.get(kind) is None for kind in JUDGED):
        return None
    if step is None or not math.isfinite(step):
        step = number if before is None else before
    return LogPoint(
        int(step),
        loss=values.get("loss"),
        gradient_norm=values.get("gradient_norm"),
        learning_rate=values.get("learning_rate"),
        validation_loss=values.get("validation_loss"),
        validation_accuracy=values.get("validation_accuracy"),
    )


def in_order(points: Sequence[LogPoint]) -> Sequence[LogPoint]:
    """Points by their step, where that is the one order they can have: as they are where it does not go back.

    They fall from row to row, or none of their values is there twice at one step. Otherwise see `anew`.
    """
    pairs = list(itertools.pairwise(points))
    if all(before.step <= after.step for before, after in pairs):
        return points
    falls = all(before.step >= after.step for before, after in pairs)
    known = [(point.step, name) for point in points for name in JUDGED if getattr(point, name) is not None]
    if not falls and len(set(known)) < len(known):
        return points
    return sorted(reversed(points) if falls else points, key=lambda point: point.step)


def anew(points: Sequence[LogPoint]) -> list[int]:
    """Where the step goes back: another run, or the same one from a checkpoint, was written below the one before."""
    return [at for at in range(1, len(points)) if points[at].step < points[at - 1].step]


def plain_name(name: str) -> str:
    """Without case, punctuation, and the name of the run that wandb puts before it, as in `calm-sea-7 - train/loss`."""
    return re.sub(r"[^a-z0-9]+", "_", name.rpartition(" - ")[2].lower()).strip("_")


def _number(file: Path, name: str, value: object, number: int) -> float | None:
    if value is None or (isinstance(value, str) and value.strip().lower() in _BLANK):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{file}: {name} is {repr(value)[:40]} in row {number}: expected a number that a float can "
            "hold. Say which column is meant, as in --column loss=NAME."
        ) from error


def some(names: Sequence[str]) -> str:
    """The first of them, for a message."""
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "no columns"
