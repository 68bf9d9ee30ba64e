"""Signals: what rules judge, derived from plain numbers as they come. Larger is worse, 0 is healthy.

A signal is an object with `update(value)`, which returns its value or None while it warms up, and `fence()`, after
which windows start anew while baselines (best, first, usual swing) stay. None imports torch, takes memory that grows,
or learns a baseline from the value that it judges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from trimtab.errors import ConfigError, did_you_mean
from trimtab.signals.clearing import UnclearedSteps
from trimtab.signals.course import Course
from trimtab.signals.gradients import (
    Crawl,
    DeadShare,
    NormSpikeScore,
    UpdateExcess,
    UpdateRatio,
    VanishingShare,
)
from trimtab.signals.loss import Divergence, Nonfinite, Oscillation, Progress, SpikeScore, StillHigh
from trimtab.signals.measured import Itself, NoiseRatio
from trimtab.signals.validation import (
    GeneralizationGap,
    Validated,
    ValidationFalls,
    ValidationLost,
    ValidationsSinceBest,
)

__all__ = [
    "SIGNALS",
    "Course",
    "Crawl",
    "DeadShare",
    "Divergence",
    "GeneralizationGap",
    "Itself",
    "NoiseRatio",
    "Nonfinite",
    "NormSpikeScore",
    "Oscillation",
    "Progress",
    "Reads",
    "Signal",
    "SignalSpec",
    "SpikeScore",
    "StillHigh",
    "UnclearedSteps",
    "UpdateExcess",
    "UpdateRatio",
    "Validated",
    "ValidationFalls",
    "ValidationLost",
    "ValidationsSinceBest",
    "VanishingShare",
    "find",
]

# What a signal is given: the loss of a step, how many backwards it applies, a part of its `GradientReading`, a
# validation pass, the monitored metric of one, or a number as it is.
Reads: TypeAlias = Literal[
    "loss", "backwards", "norm", "layer_norms", "update_ratios", "validated", "monitor", "number"
]


class Signal(Protocol):
    """A number derived from a stream of values."""

    def update(self, value: Any, /) -> float | None:
        """Take the next value in; the signal's own, or None while it warms up."""
        ...

    def fence(self) -> None:
        """What was seen before is no evidence any more; baselines stay."""
        ...


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """A signal by name: its formula, whose docstring says it, and what it is given."""

    formula: Callable[..., Signal]
    reads: Reads
    of_course: bool = False  # made with the course of the loss, beside which it stands

    def make(self, course: Course) -> Signal:
        """A new one, for the optimizer whose loss has this course."""
        return self.formula(course) if self.of_course else self.formula()


SIGNALS: dict[str, SignalSpec] = {
    "loss_nonfinite": SignalSpec(Nonfinite, "loss"),
    "loss_spike_score": SignalSpec(SpikeScore, "loss", of_course=True),
    "loss_divergence": SignalSpec(Divergence, "loss", of_course=True),
    "loss_oscillation": SignalSpec(Oscillation, "loss", of_course=True),
    "loss_progress": SignalSpec(Progress, "loss", of_course=True),
    "loss_stuck": SignalSpec(StillHigh, "loss", of_course=True),
    "loss_crawl": SignalSpec(Crawl, "update_ratios", of_course=True),
    "gradient_nonfinite": SignalSpec(Nonfinite, "norm"),
    "gradient_spike_score": SignalSpec(NormSpikeScore, "norm", of_course=True),
    "vanishing_share": SignalSpec(VanishingShare, "layer_norms"),
    "uncleared_steps": SignalSpec(UnclearedSteps, "backwards"),
    "dead_share": SignalSpec(DeadShare, "layer_norms"),
    "update_ratio": SignalSpec(UpdateRatio, "update_ratios"),
    "update_excess": SignalSpec(UpdateExcess, "update_ratios", of_course=True),
    "gradient_noise_ratio": SignalSpec(NoiseRatio, "number"),
    "generalization_gap": SignalSpec(GeneralizationGap, "validated"),
    "validations_since_best": SignalSpec(ValidationsSinceBest, "monitor"),
    "hung_seconds_ratio": SignalSpec(Itself, "number"),
    "data_wait_share": SignalSpec(Itself, "number"),
    "overhead_excess": SignalSpec(Itself, "number"),
    "backend_errors": SignalSpec(Itself, "number"),
}


def find(name: str) -> SignalSpec:
    """The signal of that name, or a `ConfigError` with the nearest one."""
    try:
        return SIGNALS[name]
    except KeyError:
        raise ConfigError(
            f"signal={name!r}: there is no such signal. {did_you_mean(name, SIGNALS)} "
            "A value that you log is 'logged:NAME'; a function of yours is given as it is."
        ) from None
