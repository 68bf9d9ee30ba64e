"""On which calls of a loss function predictions are looked at, and labels counted. Neither is needed of every call."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from trimtab.capture.said import Said
from trimtab.sample.chance import next_call, tally
from trimtab.sample.criteria import LossCall, predictions
from trimtab.sample.spacing import Spacing

LOOKS_TOGETHER = 64  # at predictions in one step


class Looks:
    """Counts the calls of training, and reads those that are due of the loss function that it is compared by.

    `spacing` says how often predictions are looked at; labels are counted until the loss at chance is known.
    """

    def __init__(self, spacing: Spacing, clock: Callable[[], float]) -> None:
        self.calls = 0
        self.predictions = WholeSteps()
        self.labels = WholeSteps()
        self._spacing = spacing
        self._clock = clock
        self._spent_s = 0.0  # on predictions, in the step under way
        self._tallies = 0  # calls whose labels were counted
        self._numbers = math.inf  # that were counted, where labels are numbers

    @property
    def calls_left(self) -> float:
        """How many calls may pass until one is due."""
        return min(self.predictions.at - self.calls, self.labels_left)

    @property
    def labels_left(self) -> float:
        """How many calls may pass until labels are counted."""
        return self.labels.at - self.calls

    def read(self, call: LossCall, said: Said, started: float) -> None:
        """Add what is due of the newest call to what was `said`. `started`: when it began to be described."""
        if call.classes is not None and self.predictions.is_due(self.calls):
            self._look_at(call, said, started)
        if self.labels.is_due(self.calls):
            self._count_labels(call, said)

    def pass_over(self) -> None:
        """Nothing of the newest call is read."""
        self.predictions.is_passed = self.labels.is_passed = True

    def end_step(self) -> None:
        """A step is over."""
        first = self.predictions.first
        if self.predictions.end():
            of_step = self.calls - first + 1
            step = (self.calls - 1) // of_step
            self.predictions.at = self.calls + (self._spacing.after(step) - step - 1) * of_step
            self._spacing.cost(self._spent_s)
            self._spent_s = 0.0
        if self.labels.end() and self.labels.at < math.inf:
            self.labels.at = next_call(self.calls - 1, self._tallies, self._numbers)

    def begin_anew(self) -> None:
        """Labels are those of another loss function."""
        self._tallies, self._numbers, self.labels = 0, math.inf, WholeSteps(self.calls)

    def _look_at(self, call: LossCall, said: Said, started: float) -> None:
        found = predictions(call)
        self._spent_s += self._clock() - started
        if found is not None:
            said.predictions.append(found)
        if found is None or self.predictions.calls == LOOKS_TOGETHER:
            self.predictions.is_passed = True

    def _count_labels(self, call: LossCall, said: Said) -> None:
        found = tally(call)
        if found is None:
            self.labels.at = math.inf
            return
        if found.kind == "numbers":
            self._numbers = call.samples + (self._numbers if self._tallies else 0.0)
        self._tallies += 1
        said.labels.append(found)


@dataclass(slots=True, eq=False)
class WholeSteps:
    """Steps of which all calls are read, or none: of two in a step, for what is real and what is faked, one misleads.

    `at` is the call from which on the next such step may begin.
    """

    at: float = 0
    first: int = 0  # call that was read of the step under way, or of the newest of which one was
    calls: int = 0  # that were read of the step under way
    is_passed: bool = False  # whether one of it was not

    def is_due(self, call: int) -> bool:
        """Whether the call of that number, from 1, is read."""
        if self.is_passed or call <= self.at:
            self.is_passed = True
            return False
        if not self.calls:
            self.first = call
        self.calls += 1
        return True

    def end(self) -> bool:
        """The step is over: whether any of it was read."""
        was_read = self.calls > 0
        self.calls, self.is_passed = 0, False
        return was_read
