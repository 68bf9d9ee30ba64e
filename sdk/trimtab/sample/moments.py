"""Count, mean, squared deviations and maximum: four numbers that add up over blocks, layers, shards and ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Moments(NamedTuple):
    """What is known of the elements of one gradient, or of several combined. All zero where there are none.

    One NaN makes every figure NaN. An Inf without a NaN makes `max_abs` and `norm` Inf, mean and variance NaN. Finite
    float64 elements beyond 1e150 make `m2`, `variance` and `norm` Inf: there float64 itself ends.
    """

    size: int  # number of elements
    mean: float
    m2: float  # sum of squared deviations from the mean
    max_abs: float

    @property
    def variance(self) -> float:
        """Of the whole population: `m2 / size`."""
        return self.m2 / self.size if self.size else 0.0

    @property
    def norm(self) -> float:
        """2-norm of the elements, and at least the largest of them, also where squares of float64 underflow."""
        if not self.finite:
            return self.max_abs
        return max(math.hypot(math.sqrt(self.m2), math.sqrt(self.size) * self.mean), self.max_abs)

    @property
    def finite(self) -> bool:
        """Whether every element is."""
        return math.isfinite(self.max_abs)

    def divided_by(self, scale: float) -> Moments:
        """The moments of elements `scale` times smaller. As with tensors, 0 gives Inf and NaN."""
        inverse = 1.0 / scale if scale else math.inf
        return Moments(self.size, self.mean * inverse, self.m2 * inverse * inverse, self.max_abs * inverse)


def combine(parts: Iterable[Moments]) -> Moments:
    """The moments of all elements of `parts` together.

    Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979), eq. 2.1.
    """
    size, mean, m2, max_abs = 0, 0.0, 0.0, 0.0
    for part in parts:
        if part.size == 0:
            continue
        total = size + part.size
        delta = part.mean - mean
        shift = delta * (part.size / total)
        mean += shift
        m2 += part.m2 + shift * (delta * size)
        if part.max_abs > max_abs or math.isnan(part.max_abs):
            max_abs = part.max_abs
        size = total
    return Moments(size, mean, m2, max_abs)
