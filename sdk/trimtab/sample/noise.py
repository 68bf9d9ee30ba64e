"""The gradient noise scale: the batch size, in samples, beyond which larger batches bring little.

It comes with gradient accumulation: the gradient that the first backward of a step brings is that of a small batch, the
one that is applied that of a large one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from trimtab.sample.gradients import Taken
from trimtab.sample.moments import combine

WEIGHT = 0.05  # of the newest pair
PAIRS = 20  # before there is a value


class FirstBackward(NamedTuple):
    """Statistics of the gradient after the first of several backwards of a step, and the samples behind it."""

    row: int  # of the step, in its block
    taken: Taken
    samples: int

    def norm(self) -> float:
        """Of the whole gradient. Waits while a transfer is under way."""
        return combine(self.taken.read()).norm


class NoiseScale:
    """tr(S) / |G|^2 from the norms of gradients over a small and over a large batch.

    |G|^2 = (B |g_B|^2 - b |g_b|^2) / (B - b) and tr(S) = (|g_b|^2 - |g_B|^2) / (1/b - 1/B), each averaged before they
    are divided: McCandlish et al., arXiv 1812.06162, appendix A.1. A factor that both norms have drops out.
    """

    __slots__ = ("_noise", "_pairs", "_signal")

    def __init__(self) -> None:
        self._pairs = 0
        self._signal = self._noise = 0.0

    def update(self, small: tuple[float, float], large: tuple[float, float]) -> None:
        """Take one pair of (samples, norm). What is not finite, or its square, or of one size, is left out."""
        (b, norm_b), (big, norm_big) = small, large
        square_b, square_big = norm_b * norm_b, norm_big * norm_big
        if not (b < big and math.isfinite(square_b) and math.isfinite(square_big)):
            return
        self._pairs += 1
        weight = max(WEIGHT, 1 / self._pairs)
        self._signal += weight * ((big * square_big - b * square_b) / (big - b) - self._signal)
        self._noise += weight * ((square_b - square_big) / (1 / b - 1 / big) - self._noise)

    @property
    def value(self) -> float | None:
        """In samples. None after fewer than 20 pairs, and where the signal drowns in the noise."""
        if self._pairs < PAIRS or self._signal <= 0.0:
            return None
        return max(0.0, self._noise / self._signal)
