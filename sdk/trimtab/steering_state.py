"""What a resumed run goes on with, however the one before it ended: written down after each adjustment."""

from __future__ import annotations

import time
from typing import Protocol

from trimtab import directory
from trimtab.guard import Guard
from trimtab.sample.meter import Meter
from trimtab.types import Adjustment, Alert, Event, RunInfo, Step

ANEW = "Scales, budgets and cooldowns begin anew."


class Steers(Protocol):
    """What is needed of the controller."""

    def state(self) -> dict[str, object]: ...
    def restore(self, state: dict[str, object]) -> None: ...


class SteeringState:
    """Reads and writes `steering.json`, on the thread that trains. Writing takes about 0.3 ms."""

    def __init__(self, run: RunInfo, controller: Steers, guard: Guard, meter: Meter) -> None:
        self._run = run
        self._controller = controller
        self._guard = guard
        self._meter = meter
        self._is_old = False  # something was adjusted since it was written

    def resume(self) -> list[str]:
        """Go on where the run of the same name was. Returns what to tell the user."""
        state, problem = directory.read_state(self._run)
        if state is not None and self._guard.attempt(lambda: self._controller.restore(state)) is not None:
            problem = f"{directory.STATE} is not what a run of this version writes"
        return [f"resume=True: {problem}. {ANEW}"] if problem else []

    def follow(self, event: Event) -> None:
        """Write with the next record of steps after an adjustment or an alert, when all that belongs to it is done."""
        if isinstance(event, Adjustment | Alert):
            self._is_old = True
        elif self._is_old and isinstance(event, Step):
            started = time.perf_counter()
            self.write()
            self._meter.add(time.perf_counter() - started)

    def write(self) -> None:
        """Write it now."""
        self._is_old = False
        self._guard.wrap("state", lambda: directory.write_state(self._run, self._controller.state()))()
