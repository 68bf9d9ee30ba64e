"""Tells whether validation is of another model than before, where the optimizers of every fold are kept.

An optimizer that is gone has its label taken over by the next, which is seen at once: see `StepController.begins_anew`.
One that is kept may step again any time, as in a GAN whose critic joins late. So this is asked at a validation.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping

from torch.optim import Optimizer


class Folds:
    """Who has stepped, by the labels of `optimizers`."""

    def __init__(self, optimizers: Mapping[str, weakref.ref[Optimizer]]) -> None:
        self._optimizers = optimizers
        self._before: set[str] = set()  # the newest validation
        self._since: set[str] = set()

    def stepped(self, label: str) -> None:
        """An optimizer has stepped."""
        self._since.add(label)

    def is_another(self) -> bool:
        """Whether all that stepped since this was asked last are new, and move nothing that the others move."""
        since, before = self._since, self._before
        if not since:
            return False
        self._since, self._before = set(), before | since
        return (
            bool(before) and since.isdisjoint(before) and self._parameters(since).isdisjoint(self._parameters(before))
        )

    def _parameters(self, labels: Iterable[str]) -> set[int]:
        living = [held() for label in labels if (held := self._optimizers.get(label)) is not None]
        return {id(p) for each in living if each is not None for group in each.param_groups for p in group["params"]}
