"""The loss at chance: that of the best answer that is the same for every input.

For cross entropy it is the entropy of the labels, H = -sum p log p with p the share of each class: ln 10 for ten
classes that come equally often, 3.25 nats for the characters of Python's own manual. With label smoothing or with
probabilities as targets p is the mean of what is wanted, and where that adds up to S, as with several classes wanted of
each input, H is larger by S log S; for binary cross entropy H is the mean over the outputs. What is counted gives an
entropy that is too low by (m - 1) / 2n, of m classes that came in n labels, which is added (Miller, "Note on the bias
of information estimates", 1955).

For the mean squared error it is the variance of the targets, a mean over the outputs, as that of the best constant is.
Targets that a network makes (a value, a teacher's answer) move while it learns: so the variance is known only while
twice as many targets have about the same one. Losses with weights, and any others, are not counted.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from trimtab.devices import widest
from trimtab.sample.criteria import FEW, Classes, LossCall, labels_of
from trimtab.sample.scalars import Held, Transfer, hold
from trimtab.sample.seclusion import secluded

FIRST = 8  # calls of a loss function whose labels are counted, at 100 us each; then every
THEN_EVERY = 16  # th one,
TALLIES = 256  # in all. There is a figure after the first ones, and another whenever there are twice as many
LABELS = 16  # for each class that came; of fewer the entropy is not known
MOST_CLASSES = 1 << 18  # or outputs
NUMBERS = 500  # targets of a regression: their variance is known to 6 % then, if it is that of a normal one
STEADY = 0.25  # by which the variance of twice as many may differ
SAME = 0.03  # the objective is the loss of the labels where it differs from it by no more than this share
COMPARED_EVERY = 16  # steps: a penalty may grow

_ENTROPIES = ("cross_entropy_loss", "nll_loss_nd")
_SQUARES = "mse_loss"

Kind: TypeAlias = Literal["classes", "binary", "numbers"]


def next_call(call: int, tallies: int, numbers: float = math.inf) -> float:
    """The call whose labels are counted after this one's, of which so many were. By number, so that runs are alike.

    `numbers`: how many targets of a regression were counted, if it is one.
    """
    if tallies >= TALLIES:
        return math.inf
    return call + 1 if tallies < FIRST or numbers < 2 * NUMBERS else (call // THEN_EVERY + 1) * THEN_EVERY


class Tally(NamedTuple):
    """What one call wanted: for each class how often, for each binary output how much, or of numbers two sums."""

    wanted: Tensor  # (classes,) or (outputs,), or (2, outputs): the sum of what is wanted and of its squares
    labels: Held  # in all, or of each output
    kind: Kind
    smoothing: float = 0.0


def is_counted(name: str, classes: Classes | None) -> bool:
    """Whether calls of this loss function may have a loss at chance."""
    return classes is not None or name == _SQUARES


@secluded
def tally(call: LossCall) -> Tally | None:
    """Count the labels of a call, where its loss is an entropy without weights. No synchronisation on a device."""
    target = call.target
    if not is_counted(call.name, call.classes) or call.weighted or type(target) is not Tensor or not target.numel():
        return None
    wide = widest(target.device)
    with torch.no_grad():
        if call.classes is None:
            return _numbers(call, target, wide)
        if call.classes != "multiclass":
            return _binary(target.detach(), wide) if call.input.shape == target.shape else None
        return _multiclass(call, target.detach(), wide) if call.name in _ENTROPIES else None


def _multiclass(call: LossCall, target: Tensor, wide: torch.dtype) -> Tally | None:
    axis = 0 if call.input.ndim == 1 else 1
    classes = call.input.shape[axis]
    if classes > MOST_CLASSES:
        return None
    if target.is_floating_point():  # a probability for each class
        wanted = target.movedim(axis, -1).reshape(-1, classes).sum(0, dtype=wide)
        return Tally(wanted, float(target.numel() // classes), "classes", call.smoothing)
    if target.is_cpu and max(target.numel(), classes) <= FEW:
        return _few(call, target, classes, wide)
    labels = labels_of(target).flatten()
    counted = torch.ones_like(labels, dtype=wide)
    if call.ignore_index is not None:  # what is ignored counts for nothing, as the first class
        ignored = labels == call.ignore_index
        counted, labels = counted.masked_fill_(ignored, 0.0), labels.masked_fill(ignored, 0)
    wanted = torch.zeros(classes, dtype=wide, device=target.device).scatter_add_(0, labels.long(), counted)
    return Tally(wanted, hold(counted.sum()), "classes", call.smoothing)


def _few(call: LossCall, target: Tensor, classes: int, wide: torch.dtype) -> Tally:
    """In plain Python, which takes half of the time: each kernel is cold when it is needed."""
    labels = [label for label in target.flatten().tolist() if label != call.ignore_index]
    wanted = [0.0] * classes
    for label in labels:
        wanted[label] += 1.0
    return Tally(torch.tensor(wanted, dtype=wide), float(len(labels)), "classes", call.smoothing)


def _binary(target: Tensor, wide: torch.dtype) -> Tally | None:
    outputs = target.reshape(1 if target.ndim == 0 else target.shape[0], -1)
    if outputs.shape[1] > MOST_CLASSES:
        return None
    return Tally(outputs.sum(0, dtype=wide), float(outputs.shape[0]), "binary")


def _numbers(call: LossCall, target: Tensor, wide: torch.dtype) -> Tally | None:
    """Not of targets that learn, too; nor where squares cannot be told from the square of their mean (no float64)."""
    if target.requires_grad or not target.is_floating_point() or call.input.shape != target.shape:
        return None
    outputs = target.reshape(1 if target.ndim == 0 else target.shape[0], -1)
    if outputs.shape[1] > MOST_CLASSES or wide is not torch.float64:
        return None
    variance, mean = torch.var_mean(outputs, 0, correction=0)
    mean = mean.to(wide)
    rows = float(outputs.shape[0])
    return Tally(torch.stack((mean, variance.to(wide) + mean.square())) * rows, rows, "numbers")


class Chance:
    """Gathers what is wanted over the first calls of one loss function, and tells the loss at chance."""

    def __init__(self) -> None:
        self._calls = 0
        self._sum: Tally | None = None
        self._labels: Held = 0.0
        self._cost: Transfer | None = None  # on its way, with the number of classes and of labels
        self._steps = 0
        self._same = True  # whether the objective is the loss that the labels are of
        self._comparison: Transfer | None = None
        self._was_asked = False
        self._value: float | None = None
        self._variance = 0.0  # that was known last

    @secluded
    def add(self, found: Tally) -> None:
        """Add what one call wanted."""
        so_far, labels = self._sum, found.labels
        if so_far is None:
            so_far, self._labels = found._replace(wanted=torch.zeros_like(found.wanted)), 0.0
        if so_far.wanted.shape != found.wanted.shape or so_far.kind != found.kind:
            return
        if so_far.wanted.device != found.wanted.device:  # the labels of one of them are enough
            return
        self._sum = found._replace(wanted=so_far.wanted + found.wanted)
        self._labels = self._labels + labels
        self._calls += 1
        if self._calls >= FIRST and self._calls & (self._calls - 1) == 0:
            cost, classes = _cost_of(self._sum.wanted / self._labels, self._sum)
            self._cost, self._was_asked = Transfer([hold(cost), hold(classes), self._labels]), False

    def compare(self, objective: Held | None, criterion: Held | None) -> None:
        """What backward was called on in one step, beside the loss function's own mean; None is not known."""
        turn, self._steps = self._steps % COMPARED_EVERY, self._steps + 1
        if turn or objective is None:
            return
        if criterion is None:
            self._same = False
        elif isinstance(objective, float) and isinstance(criterion, float):
            self._same = _are_near(objective, criterion)
        else:
            self._comparison, self._was_asked = Transfer([objective, criterion]), False

    def read(self) -> float | None:
        """The loss at chance, None where it is not known. What is on a device is read when this is asked again."""
        if self._cost is not None and (self._cost.immediate or self._was_asked):
            found, self._cost = self._cost.read(), None
            self._value = _corrected(*found) if self.is_exact else self._steady(*found)
        if self._comparison is not None and self._was_asked:
            self._same = _are_near(*self._comparison.read())
            self._comparison = None
        self._was_asked = True
        return self._value if self._same else None

    @property
    def is_exact(self) -> bool:
        """Whether a loss a little below it shows that something was learned. Numbers may be noise for the most part."""
        return self._sum is None or self._sum.kind != "numbers"

    def _steady(self, variance: float, _: float, numbers: float) -> float | None:
        before, self._variance = self._variance, variance
        if numbers < NUMBERS or not 0.0 < variance < math.inf:
            return None
        return variance if abs(variance - before) <= STEADY * variance else None


def _are_near(objective: float, criterion: float) -> bool:
    return abs(objective - criterion) <= SAME * abs(criterion)


def _corrected(entropy: float, classes: float, labels: float) -> float | None:
    if not 0.0 < entropy < math.inf or labels < LABELS * classes:  # NaN where a target was, or where none counted
        return None
    return entropy + (classes - 1) / (2 * labels)


@torch.no_grad()
def _cost_of(share: Tensor, of: Tally) -> tuple[Tensor, Tensor]:
    """The loss at chance (in nats, of labels), and how many classes came."""
    if of.kind == "numbers":
        mean, squares = share
        return (squares - mean.square()).mean(), torch.ones_like(mean[0])
    if of.kind == "binary":
        share = share.clamp(0.0, 1.0)
        each = torch.special.entr(share) + torch.special.entr(1.0 - share)
        return each.mean(), torch.full_like(each[0], 2.0)
    smoothed = share * (1.0 - of.smoothing) + of.smoothing / len(share)
    return torch.special.entr(smoothed).sum() - torch.special.entr(smoothed.sum()), (share > 0).sum()
