"""The steps of one optimizer since the last record, and how they become a record.

Fast loops make far more steps than anybody reads: they are gathered as rows (0.2 us each) and folded into one record
with their count, mean, minimum and maximum. The first step whose loss is not finite is always a record of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from trimtab.sample.gradients import Moments, Taken
from trimtab.sample.scalars import Held, Transfer

EMA_DECAY = 0.98


class Row(NamedTuple):
    """One optimizer step. Values may still be on a device."""

    loss: Held | None
    mean_loss: Held | None  # the loss as a mean over samples, where `loss` is a sum over them
    criterion: Held | None  # the loss function's own mean, where it is not the loss itself
    found_inf: Held | None  # over 0: a fused optimizer was told to leave everything as it is
    micro_steps: int
    samples: int
    weight: float
    seconds: float | None  # None for the first step, whose beginning nobody saw
    wait_seconds: float
    epoch: int


class GradientSample(NamedTuple):
    """Gradient statistics on their way. `row`: on which step of the block; `names`: of the layers, in order."""

    row: int
    taken: Sequence[Taken]
    names: Sequence[str | None]


@dataclass(slots=True)
class Block:
    """Steps on their way from tensors to numbers."""

    rows: list[Row]
    gradients: list[GradientSample]
    preclip_norms: list[Held]
    learning_rate: list[float | Tensor | None]
    weight_decay: list[float | Tensor | None]
    predictions: list[tuple[Held, Held]]
    skipped: Counter[str]
    epoch: int | None
    ts: float
    batch: int | None = None
    batches: int | None = None
    transfer: Transfer = field(init=False)

    def __post_init__(self) -> None:
        held: list[Held] = []
        for row in self.rows:
            held += [v for v in (row.loss, row.mean_loss, row.criterion, row.found_inf) if isinstance(v, Tensor)]
        held += [v for v in self.preclip_norms if isinstance(v, Tensor)]
        held += [v for v in (*self.learning_rate, *self.weight_decay) if isinstance(v, Tensor)]
        held += [v for pair in self.predictions for v in pair if isinstance(v, Tensor)]
        self.transfer = Transfer(held)

    @property
    def immediate(self) -> bool:
        """Whether reading costs no wait."""
        return self.transfer.immediate and all(t.ready() for s in self.gradients for t in s.taken)

    def read(self) -> Numbers:
        """Everything as floats, in the order in which it was sent."""
        arrived = iter(self.transfer.read())

        def number(value: Held | None) -> float | None:
            return next(arrived) if isinstance(value, Tensor) else value

        rows = [
            row
            if self.transfer.immediate
            else row._replace(
                loss=number(row.loss),
                mean_loss=number(row.mean_loss),
                criterion=number(row.criterion),
                found_inf=number(row.found_inf),
            )
            for row in self.rows
        ]
        return Numbers(
            rows=rows,
            preclip_norms=[float(v) for v in map(number, self.preclip_norms) if v is not None],
            learning_rate=[number(v) for v in self.learning_rate],
            weight_decay=[number(v) for v in self.weight_decay],
            predictions=[(float(number(a) or 0), float(number(b) or 0)) for a, b in self.predictions],
            gradients=[(s.row, [m for taken in s.taken for m in taken.read()], s.names) for s in self.gradients],
        )


@dataclass(slots=True)
class Numbers:
    """A block that has been read."""

    rows: list[Row]
    preclip_norms: list[float]
    learning_rate: list[float | None]
    weight_decay: list[float | None]
    predictions: list[tuple[float, float]]
    gradients: list[tuple[int, list[Moments], Sequence[str | None]]]


class Ledger:
    """What one optimizer did. Filled by the training thread, emptied block by block."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.steps = 0  # taken, as far as they are read
        self.skipped: Counter[str] = Counter()  # since the run began
        self.loss_ema: float | None = None
        self.rows: list[Row] = []
        self.gradients: list[GradientSample] = []
        self.preclip_norms: list[Held] = []
        self.predictions: list[tuple[Held, Held]] = []
        self.learning_rate: list[float | Tensor | None] = []
        self.groups: Sequence[Mapping[str, Any]] = ()  # the optimizer's, for what only the last step tells
        self.newly_skipped: Counter[str] = Counter()
        self.close_at = 0.0
        self.nonfinite_seen = False

    def cut(self, ts: float, epoch: int | None, progress: tuple[int | None, int | None]) -> Block:
        """Take everything since the last cut. Starts the transfer of what is on a device."""
        block = Block(
            rows=self.rows,
            gradients=self.gradients,
            preclip_norms=self.preclip_norms,
            learning_rate=list(self.learning_rate),
            weight_decay=[group.get("weight_decay") for group in self.groups],
            predictions=self.predictions,
            skipped=self.newly_skipped,
            epoch=epoch,
            ts=ts,
            batch=progress[0],
            batches=progress[1],
        )
        self.rows, self.gradients, self.preclip_norms, self.predictions = [], [], [], []
        self.newly_skipped = Counter()
        return block

    def average(self, losses: Sequence[float]) -> None:
        """Carry the moving average of the loss on. What is not finite is left out, or it would stay for ever."""
        ema = self.loss_ema
        for loss in losses:
            if math.isfinite(loss):
                ema = loss if ema is None else EMA_DECAY * ema + (1 - EMA_DECAY) * loss
        self.loss_ema = ema


def split_at_first_nonfinite(losses: Sequence[float | None]) -> Iterator[slice]:
    """The whole as one slice, or three, of which the middle one is the first loss that is not finite."""
    for index, loss in enumerate(losses):
        if loss is not None and not math.isfinite(loss):
            parts = (slice(0, index), slice(index, index + 1), slice(index + 1, len(losses)))
            yield from (part for part in parts if part.start < part.stop)
            return
    yield slice(0, len(losses))


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return sum(values) / len(values) if values else None
