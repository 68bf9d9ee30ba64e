"""Where a run stands, as the console shows it: the last known values, and means since the last epoch."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trimtab.types import Step

RECENT = 20


class Progress:
    """Takes training steps; keeps no more than the last values of each optimizer and `RECENT` losses."""

    def __init__(self) -> None:
        self.step = 0
        self.epoch: int | None = None
        self.batch: int | None = None
        self.batches: int | None = None
        self.loss: dict[str, float] = {}  # by optimizer, as the two below
        self.learning_rate: dict[str, Sequence[float | None]] = {}
        self.gradient_norm: dict[str, float] = {}
        self.losses: deque[float] = deque(maxlen=RECENT)  # one a tick
        self.steps_per_second: float | None = None
        self._epoch_began: tuple[float, int] | None = None  # time and batch at its first record
        self._now = 0.0
        self._since_tick = _Means()
        self._since_epoch = _Means()
        self.began_after = 0  # the last step of the epoch before this one
        self._rates: dict[str, int | None] = {}  # the epoch in which an optimizer used that learning rate
        self._norms: dict[str, int | None] = {}
        self._taken: dict[str, int] = {}  # the last step of the newest record of an optimizer
        self._normed_after: dict[str, int] = {}  # ... of the one before that which has the norm

    def take(self, step: Step) -> None:
        self.step, self._now = max(self.step, step.step), step.ts
        taken, self._taken[step.optimizer] = self._taken.get(step.optimizer, 0), step.step
        if step.loss is not None:
            self.loss[step.optimizer] = step.loss
        if step.learning_rate is not None:
            self.learning_rate[step.optimizer] = step.learning_rate
            self._rates[step.optimizer] = step.epoch
        if step.gradient_norm is not None:
            self.gradient_norm[step.optimizer] = step.gradient_norm
            self._norms[step.optimizer] = step.epoch
            self._normed_after[step.optimizer] = taken
        if step.epoch != self.epoch or (step.batch or 0) < (self.batch or 0):
            self._epoch_began = None if step.batch is None else (step.ts, step.batch)
        self.epoch, self.batch, self.batches = step.epoch, step.batch, step.batches
        for means in (self._since_tick, self._since_epoch):
            means.take(step, with_loss=step.optimizer == next(iter(self.loss), ""))

    def tick(self) -> None:
        """About once a second: a point of the sparkline is the mean loss of the first optimizer since the last one."""
        tick, self._since_tick = self._since_tick, _Means()
        if tick.loss is not None:
            self.losses.append(tick.loss)
        if tick.seconds is not None:
            self.steps_per_second = 1.0 / tick.seconds if tick.seconds else None

    def end_epoch(self, epoch: int) -> None:
        """A record that came before the end of `epoch` may be of the next one already: short ones share records."""
        self._since_epoch = _Means()
        self._rates, self._norms = _later(self._rates, epoch), _later(self._norms, epoch)

    def rates_in(self, epoch: int) -> dict[str, Sequence[float | None]]:
        """The newest learning rates, of those optimizers that used them in `epoch`."""
        return {name: rates for name, rates in self.learning_rate.items() if self._rates.get(name, 0) in (epoch, None)}

    def norms_in(self, epoch: int) -> dict[str, float]:
        """The newest gradient norms likewise, where they are means over steps of no other epoch."""
        earliest = self.began_after - len(self._taken) + 1  # others may have made the last steps of the epoch before
        return {
            name: norm
            for name, norm in self.gradient_norm.items()
            if self._norms.get(name, 0) in (epoch, None) and self._normed_after[name] >= earliest
        }

    @property
    def step_seconds(self) -> float | None:
        """Mean time of a step since the last epoch ended."""
        return self._since_epoch.seconds

    @property
    def wait_share(self) -> float | None:
        """Share of that time in which training waited for the loader. None where no loader was asked."""
        return self._since_epoch.wait_share

    @property
    def seconds_to_go(self) -> float | None:
        """Until the epoch ends, at the pace of this epoch; None where its length is not known."""
        if self._epoch_began is None or self.batch is None or self.batches is None:
            return None
        began, first = self._epoch_began
        done = self.batch - first
        return (self.batches - self.batch) * (self._now - began) / done if done > 0 else None


class _Means:
    """Means over records, each weighted by the steps that it stands for."""

    def __init__(self) -> None:
        self._timed = self._seconds = self._waited = 0.0
        self._lossy = self._losses = 0.0

    def take(self, step: Step, *, with_loss: bool) -> None:
        if step.step_seconds is not None:
            self._timed += step.steps
            self._seconds += step.steps * step.step_seconds
            self._waited += step.steps * (step.data_wait_seconds or 0.0)
        if with_loss and step.loss is not None:
            self._lossy += step.steps
            self._losses += step.steps * step.loss

    @property
    def loss(self) -> float | None:
        return self._losses / self._lossy if self._lossy else None

    @property
    def seconds(self) -> float | None:
        return self._seconds / self._timed if self._timed else None

    @property
    def wait_share(self) -> float | None:
        return self._waited / self._seconds if self._waited else None


def _later(epochs: dict[str, int | None], ended: int) -> dict[str, int | None]:
    """Those that are not over. None: not known, and then that of the next epoch to end."""
    return {name: epoch for name, epoch in epochs.items() if epoch is not None and epoch > ended}
