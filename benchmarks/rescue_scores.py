"""What counts as saved, named, raised, acted on, made worse. Pure: plain results in, plain judgements out.

A run is saved when its final score is not worse than that of the same run without the fault, same seed, by more than
five per cent or by more than the spread (largest minus smallest) of the runs without the fault over all seeds,
whichever is more. Overfitting has no run without the fault: there the best score that the unwatched run itself had is
the reference. A fault is named when a rule meant for it begins to fire within 50 judged steps of its beginning, not
before; overfitting, which is judged at validations, within five of them after the best.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rescue_methods import stops_after

Result = Mapping[str, Any]

TOLERANCE = 0.05
NAMED_WITHIN = 50  # judged steps
VALIDATIONS = 5
RAISE_BOUND = 10.0  # of the scale of the learning rate
ACTED = ("applied", "refused", "failed")


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """From 0 to 1; NaN of nothing."""
        return self.count / self.of if self.of else math.nan

    def interval(self) -> tuple[float, float]:
        """The Wilson score interval at 95 %."""
        if not self.of:
            return 0.0, 1.0
        z, n, p = 1.959964, self.of, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value * 100:.0f} [{low * 100:.0f}, {high * 100:.0f}]" if self.of else ""


def share(judgements: Iterable[bool]) -> Share:
    """How many are true."""
    found = list(judgements)
    return Share(sum(found), len(found))


def goodness(score: float, measure: str) -> float:
    """Larger is better; what is not a number is worst."""
    if not math.isfinite(score):
        return -math.inf
    return score if measure == "accuracy" else -score


def tolerance(reference: float, all_seeds: Sequence[float]) -> float:
    """How much worse than its reference a saved run may be."""
    return max(TOLERANCE * abs(reference), max(all_seeds) - min(all_seeds))


def no_worse(score: float, reference: float, allowed: float, measure: str) -> bool:
    """Whether a score is within what is allowed."""
    return goodness(score, measure) >= goodness(reference, measure) - allowed


def best_score(result: Result, upto: int | None = None) -> float:
    """The score of the validation with the lowest loss, among the first `upto`; NaN where no loss is a number."""
    finite = [each for each in result["validations"][:upto] if math.isfinite(each["loss"])]
    return min(finite, key=lambda each: each["loss"])[result["measure"]] if finite else math.nan


def score_of(method: str, results: Mapping[str, Result]) -> float:
    """What a method leads to. Keeping the best weights and early stopping change nothing before they stop: they
    are read off the unwatched run, and so is the run of a method that ended in an error: not a number."""
    bare = results["unwatched"]
    if method == "keep best":
        return best_score(bare)
    if method == "early stopping":
        return best_score(bare, stops_after([each["loss"] for each in bare["validations"]]))
    if method == "ours, last":
        return float(results["ours"].get("last", math.nan))
    return float(results[method].get("score", math.nan))


def named_at(result: Result, rules: Sequence[str]) -> int | None:
    """After how many judged steps of the fault one of `rules` began to fire; None where none did.

    A rule that fired before the fault does not count.
    """
    steps = [alert["step"] - result["onset"] for alert in result.get("alerts", ()) if alert["rule"] in rules]
    return min((step for step in steps if step > 0), default=None)


def is_named(result: Result, rules: Sequence[str], bare: Result | None = None) -> bool:
    """Whether it was named in time. With `bare`, the unwatched run, its best validation is what time counts from."""
    at = named_at(result, rules)
    if at is None or bare is None:
        return at is not None and at <= NAMED_WITHIN
    losses = [each["loss"] for each in bare["validations"]]
    last = min(losses.index(min(losses)) + VALIDATIONS, len(losses) - 1)
    return at <= bare["validations"][last]["step"]


def is_raised(result: Result) -> bool:
    """Whether the learning rate was raised, and never over the bound."""
    scales = [
        (change["before"].get("learning_rate_scale", 1.0), change["after"].get("learning_rate_scale", 1.0))
        for change in result.get("adjustments", ())
        if change["outcome"] == "applied" and change["action"] == "scale_learning_rate"
    ]
    return any(after > before for before, after in scales) and all(after <= RAISE_BOUND for _, after in scales)


def is_acted_on(result: Result) -> bool:
    """Whether a policy did anything, or tried to."""
    return any(change["outcome"] in ACTED for change in result.get("adjustments", ())) or bool(result.get("acted"))
