"""What rules judge of a step: floats, once they have arrived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from trimtab.sample.ledger import GradientSample, Samples
from trimtab.sample.moments import combine
from trimtab.sample.scalars import Held, Transfer
from trimtab.types import GradientReading


class Due(NamedTuple):
    """Steps that are to be judged together: their losses, and what belongs to some of them, by its place among these.

    `backwards` is of those that had several, of whose losses theirs is the sum; `found_inf` of fused optimizers with a
    GradScaler, which leave a step out without anybody being told.
    """

    losses: Sequence[Held | None]
    samples: Samples = ()
    backwards: Sequence[tuple[int, int]] = ()
    found_inf: Sequence[tuple[int, Tensor]] = ()  # on a device


class Point(NamedTuple):
    """A step: its loss, its gradients where they were sampled, or that it was none."""

    loss: float | None = None
    gradients: GradientReading | None = None
    backwards: int = 1  # so many losses added up
    is_skipped: bool = False


class Points(NamedTuple):
    """The same steps on their way from tensors to numbers."""

    due: Due
    transfer: Transfer  # of the losses that there are, and of `found_inf`

    @property
    def immediate(self) -> bool:
        """Whether reading costs no wait: nothing is on a device."""
        return self.transfer.immediate and all(t.ready() for _, s in self.due.samples for t in s.taken)

    def read(self) -> list[Point]:
        """One for each loss, in order."""
        arrived = iter(self.transfer.read())
        values = [None if loss is None else next(arrived) for loss in self.due.losses]
        skipped = {index for index, _ in self.due.found_inf if next(arrived) > 0}
        readings = {index: self._reading(sample) for index, sample in self.due.samples}
        backwards = dict(self.due.backwards)
        return [
            Point(is_skipped=True) if index in skipped else Point(value, readings.get(index), backwards.get(index, 1))
            for index, value in enumerate(values)
        ]

    def _reading(self, sample: GradientSample) -> GradientReading:
        moments = [each for taken in sample.taken for each in taken.read()]
        total = combine(moments)
        return GradientReading(
            norm=total.norm,
            finite=total.finite,
            layer_norms={n: m.norm for n, m in zip(sample.names, moments, strict=True) if n is not None},
            update_ratios=sample.update.read() if sample.update is not None else {},
            update_rate=sample.update.rate if sample.update is not None else None,
        )


def points(due: Due) -> Points:
    """Start the transfer of what is on a device."""
    losses = [loss for loss in due.losses if loss is not None]
    return Points(due, Transfer([*losses, *(found for _, found in due.found_inf)]))
