"""Trimtab as a method: every step judged (or as by default), what it decides carried out, and what it said kept."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rescue_jobs import SPACED
from rescue_loop import Method
from torch import nn
from torch.optim import Optimizer

import trimtab
from trimtab.testing import RecordingBackend
from trimtab.types import Adjustment, Alert, Notice


class Ours(Method):
    """`trimtab.watch` around the loop, with the settings that make it deterministic, unless it is to be `SPACED`."""

    def __init__(self) -> None:
        self._every = None if SPACED in os.environ else 1
        self._seen = RecordingBackend()

    @contextlib.contextmanager
    def watching(self, model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as directory:
            options: dict[str, Any] = {"run": "rescue", "directory": Path(directory), "backends": [self._seen]}
            with trimtab.watch(**options, act="process", gradients_every=self._every):
                yield

    def should_stop(self) -> bool:
        return trimtab.should_stop()

    def finish(self, model: nn.Module) -> None:
        """As a user ends a loop: a run that nobody halted has its last weights, and its best ones are asked for."""
        trimtab.restore_best()

    def said(self) -> dict[str, Any]:
        """Alerts that fired, adjustments whatever became of them, and notices."""
        alerts = [
            {"rule": alert.rule, "step": alert.step, "severity": alert.severity, "value": alert.value}
            for alert in self._seen.of(Alert)
            if alert.state == "firing"
        ]
        adjustments = [
            {
                "step": each.step,
                "policy": each.policy,
                "action": each.action,
                "rule": each.rule,
                "outcome": each.outcome,
                "reason": each.reason,
                "before": _plain(each.before),
                "after": _plain(each.after),
            }
            for each in self._seen.of(Adjustment)
        ]
        return {"alerts": alerts, "adjustments": adjustments, "notices": [each.text for each in self._seen.of(Notice)]}


def _plain(values: Any) -> dict[str, Any]:
    return {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in values.items()}
