"""What a call of a loss function says, on one scale: as `reduction="mean"` would have said it.

`reduction="sum"` and `"none"` are divided by what "mean" divides by: the number of elements; with classes, the number
of targets that are not `ignore_index`, weighted by class where the loss is. `kl_div` is divided by the batch, since its
"sum" is what "batchmean" calls, and so is `ctc_loss`, whose target lengths a sum does not tell. The accuracy is the
share of counted targets that the prediction meets.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from trimtab.sample.scalars import Held, Transfer, hold, sum_of
from trimtab.sample.seclusion import modes, secluded

NONE, MEAN, SUM = 0, 1, 2  # torch.nn._reduction.get_enum

Classes: TypeAlias = Literal["multiclass", "binary_logits", "binary_probabilities"]

FEW, FEWER = 512, 64  # targets that are compared one by one, and that are counted one by one

OF_BATCH = ("kl_div", "ctc_loss")
OF_ROWS = (  # whose loss is one value for each row of the input
    "cosine_embedding_loss", "multilabel_margin_loss", "triplet_margin_loss", "MultiLabelSoftMarginLoss",
    "TripletMarginWithDistanceLoss",
)  # fmt: skip


@dataclass(slots=True)
class LossCall:
    """One call of a loss function, with its tensors. Lives no longer than the call that reports it."""

    name: str
    samples: int  # the batch size
    output: Tensor
    input: Tensor
    target: Tensor | None
    reduction: int
    classes: Classes | None = None
    weight: Tensor | None = None
    ignore_index: int | None = None
    weighted: bool = False  # whether some targets count more than others
    smoothing: float = 0.0  # of labels


@dataclass(frozen=True, slots=True)
class Criterion:
    """The mean loss of one batch. `weight` is how many targets are behind it, `samples` how many samples."""

    value: Held
    weight: Held
    samples: int
    by_element: bool = False  # the mean was taken here, of a loss that has a value for each element


class TrainingCriterion:
    """The loss function's own mean over training steps, where the objective is another one: scaled, or penalised.

    That is what a validation loss can be compared with. On a device its sums stay there until they are asked for.
    """

    BEGINNING = 8  # steps

    def __init__(self) -> None:
        self._first: Held = 0.0
        self._seen = 0
        self._sum: Held = 0.0
        self._count = 0  # since it was last asked for

    @secluded
    def add(self, value: Held) -> None:
        """Take the value of one step."""
        if self._seen < self.BEGINNING:
            self._first, self._seen = sum_of((self._first, value)), self._seen + 1
        self._sum, self._count = sum_of((self._sum, value)), self._count + 1

    def take(self) -> tuple[float, float] | None:
        """Its mean since this was last asked, and over the first steps of the run; None where it is the objective."""
        if not self._count:
            return None
        total, first = Transfer([self._sum, self._first]).read()
        mean = total / self._count
        self._sum, self._count = 0.0, 0
        return mean, first / self._seen


def criterion(call: LossCall) -> Criterion:
    """The normalised value of a call. Three small kernels at most, no synchronisation on a device.

    None at all for the mean over a few targets on the CPU: some loops call a loss function for each sample.
    """
    weight = _weight_of_few(call) if call.reduction == MEAN and call.output.numel() == 1 and not modes() else None
    return _criterion(call) if weight is None else Criterion(hold(call.output), weight, call.samples)


@secluded
@torch.no_grad()
def _criterion(call: LossCall) -> Criterion:
    counted = _counted(call)
    weight: Held = float(call.samples) if counted is None else hold(counted)
    if call.reduction == MEAN and call.output.numel() == 1:
        return Criterion(hold(call.output), weight, call.samples)
    total = call.output.detach().sum()
    return Criterion(hold(total / _divisor(call, counted)), weight, call.samples, call.reduction == NONE)


def weighted(criterion: Criterion) -> Held:
    """The value times its weight: 0 where nothing counts, although the mean of nothing is NaN."""
    weight, product = criterion.weight, criterion.value * criterion.weight
    if isinstance(weight, Tensor):
        return torch.where(weight > 0, product, 0.0)
    return product if weight > 0 else 0.0


@secluded
def mean_of(criteria: Sequence[Criterion], loss: Held | None = None) -> Held | None:
    """The mean over several batches, None where nothing counts. On a device that is not known yet: `loss` there."""
    weights = [criterion.weight for criterion in criteria]
    weight = sum_of(weights)
    if not isinstance(weight, Tensor) and weight == 0:
        return None
    mean = criteria[0].value
    if len(criteria) > 1:
        mean = sum_of([weighted(criterion) for criterion in criteria]) / weight
    if not isinstance(weight, Tensor):
        return mean
    if isinstance(loss, Tensor):
        loss = loss.to(weight.device, non_blocking=True)
    return torch.where(weight > 0, mean, math.nan if loss is None else loss)


@secluded
@torch.no_grad()
def predictions(call: LossCall) -> tuple[Held, Held] | None:
    """How many targets were met, and how many were counted; None where the loss knows no classes.

    Binary targets that are not 0 or 1 (a reconstruction) have no classes either: their count is 0.
    """
    if not isinstance(call.target, Tensor) or call.input.numel() == 0:
        return None
    if call.classes == "multiclass":
        return _multiclass(call, call.target)
    if call.classes is not None and call.input.shape == call.target.shape:
        threshold = 0.0 if call.classes == "binary_logits" else 0.5
        hard = ((call.target == 0) | (call.target == 1)).all()
        met = ((call.input > threshold) == (call.target > 0.5)).sum()
        return hold(met * hard), hold(hard * call.target.numel())
    return None


def _multiclass(call: LossCall, target: Tensor) -> tuple[Held, Held]:
    classes = 0 if call.input.ndim == 1 else 1
    predicted = call.input.argmax(classes)
    if predicted.is_cpu and target.is_cpu and target.numel() <= FEW and not target.is_floating_point():
        return _few(predicted, target, call.ignore_index)
    if target.is_floating_point():  # a probability for each class
        met = predicted == target.argmax(classes)
        return hold(met.sum()), float(met.numel())
    met = predicted == target
    if call.ignore_index is None:
        return hold(met.sum()), float(met.numel())
    valid = labels_of(target) != call.ignore_index
    return hold((met & valid).sum()), hold(valid.sum())


def _few(predicted: Tensor, target: Tensor, ignore_index: int | None) -> tuple[float, float]:
    """Plain Python takes half the time of the four kernels, whose code has left the caches when it is needed."""
    given, wanted = predicted.flatten().tolist(), target.flatten().tolist()
    met = sum(map(operator.eq, given, wanted))
    ignored = wanted.count(ignore_index)
    if ignored:
        met -= sum(one == other == ignore_index for one, other in zip(given, wanted, strict=True))
    return float(met), float(len(wanted) - ignored)


def labels_of(target: Tensor) -> Tensor:
    """Classes as whole numbers: as a byte -100 is 156, a class like any other, and an index of bytes is a mask."""
    return target.long() if target.dtype is torch.uint8 else target


def _weight_of_few(call: LossCall) -> float | None:
    """How many targets count, None where that takes a kernel."""
    target = call.target
    if call.ignore_index is None or not isinstance(target, Tensor) or target.is_floating_point():
        return float(call.samples)
    if not target.is_cpu or target.numel() > FEWER:
        return None
    given: list[int] = (target if target.ndim == 1 else target.flatten()).tolist()
    return float(len(given) - given.count(call.ignore_index))


def _counted(call: LossCall) -> Tensor | None:
    """The number of targets that count, where it can differ from the batch size."""
    target = call.target
    if call.ignore_index is None or not isinstance(target, Tensor) or target.is_floating_point():
        return None
    return (labels_of(target) != call.ignore_index).sum()


def _divisor(call: LossCall, counted: Tensor | None) -> int | Tensor:
    if counted is not None:
        if call.weight is None or call.target is None or call.ignore_index is None:
            return counted
        labels = labels_of(call.target)
        valid = labels != call.ignore_index
        return (call.weight[torch.where(valid, labels, 0)] * valid).sum()
    if call.name in OF_BATCH:
        return call.samples
    if call.reduction == NONE:
        return max(call.output.numel(), 1)
    if call.classes == "multiclass":  # class probabilities: one target a row
        return max(call.input.numel() // call.input.shape[1 if call.input.ndim > 1 else 0], 1)
    if call.name in OF_ROWS:
        return max(call.input.numel() // call.input.shape[-1], 1)
    if call.target is None or call.target.shape == call.input.shape:
        return max(call.input.numel(), 1)
    return max(math.prod(torch.broadcast_shapes(call.input.shape, call.target.shape)), 1)  # type: ignore[no-untyped-call]
