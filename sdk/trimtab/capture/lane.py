"""The short way of an ordinary step: a batch, a loss, a backward, clipping or none, the optimizer's step.

Most steps of most loops are alike. The lane knows what comes next in those, and awaits it: the pass over the loader,
the loss function, its output, the optimizer, and the arguments of its step, which the post-hook brings again. Each hook
(see `hooks`) compares what came with what is awaited, and is done after a few lines. Whatever else comes, the lane is
left: what it knows goes to the rooms that know every kind of step, which take over in the middle of the step.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import Any

from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.optim import Optimizer

from trimtab.capture.attribution import Attribution
from trimtab.capture.criteria import Criteria
from trimtab.capture.losses import BuiltinLoss
from trimtab.capture.models import Models
from trimtab.capture.passes import Passes
from trimtab.capture.recorder import Recorder
from trimtab.capture.steps import Steps
from trimtab.capture.tracked import Tracked
from trimtab.guard import Guard

LONGEST_REST = 255  # ordinary steps, after a lane that is left again and again
SHORT_STAY = 4  # steps, of a stay that was not worth it
NEVER = 1 << 60

first_of_list = list.__getitem__  # these raise TypeError for anything else, which saves asking for the type
first_of_tuple = tuple.__getitem__


class Hidden:
    """Hides what is awaited on a step of which more is asked: the meter times it, or its predictions are looked at."""

    __slots__ = ("awaited",)

    def __init__(self, awaited: object) -> None:
        self.awaited = awaited


NOT_ORDINARY = object()


class _Nothing:
    """What nobody brings."""


OUT = _Nothing()
BY_HAND = _Nothing()  # in the place of a loss function, and of its output: any scalar is the loss


class Lane:
    """What an ordinary step needs, in one place. `awaits` is `OUT` while steps take the long way."""

    __slots__ = (
        "_attribution", "_base", "_criteria", "_looked", "_models", "_passes", "_recorder", "_rest", "_resting",
        "_stay", "_steady", "_steps", "_tracked", "alike", "awaits", "clipped", "close_at", "ended_at", "epoch",
        "first", "first_of", "full", "guard", "is_shut", "ledger", "left_in_step", "looks", "loss", "model",
        "optimizer", "plain", "probe", "rates", "rows", "samples", "thread", "trying", "wait_s", "ways",
    )  # fmt: skip

    def __init__(
        self, steps: Steps, passes: Passes, criteria: Criteria, attribution: Attribution, models: Models,
        recorder: Recorder, guard: Guard,
    ) -> None:  # fmt: skip
        self._steps = steps
        self._passes = passes
        self._criteria = criteria
        self._attribution = attribution
        self._models = models
        self._recorder = recorder
        self.guard = guard
        self.ways: Any = None  # see `hooks`
        self.awaits: Any = OUT
        self.trying = 0  # the thread in which a way that is not ordinary is to say so, and do nothing
        self.looks = False  # whether predictions of the next step, or of this one, are looked at, or its labels counted
        self._looked = 0  # calls of the loss function that were counted when that was done
        self.alike = False  # whether every batch has as many samples as the one before it
        self.clipped: weakref.ref[Tensor]  # the first of the gradients that were clipped last
        self._tracked: Tracked
        self.probe: Any
        steps.roster.let_go = self._let_go
        self.first_of: Callable[[Any, int], Any] = first_of_list
        self._rest = self._resting = 0  # steps to wait after the next leave, and now
        self.is_shut = False  # for as long as something is to be done at every backward
        self.left_in_step: weakref.ref[Optimizer] | None = None  # who steps, or raised while it did

    def enter(self, optimizer: Optimizer) -> None:
        """A step has ended that took the long way. If it was an ordinary one, the next may take the short one."""
        if self.is_shut:
            return
        if self._resting:
            self._resting -= 1
            return
        tracked = self._steps.ordinary(optimizer)
        if tracked is None:
            return
        plain = BY_HAND if self._criteria.are_silent() else self._criteria.ordinary()
        model = self._models.only()
        if plain is None or model is None or self._recorder.pace.warming_up:
            return
        if self._attribution.only is not tracked.share or not tracked.share.ordinary or not self._passes.ordinary():
            return
        self._steady = self._passes.steady
        self._tracked, self.plain, self.model = tracked, plain, model
        self.first = plain if self._steady is None else self._steady
        self.optimizer, self.probe, self.ledger = tracked.optimizer, tracked.share.probe, tracked.ledger
        self.ended_at = max(tracked.ended_at or 0.0, self._passes.resumed_at)
        self.epoch, self.loss, self.rates = self._passes.epoch, tracked.share.losses[0], tracked.ledger.learning_rate
        self.samples, self.wait_s, self.thread = self._passes.batch_samples, 0.0, tracked.share.thread
        self.alike = self._steady is not None and self._steady.sized is not None and self._steady.each == self.samples
        self.rows, self._base, self._stay = self.ledger.rows, len(self.ledger.rows), 0
        if self._look_ahead():
            self._await_first()

    def _look_ahead(self) -> bool:
        """See how many steps may pass until one is due that takes the long way. False where it is the next one."""
        tracked, meter, steady = self._tracked, self._recorder.meter, self._steady
        ahead = min(tracked.general_at - tracked.calls, meter.turn_at - meter.steps)
        if steady is not None and steady.sized is not None:  # its last batch is an end
            ahead = min(ahead, steady.sized - 1 - steady.batches)
        calls = self._criteria.ordinary_calls()
        self.looks = calls <= 0
        self.full = len(self.rows) + int(min(ahead, max(calls, 1), NEVER))
        self.close_at = self.ledger.close_at
        return ahead > 0

    def look(self, loss: BuiltinLoss, output: Tensor, args: tuple[Any, ...]) -> None:
        """The loss function was called, of a step with `looks`."""
        started = time.perf_counter()
        self._looked = int(self._criteria.look(loss, output, args))
        self._recorder.meter.add(time.perf_counter() - started)

    def pause(self, optimizer: Optimizer, now: float) -> None:
        """A step has ended `now`, and something is due that is not part of each."""
        self._catch_up()
        self.ledger.groups = optimizer.param_groups
        if self.looks:
            self._recorder.looked(self.ledger)
        if now >= self.ledger.close_at:
            self._recorder.close(self.ledger)
            self.rows, self._base = self.ledger.rows, len(self.ledger.rows)
        meter = self._recorder.meter
        if meter.steps >= meter.turn_at:
            meter.turn()
        hooks: Any = optimizer
        is_as_before = self.probe.is_cpu and not hooks._optimizer_step_pre_hooks
        if is_as_before and self._look_ahead() and not self._steps.awaited:
            self._await_first()
        else:
            self.awaits = OUT
            self._hand_over(self.first)

    def unhide(self, ordinary: Callable[..., object], *args: Any) -> bool:
        """What came is not what was awaited: leave. But if that was hidden, go the `ordinary` way, and say True."""
        hidden = self.awaits
        if type(hidden) is not Hidden:
            self.leave()
            return False
        meter, self.awaits, self.trying = self._recorder.meter, hidden.awaited, get_ident()
        is_timed, started = meter.timing, time.perf_counter()
        try:
            is_ordinary = ordinary(*args) is not NOT_ORDINARY
        finally:
            self.trying = 0
        if not is_ordinary:
            self.leave()
            return False
        if is_timed:
            meter.hook(started)
        if (meter.timing or self.looks) and self.awaits is not OUT and type(self.awaits) is not Hidden:
            self.awaits = Hidden(self.awaits)
        return True

    def leave(self) -> None:
        """From here on every hook takes the long way, which finds everything as if it had been taken all along."""
        awaited, self.awaits = self.awaits, OUT
        if awaited is OUT:
            return
        self._hand_over(awaited.awaited if type(awaited) is Hidden else awaited)
        self._rest = min(2 * self._rest + 1, LONGEST_REST) if self._stay < SHORT_STAY else 0
        self._resting = self._rest

    def close(self) -> None:
        """Leave, and do not come back."""
        self._resting = NEVER
        self.leave()
        self._resting = NEVER

    def was_left_in_step(self, optimizer: Optimizer) -> bool:
        """Whether the lane was left while this optimizer stepped. Asked once, by its post-hook."""
        left = self.left_in_step
        if left is None or left() is not optimizer:
            return False
        self.left_in_step = None
        return True

    def _let_go(self, gone: Tracked) -> None:
        """Its optimizer is gone, and the probe is not held any more."""
        if getattr(self, "_tracked", None) is gone:
            self.probe = gone.share.probe

    def _await_first(self) -> None:
        is_hidden = self.looks or self._recorder.meter.next_is_timed
        self.awaits = Hidden(self.first) if is_hidden else self.first

    def _catch_up(self) -> None:
        """Count the steps that ended since the last time."""
        ended = self.rows[self._base :]
        steps = len(ended)
        self._base += steps
        self._stay += steps
        self._criteria.catch_up(steps - self._looked)
        self._looked = 0
        self._recorder.meter.steps += steps
        if self._steady is not None:
            self._steady.batches += steps
        tracked, self.ledger.learning_rate = self._tracked, self.rates
        tracked.calls += steps
        tracked.unjudged.losses += [row[0] for row in ended]
        if steps:
            tracked.ended_at = self.ended_at

    def _hand_over(self, awaited: object) -> None:
        """Leave everything as the long way would have, when `awaited` comes next."""
        is_looked_at = bool(self._looked)
        self._catch_up()
        if type(awaited) is Tensor and (awaited.is_meta or is_functorch_wrapped_tensor(awaited)):
            awaited = self.plain  # it is as if that loss was not called
        optimizer = self.optimizer()
        if optimizer is not None:
            self.ledger.groups = optimizer.param_groups
        is_called = type(awaited) is Tensor  # ... but backward is not yet
        is_trained = not is_called and awaited is not self.plain and awaited is not self.first
        self._tracked.share.catch_up(self.loss, applied=not is_trained)
        norms = self.ledger.preclip_norms
        if norms and norms[-1][0] == len(self.rows):
            self._steps.clipping.catch_up(self.clipped, norms.pop()[1], self.thread)
        if is_called or is_trained:
            samples = self.samples if self._steady is None else 0
            output = awaited if isinstance(awaited, Tensor) else None
            self._criteria.catch_up(1, output, samples, is_trained=is_trained, is_looked_at=is_looked_at)
        if self._steady is not None:
            fetched = awaited is not self.first
            self._passes.catch_up(self.samples, self.wait_s if fetched else None, is_trained=is_trained)
        if type(awaited) is tuple:
            self.left_in_step = self.optimizer
