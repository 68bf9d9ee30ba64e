"""Sums over an epoch's training and over a validation pass: means weighted by samples."""

from __future__ import annotations

import math
from collections.abc import Iterable

from trimtab.sample.criteria import Criterion, weighted
from trimtab.sample.ledger import Columns, Numbers, known, weighted_sum
from trimtab.sample.scalars import Held, Transfer, sum_of
from trimtab.sample.seclusion import secluded
from trimtab.types import PhaseSummary

SAME = 1e-9  # relative: sums of the same numbers in parts of other lengths


class PassSums:
    """The losses of one validation pass. On a device the sums stay there until the pass is read."""

    def __init__(self) -> None:
        self.batches = 0
        self.samples = 0
        self._loss: Held = 0.0
        self._weight: Held = 0.0
        self._met: Held = 0.0
        self._counted: Held = 0.0
        self._has_classes = False

    @secluded
    def add(self, criterion: Criterion, predictions: tuple[Held, Held] | None, samples: int) -> None:
        """Take one call of the loss function. A batch in which nothing counts adds nothing."""
        self.batches += 1
        self.samples += samples
        self._loss = sum_of((self._loss, weighted(criterion)))
        self._weight = sum_of((self._weight, criterion.weight))
        if predictions is not None:
            self._has_classes = True
            self._met = sum_of((self._met, predictions[0]))
            self._counted = sum_of((self._counted, predictions[1]))

    @secluded
    def add_pass(self, other: PassSums) -> None:
        """Fold another pass into this one."""
        self.batches += other.batches
        self.samples += other.samples
        self._loss = sum_of((self._loss, other._loss))
        self._weight = sum_of((self._weight, other._weight))
        self._met = sum_of((self._met, other._met))
        self._counted = sum_of((self._counted, other._counted))
        self._has_classes = self._has_classes or other._has_classes

    def summary(self) -> PhaseSummary:
        """Loss and accuracy of the pass. On a device this waits for the pass to be computed."""
        loss, weight, met, counted = Transfer([self._loss, self._weight, self._met, self._counted]).read()
        mean = loss / weight if weight else None
        classes = self._has_classes and counted > 0
        return PhaseSummary(
            loss=mean, criterion=mean, accuracy=met / counted if classes else None, samples=self.samples or None
        )


class EpochSums:
    """The training half of one epoch, fed with steps that are read already."""

    def __init__(self) -> None:
        self.steps = 0
        self.samples = 0
        self._objective = 0.0  # the sum of what was given to backward
        self._holds_sum = False
        self._loss = _Mean()
        self._summed = _Mean()  # the same where losses are sums over samples
        self._criterion = _Mean()
        self._accuracy = _Mean()

    def add(self, rows: Columns, *, holds_sum: bool = False, has_criterion: bool = True) -> None:
        """Take steps of this epoch.

        `holds_sum`: losses are sums over samples, those of all its steps, as far as is known by now.
        `has_criterion`: where none is given, a loss function's own mean was the objective; else it is not known.
        """
        self.steps += len(rows.loss)
        self.samples += sum(rows.samples)
        summed = sum(known(rows.loss))
        self._objective += summed
        self._holds_sum = holds_sum
        losses = rows.loss
        if any(map(_is_known, rows.mean_loss)):
            losses = [loss if mean is None else mean for loss, mean in zip(losses, rows.mean_loss, strict=True)]
            summed = sum(known(list(map(_sum_of, rows.loss, rows.mean_loss, rows.weight))))
        weighted, weight = weighted_sum(losses, rows.weight)
        self._loss.add(weighted, weight)
        self._summed.add(summed, weight)
        if any(map(_is_known, rows.criterion)):
            losses = [loss if own is None else own for loss, own in zip(losses, rows.criterion, strict=True)]
        if has_criterion:
            self._criterion.add(*weighted_sum(losses, rows.weight))

    def add_predictions(self, met: float, counted: float) -> None:
        """Take the predictions of one batch on which the accuracy was looked at."""
        if counted > 0:
            self._accuracy.add(met, counted)

    def tells_of(self, other: EpochSums) -> bool:
        """Whether both are of the same losses, and this one knows of the samples behind them."""
        is_same = math.isclose(self._objective, other._objective, rel_tol=SAME)
        return bool(self.samples) and self.steps == other.steps and is_same

    def summary(self) -> PhaseSummary | None:
        """None where no step was seen."""
        if not self.steps:
            return None
        counted = self._accuracy.weight
        return PhaseSummary(
            loss=(self._summed if self._holds_sum else self._loss).value(),
            criterion=self._criterion.value(),
            accuracy=self._accuracy.value(),
            samples=self.samples or None,
            accuracy_samples=int(counted) if counted and counted != self.samples else None,
        )


class TrainingSums:
    """The training halves of the epochs that have not ended, one for each optimizer that stepped in them."""

    def __init__(self) -> None:
        self._epochs: dict[int, dict[str, EpochSums]] = {}
        self._told_of = ""  # the optimizer that the last epoch told of

    def add(self, label: str, numbers: Numbers, *, holds_sum: bool = False, has_criterion: bool = True) -> None:
        """Take steps of the optimizer of this label, which may be of several epochs; see `EpochSums`."""
        rows = numbers.rows
        for epoch, part in rows.by_epoch():
            self._of(epoch, label).add(part, holds_sum=holds_sum, has_criterion=has_criterion)
        if rows.epoch:
            for row, met, counted in numbers.predictions:
                self._of(rows.epoch[min(row, len(rows.epoch) - 1)], label).add_predictions(met, counted)

    def end(self, epoch: int, labels: Iterable[str], *, is_fetched: bool) -> PhaseSummary | None:
        """An epoch is over: the sums of one of the optimizers that stepped in it, None where none did.

        That is the one of the epoch before, or else the first of `labels`. Where several step on one loss, the first of
        them knows of its samples. `is_fetched`: they all came from loaders. Each was counted once then, with whoever
        stepped first after its fetch, and the epoch's are those of all optimizers. Targets each counts for itself.
        """
        sums = self._epochs.pop(epoch, {})
        found = next((label for label in (self._told_of, *labels) if label in sums), None)
        if found is None:
            return None
        self._told_of, told = found, sums[found]
        if not told.samples:
            told = next((each for each in sums.values() if each.tells_of(told)), told)
        if is_fetched:
            told.samples = sum(each.samples for each in sums.values())
        return told.summary()

    def _of(self, epoch: int, label: str) -> EpochSums:
        return self._epochs.setdefault(epoch, {}).setdefault(label, EpochSums())


class _Mean:
    """A weighted mean. NaN in, NaN out: nothing is filtered."""

    def __init__(self) -> None:
        self.weight = 0.0
        self._sum = 0.0

    def add(self, weighted_sum: float, weight: float) -> None:
        self._sum += weighted_sum
        self.weight += weight

    def value(self) -> float | None:
        return self._sum / self.weight if self.weight else None


def _sum_of(loss: float | None, mean: float | None, weight: float) -> float | None:
    """The sum over samples, of which `mean` is known where that is all of the loss."""
    return loss if mean is None else mean * weight


def _is_known(value: float | None) -> bool:
    return value is not None
