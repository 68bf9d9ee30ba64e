"""What a run tells of itself every few seconds: what watching costs, what backends lost, and that it is alive."""

from __future__ import annotations

import time
from collections.abc import Callable

from trimtab.bus import Bus
from trimtab.sample.books import Books
from trimtab.sample.meter import Meter
from trimtab.sample.pace import Pace
from trimtab.types import Health, Step

INTERVAL_S = 5.0
ALIVE_INTERVAL_S = 30.0  # without a word from the loop; servers call a run hung after ten minutes at the earliest


class HealthReport:
    """Reads the meter and the bus, spaces statistics further out where they cost too much, and says all of it.

    `elsewhere_s` is what other threads of ours have taken, in seconds; `recorded` gets what rules judge;
    `hung_after_s` is the watchdog's limit.
    """

    def __init__(
        self,
        bus: Bus,
        meter: Meter,
        books: Books,
        pace: Pace,
        *,
        budget: float,
        elsewhere_s: Callable[[], float],
        hung_after_s: Callable[[], float | None],
        recorded: Callable[..., None],
    ) -> None:
        self._bus, self._meter, self._books, self._pace = bus, meter, books, pace
        self._budget = budget
        self._elsewhere_s, self._hung_after_s = elsewhere_s, hung_after_s
        self._recorded = recorded
        self._began = self._told_at = time.perf_counter()
        self._spent_s = 0.0  # as of the last report, as are the two below
        self._steps = 0
        self._errors = 0

    def begin(self) -> None:
        """Training begins now: what came before it is no part of the run's time."""
        self._began = self._told_at = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long the run has lasted."""
        return time.perf_counter() - self._began

    @property
    def due(self) -> bool:
        """Whether it is time for the next report."""
        return time.perf_counter() - self._told_at > INTERVAL_S

    def publish(self, *, last: bool = False) -> None:
        """Say where the run stands. What is measured over less than half an interval, or as the last, is not judged."""
        now = time.perf_counter()
        spent_s = self._meter.seconds + self._bus.busy_seconds() + self._elsewhere_s()
        errors, steps = sum(self._bus.errors().values()), self._meter.steps
        window_s, more_s = now - self._told_at, spent_s - self._spent_s
        more_errors, more_steps = errors - self._errors, steps - self._steps
        self._told_at, self._spent_s, self._errors, self._steps = now, spent_s, errors, steps
        if window_s > INTERVAL_S / 2:
            if more_steps and more_s > self._budget * window_s:
                self._pace.widen(window_s / more_steps)
            if not last:
                excess = more_s / window_s / self._budget if self._budget else 0.0
                self._recorded(overhead_excess=excess, backend_errors=float(more_errors))
        self._bus.publish(self._state())

    def judge(self, step: Step) -> None:
        """Judge what a record of steps says of the run itself."""
        if step.step_seconds:
            self._recorded(data_wait_share=(step.data_wait_seconds or 0.0) / step.step_seconds)
        if step.samples and step.gradient_noise_scale is not None:
            self._recorded(gradient_noise_ratio=step.gradient_noise_scale * step.steps / step.samples)

    def alive(self) -> None:
        """The loop moves on, though it may have nothing to say for long: a validation pass is told of at its end.

        On the watchdog's thread, so nothing is judged.
        """
        if time.perf_counter() - self._told_at > ALIVE_INTERVAL_S:
            self._bus.publish(self._state(moved_on_at=time.time()))

    def _state(self, moved_on_at: float | None = None) -> Health:
        return Health(
            ts=time.time(),
            step=self._books.global_step,
            overhead_seconds=self._spent_s,
            overhead_ratio=self._spent_s / max(self.seconds, 1e-9),
            gradient_interval_steps=self._pace.gradients.interval,
            dropped=self._bus.dropped(),
            backend_errors=self._bus.errors(),
            hung_after_seconds=self._hung_after_s(),
            moved_on_at=moved_on_at,
        )
