"""Gradients that have made weights NaN once may do so again: for some time each step's are worth a look."""

from __future__ import annotations

from collections.abc import Callable

from trimtab.policies import Decision
from trimtab.policies.defaults import NONFINITE

WARY_FOR = 1000  # steps after a rollback


class Wariness:
    """Begins where weights that were not finite any more have been turned back, and ends by itself.

    Gradients are sampled every so many steps only, and those of a step between that are NaN are seen in the next loss:
    when nothing but going back helps. Seen in time, the one step is skipped. `step()` is the global step of now.
    """

    def __init__(self, step: Callable[[], int]) -> None:
        self._step = step
        self._until = 0

    def went_back(self, decision: Decision, step: int) -> None:
        """Weights were turned back after `step`, as was decided."""
        if decision.rule in NONFINITE:
            self._until = step + WARY_FOR

    @property
    def lasts(self) -> bool:
        """Whether it does. 0.1 us where it never began."""
        return self._until > 0 and self._step() < self._until
