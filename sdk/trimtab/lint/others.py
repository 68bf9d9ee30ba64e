"""Judges a log of another tool by the rules that it can support."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from trimtab.catalog.rules import RULES, RuleSpec
from trimtab.lint.findings import Judgement, Levels, LevelTally, shipped
from trimtab.lint.points import JUDGED, LogPoint, Table
from trimtab.rules.judge import Judge
from trimtab.signals import SIGNALS
from trimtab.types import GradientReading

# What a log must hold for a signal that reads this; what is not here no log of another tool holds.
NEEDS: dict[str, tuple[str, ...]] = {
    "loss": ("loss",),
    "norm": ("gradient_norm",),
    "monitor": ("validation_loss",),
    "validated": ("loss", "validation_loss"),
}
WORDS = {
    "loss": "a training loss",
    "gradient_norm": "a gradient norm",
    "validation_loss": "a validation loss",
    "backwards": "the number of backwards of each step",
    "layer_norms": "gradients by layer",
    "update_ratios": "update ratios by layer",
    "number": "the run itself",
}


def judge_points(name: str, table: Table, asked: Mapping[str, float | None]) -> Judgement:
    """Judge every point as a run judges a step. Raises ConfigError for a rule that there is not."""
    points = table.points
    tally = LevelTally(shipped(), asked)
    missing = _missing(points)
    for levels in _levels([rule for rule in RULES.values() if rule.name not in missing], points, table.anew):
        tally.add(levels)
    judged = Judgement(name, table.kind, max((point.step for point in points), default=0))
    tally.conclude(judged, f"there are too few points for it ({len(points)})")
    judged.unjudged |= {rule: reason for rule, reason in missing.items() if rule in judged.unjudged}
    judged.notes = [*_distance(points), *table.notes]
    return judged


def _levels(rules: Sequence[RuleSpec], points: Iterable[LogPoint], anew: Collection[int]) -> Iterator[Levels]:
    judge = Judge(rules)
    total, count = 0.0, 0
    for at, point in enumerate(points):
        if at in anew:
            judge, total, count = Judge(rules), 0.0, 0
        norm = point.gradient_norm
        reading = None if norm is None else GradientReading(norm=norm, finite=math.isfinite(norm), layer_norms={})
        if point.loss is not None or reading is not None:
            judge.step(point.optimizer, point.step, point.loss, reading, point.learning_rate)
        if point.loss is not None:
            total, count = total + point.loss, count + 1
        if point.validation_loss is not None:  # an accuracy may be in a row of its own above it
            train = total / count if count else None
            judge.validation(point.step, point.validation_loss, point.validation_accuracy, train)
            total, count = 0.0, 0
        yield Levels(point.step, point.optimizer, judge.take_levels(point.optimizer))
        yield Levels(point.step, "", judge.take_levels(""))


def _missing(points: Sequence[LogPoint]) -> dict[str, str]:
    """The rules that these points cannot support, and why."""
    present = {kind for kind in JUDGED if any(getattr(point, kind) is not None for point in points)}
    missing = {}
    for name, rule in RULES.items():
        reads = SIGNALS[rule.signal].reads
        if reads not in NEEDS:
            missing[name] = f"it needs {WORDS[reads]}, which no such log holds"
        elif lacking := [WORDS[kind] for kind in NEEDS[reads] if kind not in present]:
            missing[name] = f"it needs {' and '.join(lacking)}, which is not in the log"
    return missing


def _distance(points: Sequence[LogPoint]) -> Iterator[str]:
    trained = [point.step for point in points if point.loss is not None or point.gradient_norm is not None]
    distances = [after - before for before, after in itertools.pairwise(trained) if after >= before]
    apart = sum(distances) / len(distances) if distances else 1.0
    if apart > 1:
        yield (
            f"One point stands for {apart:,.0f} steps: a rule that holds for 20 points holds for {20 * apart:,.0f} "
            "steps, and what passed between two points is not seen."
        )
