"""Numbers that are measured elsewhere, and judged as they are."""

from __future__ import annotations


class Itself:
    """The number as it is: for shares and counts that are measured elsewhere, and for what the user logs."""

    __slots__ = ()

    def update(self, value: float) -> float | None:
        """`value`."""
        return value

    def fence(self) -> None:
        """Nothing is remembered."""


class NoiseRatio(Itself):
    """The gradient noise scale over the samples of a step: at 1 half of the squared gradient norm is noise, at 0 none.

    The square of a gradient over B samples is |G|^2 + tr(S) / B on average, and the noise scale tr(S) / |G|^2
    (McCandlish et al., arXiv 1812.06162, 2.2). It is there where gradients are accumulated, after 20 sampled steps.
    """

    __slots__ = ()
