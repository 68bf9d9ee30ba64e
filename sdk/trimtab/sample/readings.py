"""What rules judge of a step: floats, once they have arrived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from trimtab.sample.gradients import combine
from trimtab.sample.ledger import GradientSample, Samples
from trimtab.sample.scalars import Held, Transfer
from trimtab.types import GradientReading

Point: TypeAlias = "tuple[float | None, GradientReading | None]"  # the loss and, where sampled, the gradients of a step


class Points(NamedTuple):
    """Steps that are to be judged together, on their way from tensors to numbers."""

    losses: Sequence[Held | None]
    samples: Samples
    transfer: Transfer

    @property
    def immediate(self) -> bool:
        """Whether reading costs no wait: nothing is on a device."""
        return self.transfer.immediate and all(t.ready() for _, s in self.samples for t in s.taken)

    def read(self) -> list[Point]:
        """One for each loss, in order."""
        values: Sequence[Held | None] = self.losses
        if not self.transfer.immediate:
            arrived = iter(self.transfer.read())
            values = [None if loss is None else next(arrived) for loss in self.losses]
        readings = {index: self._reading(sample) for index, sample in self.samples}
        return [(None if v is None else float(v), readings.get(index)) for index, v in enumerate(values)]

    def _reading(self, sample: GradientSample) -> GradientReading:
        moments = [each for taken in sample.taken for each in taken.read()]
        total = combine(moments)
        return GradientReading(
            norm=total.norm,
            finite=total.finite,
            layer_norms={n: m.norm for n, m in zip(sample.names, moments, strict=True) if n is not None},
            update_ratios=sample.update.read() if sample.update is not None else {},
        )


def points(losses: Sequence[Held | None], samples: Samples) -> Points:
    """Start the transfer of what is on a device."""
    return Points(losses, samples, Transfer([loss for loss in losses if loss is not None]))
