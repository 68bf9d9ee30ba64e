"""How often a run does what is costly: what a share of the overhead budget allows, and what was asked for."""

from __future__ import annotations

import math

from trimtab.sample.spacing import Spacing

GRADIENT_SHARE = 0.1  # of the overhead budget: what is left is for hooks, judging, records and backends, and for noise
ACCURACY_SHARE = 0.1
UPDATE_SHARE = 0.025
JUDGED_EVERY_S = 0.1
JUDGED_TOGETHER = 64  # steps, at most
WATCHED_EVERY_S = 0.5  # instead, where nothing can come of it but a word
WATCHED_TOGETHER = 256
UPDATES_EVERY = 8  # samples of gradients, where their interval is given: a comparison costs as much as a sample


class Pace:
    """The spacing of gradient statistics, of training accuracy and of update ratios, and that of judging.

    `overhead` is the share of the run's time that watching may cost; `gradients_every` fixes the steps instead.
    """

    def __init__(self, overhead: float, gradients_every: int | None) -> None:
        self.gradients = Spacing(GRADIENT_SHARE * overhead, gradients_every)
        self.accuracy = Spacing(ACCURACY_SHARE * overhead, 1 if gradients_every == 1 else None)
        self.updates = Spacing(
            UPDATE_SHARE * overhead, None if gradients_every is None else UPDATES_EVERY * gradients_every
        )
        self.warming_up = True  # until gradients and accuracy have settled
        self._later_step_s = math.inf  # the shortest mean of those that were over the budget

    @property
    def step_s(self) -> float | None:
        """The time of a step; None where spacing is fixed, since then nothing may depend on it."""
        return self._step_s if self.gradients.fixed is None else None

    def settle(self, step_seconds: float) -> None:
        """A step of the warm-up took this long."""
        self.gradients.step(step_seconds)
        self.accuracy.step(step_seconds)
        self.updates.step(step_seconds)
        has_accuracy = self.accuracy.is_used  # some losses know no classes
        has_settled = self.gradients.settled and (self.accuracy.settled or not has_accuracy)
        self.warming_up = not (has_settled and self.gradients.median_step_s is not None)

    def widen(self, step_s: float) -> None:
        """The run is over its budget: do half as often what has become dearer than its share of steps of `step_s`.

        Where those of the warm-up took longer, rules are judged less often too.
        """
        for spacing in (self.gradients, self.accuracy, self.updates):
            spacing.widen(step_s)
        self._later_step_s = min(self._later_step_s, step_s)

    def judging_interval(self, acts: bool) -> int:
        """Every how many steps rules are judged: ten times a second or every 64th step where something `acts` on it.

        Where nothing does, twice a second or every 256th step.
        """
        fixed = self.gradients.fixed
        if acts and fixed is not None:  # the same steps in every run, and all that are sampled
            return max(i for i in range(1, JUDGED_TOGETHER + 1) if fixed % i == 0)
        every_s, most = (JUDGED_EVERY_S, JUDGED_TOGETHER) if acts else (WATCHED_EVERY_S, WATCHED_TOGETHER)
        interval, step_s = 1, self._step_s
        while step_s is not None and interval < most and interval * step_s < every_s:
            interval *= 2
        return interval

    @property
    def _step_s(self) -> float | None:
        settled = self.gradients.median_step_s
        return None if settled is None else min(settled, self._later_step_s)
