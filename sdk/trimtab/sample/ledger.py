"""The steps of one optimizer since the last record, and how they become a record.

Fast loops make far more steps than anybody reads: they are gathered as rows and folded into one record with their
count, mean, minimum and maximum. A row costs 0.2 us to write and 0.5 us to fold: both are columns of plain floats,
summed by the interpreter's own loops. The first step whose loss is not finite is always a record of its own.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from trimtab.sample.chance import Chance
from trimtab.sample.criteria import TrainingCriterion
from trimtab.sample.gradients import Taken
from trimtab.sample.moments import Moments, combine
from trimtab.sample.noise import FirstBackward, NoiseScale
from trimtab.sample.scalars import Held, Transfer
from trimtab.sample.updates import UpdateSample

EMA_WEIGHT = 0.02  # of the newest loss

# One optimizer step, in the order of `Columns`. A plain tuple: it is written on every step.
Row: TypeAlias = tuple[
    "Held | None", "Held | None", "Held | None", "Held | None", Held, int, int, "float | None", float, int
]


class Columns(NamedTuple):
    """The rows of a block, turned by ninety degrees, once every value is a float."""

    loss: Sequence[float | None] = ()
    mean_loss: Sequence[float | None] = ()  # the loss as a mean over samples, where `loss` is a sum over them
    criterion: Sequence[float | None] = ()  # the loss function's own mean, where it is not the loss itself
    found_inf: Sequence[float | None] = ()  # over 0: a fused optimizer was told to leave everything as it is
    weight: Sequence[float] = ()  # of the step in means over an epoch
    micro_steps: Sequence[int] = ()
    samples: Sequence[int] = ()
    seconds: Sequence[float | None] = ()  # None for the first step, whose beginning nobody saw
    wait_seconds: Sequence[float] = ()
    epoch: Sequence[int] = ()

    def part(self, of: slice) -> Columns:
        """Some of the rows."""
        return Columns._make(column[of] for column in self)

    def by_epoch(self) -> Iterator[tuple[int, Columns]]:
        """The rows of each epoch, in order."""
        if self.epoch and self.epoch[0] == self.epoch[-1]:
            yield self.epoch[0], self
            return
        start = 0
        for epoch, rows in groupby(self.epoch):
            stop = start + sum(1 for _ in rows)
            yield epoch, self.part(slice(start, stop))
            start = stop


class GradientSample(NamedTuple):
    """Gradient statistics on their way. `row`: on which step of the block; `names`: of the layers, in order."""

    row: int
    taken: Sequence[Taken]
    names: Sequence[str | None]
    update: UpdateSample | None = None  # the newest one when they were taken


Samples: TypeAlias = "Sequence[tuple[int, GradientSample]]"  # each with its place among the losses of some steps

VALUES = 5  # the first so many columns of a row may be on a device
PLAIN = {float, int, type(None)}


@dataclass(slots=True)
class Block:
    """Steps on their way from tensors to numbers."""

    rows: list[Row]
    gradients: list[GradientSample]
    first_backwards: list[FirstBackward]
    updates: list[UpdateSample]
    preclip_norms: list[tuple[int, Held]]
    learning_rate: list[float | Tensor | None]
    weight_decay: list[float | Tensor | None]
    predictions: list[tuple[int, Held, Held]]
    skipped: Counter[str]
    losses_of_skipped: list[Tensor]
    ts: float
    epoch: int | None
    batch: int | None = None
    batches: int | None = None
    columns: Sequence[Sequence[Any]] = field(init=False)
    transfer: Transfer = field(init=False)

    def __post_init__(self) -> None:
        self.columns = list(zip(*self.rows, strict=True))
        held: list[Held] = []
        for column in self.columns[:VALUES]:
            if column.count(None) < len(column) and not PLAIN.issuperset(map(type, column)):
                held += [v for v in column if isinstance(v, Tensor)]
        held += [v for _, v in self.preclip_norms if isinstance(v, Tensor)]
        held += [v for v in (*self.learning_rate, *self.weight_decay) if isinstance(v, Tensor)]
        held += [v for _, *pair in self.predictions for v in pair if isinstance(v, Tensor)]
        held += self.losses_of_skipped
        self.transfer = Transfer(held)

    @property
    def immediate(self) -> bool:
        """Whether reading costs no wait."""
        taken = [*(t for s in self.gradients for t in s.taken), *(first.taken for first in self.first_backwards)]
        arrived = all(t.ready() for t in taken) and all(s.immediate for s in self.updates)
        return arrived and self.transfer.immediate

    def read(self) -> Numbers:
        """Everything as floats, in the order in which it was sent."""
        arrived = iter(self.transfer.read())

        def number(value: Held | None) -> float | None:
            return next(arrived) if isinstance(value, Tensor) else value

        columns = self.columns
        if not self.transfer.immediate:
            columns = [*(tuple(map(number, column)) for column in columns[:VALUES]), *columns[VALUES:]]
        return Numbers(
            rows=Columns(*columns),
            preclip_norms=[(row, float(number(v) or 0)) for row, v in self.preclip_norms],
            learning_rate=[number(v) for v in self.learning_rate],
            weight_decay=[number(v) for v in self.weight_decay],
            predictions=[(row, float(number(a) or 0), float(number(b) or 0)) for row, a, b in self.predictions],
            losses_of_skipped=[number(v) for v in self.losses_of_skipped],
            updates=[(s.row, s.read()) for s in self.updates],
            gradients=[(s.row, [m for taken in s.taken for m in taken.read()], s.names) for s in self.gradients],
            first_norms=[(first.row, first.norm(), first.samples) for first in self.first_backwards],
        )


@dataclass(slots=True)
class Numbers:
    """A block that has been read."""

    rows: Columns
    preclip_norms: list[tuple[int, float]]
    learning_rate: list[float | None]
    weight_decay: list[float | None]
    predictions: list[tuple[int, float, float]]
    losses_of_skipped: list[float | None]
    updates: list[tuple[int, Mapping[str, float]]]
    gradients: list[tuple[int, list[Moments], Sequence[str | None]]]
    first_norms: list[tuple[int, float, int]]  # row, of the gradient after the first backward, samples behind it


class Ledger:
    """What one optimizer did. Filled by the training thread, emptied block by block."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.elements = 0  # of the parameters that it steps
        self.steps = 0  # taken, as far as they are read
        self.waiting = 0  # rows that were cut and are not read yet
        self.steps_of_others = 0  # of those taken, before the training began that is going on
        self.left_after = -1  # steps, when the loop last left its pass, evaluated, and went on to another loader's
        self.skipped: Counter[str] = Counter()  # since the run began
        self.loss_ema: float | None = None
        self._averaged_from = 0  # so many steps are not in it, being of other weights
        self.rows: list[Row] = []
        self._epoch = 0  # of the last row that was cut
        self.gradients: list[GradientSample] = []
        self.first_backwards: list[FirstBackward] = []  # of steps that are sampled, and have several
        self.updates: list[UpdateSample] = []
        self.newest_update: UpdateSample | None = None  # which goes with the samples of gradients that follow
        self.preclip_norms: list[tuple[int, Held]] = []  # on which step of the block
        self.predictions: list[tuple[int, Held, Held]] = []  # on which step, targets met, targets counted
        self.criterion = TrainingCriterion()
        self.has_criterion = False  # whether a loss function's own mean was ever known of a step
        self.holds_sum = False  # whether its losses are sums over samples, with more terms than one
        self.chance = Chance()
        self.noise = NoiseScale()
        self.learning_rate: Sequence[Held | None] = ()
        self.learning_rate_before: Sequence[Held | None] | None = None  # of the last row, while a closure is under way
        self.groups: Sequence[Mapping[str, Any]] = ()  # the optimizer's, for what only the last step tells
        self.used_decay: Sequence[Any] | None = None  # of the last step, where it was not the groups' own
        self.newly_skipped: Counter[str] = Counter()
        self.losses_of_skipped: list[Tensor] = []  # likewise, of those on a device
        self.close_at = 0.0
        self.may_close_at = 0.0  # where there is something to say before that, see `Books.close_soon`
        self.nonfinite_seen = False

    @property
    def rate(self) -> float | None:
        """The learning rate of the first group that has one on the CPU."""
        return next((rate for rate in self.learning_rate if isinstance(rate, float)), None)

    @property
    def epoch(self) -> int:
        """The epoch of the newest step, 0 before the first."""
        return self.rows[-1][-1] if self.rows else self._epoch

    @property
    def newest_samples(self) -> int:
        """Those of the newest step, 0 where it is read already."""
        return self.rows[-1][6] if self.rows else 0

    def recount(self, surplus: int) -> None:
        """The newest step has so many samples too many."""
        *values, weight, backwards, samples, seconds, wait_s, epoch = self.rows[-1]
        if type(weight) is int and weight == samples:
            weight -= surplus
        loss, mean_loss, criterion, found_inf = values
        self.rows[-1] = (
            loss, mean_loss, criterion, found_inf, weight, backwards, samples - surplus, seconds, wait_s, epoch
        )  # fmt: skip

    @property
    def written(self) -> int:
        """The steps taken, with those that are not read yet."""
        return self.steps + self.waiting + len(self.rows)

    @property
    def taken(self) -> int:
        """... since those of others were counted on."""
        return self.written - self.steps_of_others

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to cut."""
        return not (self.rows or self.newly_skipped)

    def cut(self, ts: float, epoch: int | None, batch: int | None, batches: int | None) -> Block:
        """Take everything since the last cut. Starts the transfer of what is on a device.

        `epoch` is where the loop is now, or None; the block's is the one that its last step belongs to.
        """
        block = Block(
            rows=self.rows,
            gradients=self.gradients,
            first_backwards=self.first_backwards,
            updates=self.updates,
            preclip_norms=self.preclip_norms,
            learning_rate=list(self.learning_rate if self.learning_rate_before is None else self.learning_rate_before),
            weight_decay=list(self.used_decay or (group.get("weight_decay") for group in self.groups)),
            predictions=self.predictions,
            skipped=self.newly_skipped,
            losses_of_skipped=self.losses_of_skipped,
            ts=ts,
            epoch=self.rows[-1][-1] if epoch is not None and self.rows else epoch,
            batch=batch,
            batches=batches,
        )
        self._epoch = self.epoch
        self.waiting += len(self.rows)
        self.rows, self.gradients, self.preclip_norms, self.predictions = [], [], [], []
        self.updates, self.first_backwards = [], []
        self.newly_skipped, self.losses_of_skipped = Counter(), []
        return block

    def let_go(self) -> None:
        """The optimizer is gone: hold none of its parameters."""
        self.groups = [{"weight_decay": group.get("weight_decay")} for group in self.groups]

    def drop_samples(self) -> None:
        """Forget the gradients that were sampled for a step that has no row, and is to have none."""
        self.gradients = [sample for sample in self.gradients if sample.row < len(self.rows)]
        self.first_backwards = [first for first in self.first_backwards if first.row < len(self.rows)]

    def begin_anew(self) -> None:
        """The steps that follow are of another model."""
        self.forget_criterion()
        self.average_anew()
        self.newest_update = None
        self.noise = NoiseScale()

    def forget_criterion(self) -> None:
        """What training is compared by is another loss function from now on."""
        self.criterion, self.chance = TrainingCriterion(), Chance()

    def measure_noise(self, numbers: Numbers) -> None:
        """Compare the gradients of first backwards with those of their steps, as these were before clipping.

        Where there are not as many samples behind every backward of a step, it tells nothing.
        """
        norms = {row: combine(moments).norm for row, moments, _ in numbers.gradients} | dict(numbers.preclip_norms)
        for row, norm, samples in numbers.first_norms:
            backwards, of_step = numbers.rows.micro_steps[row], numbers.rows.samples[row]
            if row in norms and of_step == backwards * samples:
                self.noise.update((samples, backwards * norm), (of_step, norms[row]))

    def average_anew(self) -> None:
        """The steps that follow are not of the weights that were averaged over."""
        self.loss_ema, self._averaged_from = None, self.written

    def average(self, losses: Sequence[float | None], last: int) -> None:
        """Carry the moving average on with the losses of the steps up to `last`, of those that are read.

        What is not finite is left out, or it would stay for ever.
        """
        ema = self.loss_ema
        new = known(losses[max(self._averaged_from - last + len(losses), 0) :])
        if not math.isfinite(sum(new)):
            new = [loss for loss in new if math.isfinite(loss)]
        for loss in new:
            ema = loss if ema is None else ema + EMA_WEIGHT * (loss - ema)
        self.loss_ema = ema


def known(values: Sequence[float | None]) -> Sequence[float]:
    """The values that are not None."""
    return [v for v in values if v is not None] if None in values else values  # type: ignore[return-value]


def weighted_sum(values: Sequence[float | None], weights: Sequence[float]) -> tuple[float, float]:
    """Sum of value times weight, and the sum of the weights, where the value is known."""
    if None in values:
        pairs = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None]
        values, weights = [v for v, _ in pairs], [w for _, w in pairs]
    return sum(map(operator.mul, values, weights)), sum(weights)


def split_at_first_nonfinite(losses: Sequence[float | None]) -> list[slice]:
    """The whole as one slice, or up to three, of which one is just the first loss that is not finite."""
    whole = slice(0, len(losses))
    if math.isfinite(sum(known(losses))):
        return [whole]
    index = next((i for i, loss in enumerate(losses) if loss is not None and not math.isfinite(loss)), None)
    if index is None:  # every one is finite, their sum is not
        return [whole]
    parts = (slice(0, index), slice(index, index + 1), slice(index + 1, len(losses)))
    return [part for part in parts if part.start < part.stop]


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return sum(values) / len(values) if values else None
