"""What a resumed run goes on with, however the one before it ended: written down after each adjustment and alert."""

from __future__ import annotations

import time
from typing import Any, Protocol

from trimtab import directory
from trimtab.guard import Guard
from trimtab.sample.meter import Meter
from trimtab.types import Adjustment, Alert, Event, RunInfo, Step

SHARE = 0.001  # of the time: a rename over a file flushes it on some file systems, 4 ms on ext4 here
ANEW = "Scales, budgets and cooldowns begin anew."


class Steers(Protocol):
    """What is needed of the controller."""

    @property
    def is_under_way(self) -> bool: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class SteeringState:
    """Reads and writes `steering.json`, on the thread that trains."""

    def __init__(self, run: RunInfo, controller: Steers, guard: Guard, meter: Meter) -> None:
        self._run = run
        self._controller = controller
        self._guard = guard
        self._meter = meter
        self._is_old = False  # something has happened since it was written, or something was under way then
        self._alerted_at = 0  # the step of an alert, which may be answered after the record of that step
        self._next_at = 0.0  # on the clock of `time.perf_counter`

    def resume(self) -> list[str]:
        """Go on where the run of the same name was. Returns what to tell the user."""
        state, problem = directory.read_state(self._run)
        if state is not None and self._guard.attempt(lambda: self._controller.restore(state)) is not None:
            problem = f"{directory.STATE} is not what a run of this version writes"
        self._is_old = state is not None and not problem  # what was under way goes on with the first step
        return [f"resume=True: {problem}. {ANEW}"] if problem else []

    def follow(self, event: Event) -> None:
        """Write with the next record of steps after an adjustment, when all that belongs to it is done.

        And after an alert, as episodes are numbered on: with that of a later step.
        """
        if isinstance(event, Adjustment | Alert):
            if isinstance(event, Alert) and not self._is_old:
                self._alerted_at = event.step
            self._is_old = True
        elif (
            self._is_old
            and isinstance(event, Step)
            and event.step > self._alerted_at
            and (started := time.perf_counter()) >= self._next_at
        ):
            self.write()
            ended = time.perf_counter()
            self._next_at = ended + (ended - started) / SHARE
            self._meter.add(ended - started)

    def given(self) -> None:
        """The user gave the run another state: write it with the next record."""
        self._is_old = True

    def write(self) -> None:
        """Write it now; where there is no room, with a later record."""
        self._is_old = True
        self._guard.wrap("state", self._put)()

    def _put(self) -> None:
        directory.write_state(self._run, self._controller.state())
        self._is_old = self._controller.is_under_way
