"""Optimizers that step no more while another model is trained, and may come back: models that are trained in turns."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch.optim import Optimizer

from trimtab.actuators.steering import Steering
from trimtab.policies import Creeping, Engine
from trimtab.rules.judge import Judge


class _Left(NamedTuple):
    optimizers: weakref.WeakSet[Optimizer]
    settings: Mapping[str, Any]  # see `Steered.state`
    creeping: Creeping | None  # where its rate was lowered, or raised
    learned: bool  # whether its loss had come down


class Absent:
    """What was asked of those that have left, by label. Evidence, ladders and budgets end; a lowered rate does not."""

    def __init__(self, engine: Engine, judge: Judge, steering: Steering) -> None:
        self._engine, self._judge, self._steering = engine, judge, steering
        self._left: dict[str, _Left] = {}

    def leaves(self, label: str) -> None:
        """Its optimizers step no more. Before anything is forgotten about them."""
        steered = self._steering.steered(label)
        self._left[label] = _Left(
            weakref.WeakSet(steered.optimizers),
            steered.state(),
            self._engine.rate(label),
            self._judge.has_learned(label),
        )

    def forget(self, label: str) -> None:
        """Another model is trained under this label from now on, or the same one from its beginning."""
        self._left.pop(label, None)

    def met(self, label: str, optimizer: Optimizer) -> None:
        """An optimizer is about to step, as for the first time. If it is one that had left, it goes on as it was."""
        left = self._left.pop(label, None)
        if left is None or optimizer not in left.optimizers:
            return
        self._steering.load_state_dict({label: left.settings})
        if left.creeping is not None:
            self._engine.put_rate_back(label, left.creeping)
        if left.learned:
            self._judge.learned_before(label)
