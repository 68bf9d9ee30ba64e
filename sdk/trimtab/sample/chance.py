"""The loss at chance: that of the best answer that is the same for every input.

For cross entropy it is the entropy of the labels, H = -sum p log p with p the share of each class: ln 10 for ten
classes that come equally often, 3.25 nats for the characters of Python's own manual. With label smoothing or with
probabilities as targets p is the mean of what is wanted; for binary cross entropy H is the mean over the outputs. What
is counted gives an entropy that is too low by (m - 1) / 2n, of m classes that came in n labels, which is added (Miller,
"Note on the bias of information estimates", 1955). Losses with weights, and those that are no entropy, are not counted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.devices import widest
from trimtab.sample.criteria import FEW, LossCall
from trimtab.sample.scalars import Held, Transfer, hold
from trimtab.sample.seclusion import secluded

FIRST = 8  # calls of a loss function whose labels are counted, at 100 us each; then every
THEN_EVERY = 16  # th one,
TALLIES = 256  # in all. There is a figure after the first ones, and another whenever there are twice as many
LABELS = 16  # for each class that came; of fewer the entropy is not known
MOST_CLASSES = 1 << 18
SAME = 0.03  # the objective is the loss of the labels where it differs from it by no more than this share
COMPARED_EVERY = 16  # steps: a penalty may grow

_ENTROPIES = ("cross_entropy_loss", "nll_loss_nd")


def next_call(call: int, tallies: int) -> float:
    """The call whose labels are counted after this one's, of which so many were. By number, so that runs are alike."""
    if tallies >= TALLIES:
        return math.inf
    return call + 1 if tallies < FIRST else (call // THEN_EVERY + 1) * THEN_EVERY


class Tally(NamedTuple):
    """What one call wanted: for each class how often, or for each binary output how much."""

    wanted: Tensor  # (classes,) or (outputs,)
    labels: Held  # in all, or of each output
    binary: bool
    smoothing: float


@secluded
def tally(call: LossCall) -> Tally | None:
    """Count the labels of a call, where its loss is an entropy without weights. No synchronisation on a device."""
    target = call.target
    if call.classes is None or call.weighted or type(target) is not Tensor or not target.numel():
        return None
    wide = widest(target.device)
    with torch.no_grad():
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
        return Tally(wanted, float(target.numel() // classes), False, call.smoothing)
    if target.is_cpu and max(target.numel(), classes) <= FEW:
        return _few(call, target, classes, wide)
    labels = target.flatten()
    counted = torch.ones_like(labels, dtype=wide)
    if call.ignore_index is not None:  # what is ignored counts for nothing, as the first class
        ignored = labels == call.ignore_index
        counted, labels = counted.masked_fill_(ignored, 0.0), labels.masked_fill(ignored, 0)
    wanted = torch.zeros(classes, dtype=wide, device=target.device).scatter_add_(0, labels.long(), counted)
    return Tally(wanted, hold(counted.sum()), False, call.smoothing)


def _few(call: LossCall, target: Tensor, classes: int, wide: torch.dtype) -> Tally:
    """In plain Python, which takes half of the time: each kernel is cold when it is needed."""
    labels = [label for label in target.flatten().tolist() if label != call.ignore_index]
    wanted = [0.0] * classes
    for label in labels:
        wanted[label] += 1.0
    return Tally(torch.tensor(wanted, dtype=wide), float(len(labels)), False, call.smoothing)


def _binary(target: Tensor, wide: torch.dtype) -> Tally | None:
    outputs = target.reshape(1 if target.ndim == 0 else target.shape[0], -1)
    if outputs.shape[1] > MOST_CLASSES:
        return None
    return Tally(outputs.sum(0, dtype=wide), float(outputs.shape[0]), True, 0.0)


class Chance:
    """Gathers what is wanted over the first calls of one loss function, and tells the loss at chance."""

    def __init__(self) -> None:
        self._calls = 0
        self._sum: Tally | None = None
        self._labels: Held = 0.0
        self._entropy: Transfer | None = None  # on its way, with the number of classes and of labels
        self._steps = 0
        self._same = True  # whether the objective is the loss that the labels are of
        self._comparison: Transfer | None = None
        self._was_asked = False
        self._value: float | None = None

    @secluded
    def add(self, found: Tally) -> None:
        """Add what one call wanted."""
        so_far, labels = self._sum, found.labels
        if so_far is None:
            so_far, self._labels = found._replace(wanted=torch.zeros_like(found.wanted)), 0.0
        if so_far.wanted.shape != found.wanted.shape or so_far.binary != found.binary:
            return
        if so_far.wanted.device != found.wanted.device:  # the labels of one of them are enough
            return
        self._sum = found._replace(wanted=so_far.wanted + found.wanted)
        self._labels = self._labels + labels
        self._calls += 1
        if self._calls >= FIRST and self._calls & (self._calls - 1) == 0:
            entropy, classes = _entropy_of(self._sum.wanted / self._labels, self._sum)
            self._entropy, self._was_asked = Transfer([hold(entropy), hold(classes), self._labels]), False

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
        if self._entropy is not None and (self._entropy.immediate or self._was_asked):
            self._value = _corrected(*self._entropy.read())
            self._entropy = None
        if self._comparison is not None and self._was_asked:
            self._same = _are_near(*self._comparison.read())
            self._comparison = None
        self._was_asked = True
        return self._value if self._same else None


def _are_near(objective: float, criterion: float) -> bool:
    return abs(objective - criterion) <= SAME * abs(criterion)


def _corrected(entropy: float, classes: float, labels: float) -> float | None:
    if entropy <= 0.0 or labels < LABELS * classes:
        return None
    return entropy + (classes - 1) / (2 * labels)


@torch.no_grad()
def _entropy_of(share: Tensor, of: Tally) -> tuple[Tensor, Tensor]:
    """In nats, and how many classes came."""
    if of.binary:
        share = share.clamp(0.0, 1.0)
        each = torch.special.entr(share) + torch.special.entr(1.0 - share)
        return each.mean(), torch.full_like(each[0], 2.0)
    smoothed = share * (1.0 - of.smoothing) + of.smoothing / len(share)
    return torch.special.entr(smoothed).sum(), (share > 0).sum()
