"""One optimizer that was seen to step, and what is known of its next step."""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from trimtab.capture.beginning import Beginning
from trimtab.capture.recorder import total
from trimtab.capture.share import Share
from trimtab.devices import is_recorded
from trimtab.sample.ledger import GradientSample, Ledger
from trimtab.sample.noise import FirstBackward
from trimtab.sample.readings import Due
from trimtab.sample.scalars import Held, hold
from trimtab.sample.updates import Weights


class Unjudged:
    """Steps that wait to be judged, see `Due`."""

    __slots__ = ("backwards", "found_inf", "losses", "samples")

    def __init__(self) -> None:
        self.losses: list[Held | None] = []
        self.samples: list[tuple[int, GradientSample]] = []
        self.backwards: list[tuple[int, int]] = []
        self.found_inf: list[tuple[int, Tensor]] = []

    def sampled(self, sample: GradientSample) -> None:
        """Gradients of the step whose loss follows. They replace what was sampled on it before."""
        place = len(self.losses)
        if self.samples and self.samples[-1][0] == place:
            self.samples.pop()
        self.samples.append((place, sample))

    def add(self, losses: Sequence[Held], found_inf: Held | None = None) -> None:
        """A step, with the losses of its backwards. `found_inf` on a device is asked together with them."""
        if len(losses) > 1:
            self.backwards.append((len(self.losses), len(losses)))
        if isinstance(found_inf, Tensor):
            self.found_inf.append((len(self.losses), found_inf))
        self.losses.append(total(losses))

    def take(self) -> Due:
        """All of them, which wait no more."""
        due = Due(self.losses, self.samples, self.backwards, self.found_inf)
        self.losses, self.samples, self.backwards, self.found_inf = [], [], [], []
        return due


class Tracked:
    """An optimizer that was seen to step, and what is known of its next step."""

    __slots__ = (
        "__weakref__", "beginning", "calls", "calls_before_scaler", "close_from", "ended_at", "evaluated",
        "evaluated_samples", "first", "found_inf", "hasty", "is_idle", "is_reloaded", "is_sampled", "judge_at",
        "judged", "ledger", "optimizer", "parameters", "sample_at", "share", "unjudged", "update_at", "weights",
        "weights_held",
    )  # fmt: skip

    def __init__(
        self,
        optimizer: Optimizer,
        ledger: Ledger,
        parameters: list[Tensor],
        share: Share,
        let_go: Callable[[Tracked], object] = lambda _: None,
    ) -> None:
        """`let_go` is called when the optimizer is gone, and no parameter is held for its sake any more."""
        self.optimizer = weakref.ref(optimizer, _letting_go(self, let_go))
        self.ledger = ledger
        self.parameters = parameters
        self.share = share
        self.beginning = Beginning(parameters)
        self.is_reloaded = False  # whether a state of its own was loaded since its last step
        self.is_idle = False  # whether the step that is under way finds no gradient
        self.calls = 0  # steps, taken or skipped
        self.calls_before_scaler: int | None = None  # when `GradScaler.step` last began with it, and it was not idle
        self.close_from: int | None = None  # the call from which on the first few are looked at closely once more
        self.sample_at = 0  # the call on which gradients are sampled next
        self.is_sampled = False  # whether they were, for the step that is under way
        self.update_at = 0  # ... and how far it moved the weights
        self.weights = Weights()
        self.weights_held = False  # for the step that is under way
        self.judge_at = 0  # the call on which rules are judged next
        self.hasty = 0  # steps that were judged out of turn since
        self.judged = False  # whether the step that is under way was
        self.unjudged = Unjudged()  # steps since
        self.ended_at: float | None = None
        self.evaluated: list[Held] | None = None  # the losses of a closure's first evaluation
        self.evaluated_samples = 0  # ... and the samples behind them, where no loader tells
        self.found_inf: Held | None = None
        self.first: FirstBackward | None = None  # of the step to come, where it has several and is to be sampled

    @property
    def general_at(self) -> float:
        """The call from which on a step is more than an ordinary one."""
        return min(self.sample_at, self.judge_at)

    @property
    def is_recorded(self) -> bool:
        """Whether its step goes into a CUDA graph now, and is taken when that is replayed."""
        return bool(self.parameters) and is_recorded(self.parameters[0])

    @property
    def is_left_out(self) -> bool:
        """Whether GradScaler has told the optimizer, a fused one, to leave this step out, as far as is known yet."""
        return isinstance(self.found_inf, float) and self.found_inf > 0

    def has_gradient(self, gradients: Tensor | Sequence[Tensor]) -> bool:
        """Whether the first of these is that of one of its parameters."""
        first = gradients if isinstance(gradients, Tensor) else next(iter(gradients), None)
        return first is not None and any(p.grad is first for p in self.parameters)

    def look_closely(self) -> None:
        """The next steps are looked at as the first ones of a run are."""
        self.close_from = self.sample_at = self.update_at = self.judge_at = self.calls

    def drop_sample(self) -> None:
        """Forget what was sampled for a step that did not end. The next one takes its place."""
        self.is_sampled, self.sample_at = False, self.calls
        self.ledger.drop_samples()

    def refresh(self, optimizer: Optimizer) -> list[Tensor]:
        """Look again at the parameters. Returns those that were there before, where they are others now.

        `add_param_group` adds some; programs that grow or prune put others in the place of those in a group.
        """
        before, parameters = self.parameters, parameters_of(optimizer)
        if len(parameters) == len(before) and all(map(operator.is_, parameters, before)):
            return []
        self.parameters = parameters
        return before


def _letting_go(tracked: Tracked, let_go: Callable[[Tracked], object]) -> Callable[[Any], None]:
    known, is_exiting = weakref.ref(tracked), sys.is_finalizing  # held, it would hold itself; exiting, names are gone

    def optimizer_is_gone(_: Any) -> None:
        tracked = None if is_exiting() else known()
        if tracked is not None:
            tracked.share.let_go()
            tracked.ledger.let_go()
            tracked.parameters, tracked.weights = [], Weights()  # which hold what a step that raised left there
            let_go(tracked)

    return optimizer_is_gone


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Every parameter of every group, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def rates_of(groups: Sequence[Mapping[str, Any]]) -> list[Held | None]:
    """The learning rate of every group, now: a scheduler may write to a rate that is a tensor."""
    return held([group.get("lr") for group in groups])


def held(rates: Sequence[Any]) -> list[Held | None]:
    """Learning rates, of which some may be tensors, as they are now."""
    return [hold(rate) if isinstance(rate, Tensor) else rate for rate in rates]
