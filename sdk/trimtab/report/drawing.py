"""Draws runs: loss, accuracy, learning rate and gradients over global steps. Needs matplotlib (extra `report`).

Everything is drawn on a figure of its own; nothing of matplotlib's global state is read or changed.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab import renaming
from trimtab.errors import ConfigError, TrimtabError, did_you_mean
from trimtab.logs import RunLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trimtab.report.panels import Scale, Stroke

# The palette of Okabe and Ito, which stays apart for colour-blind eyes, without its yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
FILE_TYPES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, slots=True)
class _Line:
    label: str
    field: str
    phase: str = "train"
    second: bool = False  # the other line of its panel: another colour, or dashed where colours tell runs apart
    smooth: bool = True


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    scale: Scale
    lines: tuple[_Line, ...]
    valued: bool = False  # whether the last value stands beside each curve


def _of_both_phases(field: str) -> tuple[_Line, ...]:
    return _Line("train", field), _Line("validation", field, "validation", second=True, smooth=False)


_PANELS = (
    _Panel("Loss", "positive", _of_both_phases("loss"), valued=True),
    _Panel("Accuracy", "share", _of_both_phases("accuracy"), valued=True),
    _Panel("Learning rate", "rate", (_Line("", "learning_rate", smooth=False),)),
    _Panel(
        "Gradient norm",
        "positive",
        (_Line("before clipping", "gradient_preclip_norm", second=True), _Line("as applied", "gradient_norm")),
    ),
    _Panel("Gradient mean", "signed", (_Line("", "gradient_mean"),)),
    _Panel("Gradient variance", "positive", (_Line("", "gradient_variance"),)),
)
_LEFT = 0.065  # of the width
_HEAD_ROW = 0.52  # inches
_KEY = (
    "bold: running mean, geometric on a logarithmic axis · thin: each record · shade: smallest to largest in a record"
)


def save(logs: Sequence[RunLog], file: Path) -> None:
    """Draw `logs`, laid over each other, into `file`: .png, .svg or .pdf.

    Raises:
        ConfigError: another kind of file, or one that cannot be written.
        TrimtabError: matplotlib is missing; the message holds the install command.
    """
    if file.suffix.lower() not in FILE_TYPES:
        raise ConfigError(f"{file}: {file.suffix!r} is no kind of picture. {did_you_mean(file.suffix, FILE_TYPES)}")
    picture = io.BytesIO()
    draw(logs).savefig(picture, dpi=150, facecolor="white", format=file.suffix[1:].lower())
    try:
        renaming.put(file, picture.getvalue(), by=f".{file.name}.{os.getpid()}.tmp")
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}. Give a file that can be written, with -o.") from error


def draw(logs: Sequence[RunLog]) -> Figure:
    """A figure of six panels. One run: a colour a curve. Several: a colour a run, the second curve dashed.

    Where a run has several optimizers or groups, its curves have their names beside them.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise TrimtabError("a report needs matplotlib, which is not installed. Run: pip install 'trimtab[report]'")
    from matplotlib.figure import Figure

    from trimtab.report import panels

    strokes = [_strokes(panel, logs) for panel in _PANELS]
    is_named = any(stroke.label for drawn in strokes for stroke in drawn)  # which takes room beside the curves
    head = 0.72 + _HEAD_ROW * len(logs)  # inches
    height = 9.5 + head
    figure = Figure(figsize=(13.0, height))
    grid = figure.subplots(3, 2, sharex=True)
    figure.subplots_adjust(
        left=_LEFT,
        right=0.885 if is_named else 0.97,
        top=1 - head / height,
        bottom=0.75 / height,
        hspace=0.27,
        wspace=0.42 if is_named else 0.2,
    )
    for axes, panel, drawn in zip(grid.flat, _PANELS, strokes, strict=True):
        panels.draw(axes, panel.title, panel.scale, drawn)
    steps = sorted({record.step for log in logs for record in log.steps})
    if len(steps) == 1:
        grid[0, 0].set_xlim(steps[0] - 1, steps[0] + 1)
    for axes in grid[-1]:
        axes.set_xlabel("global step", color=panels.FAINT, fontsize=9)
    _frame(figure, logs)
    return figure


def _strokes(panel: _Panel, logs: Sequence[RunLog]) -> list[Stroke]:
    from trimtab.report.curves import curves
    from trimtab.report.panels import Stroke

    several = len(logs) > 1
    strokes = []
    for number, log in enumerate(logs):
        known = [(line, curves(log, line.field, line.phase)) for line in panel.lines]
        known = [(line, siblings) for line, siblings in known if siblings]
        for line, siblings in known:
            for place, curve in enumerate(siblings):
                colour = COLOURS[(number if several else line.second + 2 * place) % len(COLOURS)]
                # One line of several optimizers: their names are enough. Several runs have theirs at the top.
                is_told = several or (len(known) == 1 and curve.of)
                label = " ".join(filter(None, (curve.of.replace("$", r"\$"), "" if is_told else line.label)))
                strokes.append(
                    Stroke(
                        curve,
                        label,
                        colour,
                        valued=panel.valued and not several,
                        dashed=several and line.second,
                        smooth=line.smooth,
                        faintness=1 / len(logs),
                    )
                )
    return strokes


def _frame(figure: Figure, logs: Sequence[RunLog]) -> None:
    """What stands around the panels: two lines for each run at the top, and how to read the curves at the bottom."""
    from trimtab.report.panels import FAINT, INK

    several = len(logs) > 1
    height = figure.get_figheight()
    names = [log.run for log in logs]
    for row, log in enumerate(logs):
        top = 0.4 + _HEAD_ROW * row  # inches from the upper edge
        name = log.run if names.count(log.run) == 1 else f"{log.run} ({log.run_id})"
        size = min(11 if several else 16, 1000 / max(len(name), 1))  # the longest name fits
        colour = COLOURS[row % len(COLOURS)] if several else INK
        # What a log says is no formula, whatever dollars are in it.
        figure.text(
            _LEFT, 1 - top / height, name, fontsize=size, fontweight="bold", color=colour, parse_math=False
        )  # fmt: skip
        figure.text(_LEFT, 1 - (top + 0.24) / height, _facts(log), fontsize=9.5, color=FAINT, parse_math=False)
    key = f"solid: train, as applied · dashed: validation, before clipping · {_KEY}" if several else _KEY
    figure.text(_LEFT, 0.2 / height, key, fontsize=8.5, color=FAINT, va="center")


def _facts(log: RunLog) -> str:
    """When, how far, how long, how it ended and how good it was at best, as far as the log knows."""
    facts = []
    if log.start is not None:
        facts.append(f"{log.start.ts:%Y-%m-%d %H:%M} UTC")
    if log.epochs:
        facts.append(_counted(_ended([each.epoch for each in log.epochs]), "epoch"))
    facts.append(_counted(log.steps[-1].step if log.steps else 0, "step"))
    if log.end is not None and log.seconds is not None:
        facts.append(_duration(log.seconds))
    facts.append(log.end.status if log.end is not None else "no end in the log")
    validation = [step.loss for step in log.steps if step.phase == "validation" and step.loss is not None]
    finite = [loss for loss in validation if math.isfinite(loss)]
    if finite:
        facts.append(f"best validation loss {min(finite):.3g}")
    return " · ".join(facts)


def _ended(epochs: Sequence[int]) -> int:
    """How many there were: each process that resumes a run counts them from 1."""
    return sum(epoch for epoch, after in itertools.pairwise((*epochs, 0)) if after <= epoch)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
