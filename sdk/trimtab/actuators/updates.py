"""What one optimizer's updates use in place of what the schedule says."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trimtab.actuators import own_rates
from trimtab.actuators.clipping import Clip, clip, harmless_norm
from trimtab.actuators.decay import Decay
from trimtab.actuators.groups import Group, Placed, groups_of, held_by, optimizers_in
from trimtab.actuators.parts import owned_by
from trimtab.actuators.scales import Scale
from trimtab.actuators.skipping import Skip


@dataclass(slots=True)
class Settings:
    """What is asked of the next updates. Optimizers that step inside `backward` share one."""

    scale: Scale = field(default_factory=Scale)
    decay: Decay = field(default_factory=Decay)
    clip: Clip | None = None
    skip: bool = False
    clears: bool = False  # the gradients, after each update
    shared_by: int = 1  # optimizers
    _made: set[int] = field(default_factory=set)  # whose update was made since the scale went on

    @property
    def steers(self) -> bool:
        """Whether rates, decays or gradients are others than the optimizer's own, or will be."""
        rescales = self.scale.value != 1.0 or self.scale.target != 1.0 or self.decay.changes
        return rescales or self.clip is not None or self.clears

    @property
    def is_under_way(self) -> bool:
        """Whether a learning rate is still on its way to its scale, or clipping to its end."""
        return self.scale.is_under_way or (self.clip is not None and self.clip.is_counted)

    def clear(self) -> None:
        """Nothing is asked of the next updates."""
        self.rescale_no_more()
        self.clip, self.skip, self.clears = None, False, False
        self._made.clear()

    def rescale_no_more(self) -> None:
        """Rates and decays are the optimizer's own again."""
        self.scale, self.decay = Scale(), Decay()

    def begun(self, updates: Updates) -> None:
        """An update begins. One that was made already begins a new round, though others had none in the last."""
        if id(updates) in self._made:
            self._go_on()

    def made(self, updates: Updates) -> None:
        """An update was made: the scale goes on when all were."""
        self._made.add(id(updates))
        if len(self._made) >= self.shared_by:
            self._go_on()

    def _go_on(self) -> None:
        self._made.clear()
        self.scale.advance()


@dataclass(frozen=True, slots=True)
class Used:
    """What the last update used, group by group."""

    scale: float
    learning_rates: Sequence[Any]  # a float, a tensor of one element, or None where there is none
    weight_decays: Sequence[Any]


class Updates:
    """Around the updates of one optimizer: see `capture.surround`.

    The schedule's own values are saved and put back, never divided back. Without settings to apply nothing is touched.
    """

    def __init__(self, optimizer: Optimizer, settings: Settings, overwritten: Callable[[], None]) -> None:
        self.used: Used | None = None  # by the last update, None where it was the schedule's and the user's own
        self.skipped = False  # the last update
        self._settings = settings
        self._overwritten = overwritten
        self._held = [weakref.ref(each) for each in optimizers_in(optimizer)]
        self._placed = Placed()
        self._skip: Skip | None = None
        self._running = False  # from `begin` to `end`
        self._clipped = False

    def optimizers(self) -> list[Optimizer]:
        """The optimizer, and those that it holds."""
        return [optimizer for held in self._held if (optimizer := held()) is not None]

    def begin(self, optimizer: Optimizer, gradients_ready: bool) -> None:
        """Put ours in place for a new update. With `gradients_ready` also clip them, or take them away."""
        if self._running:  # the one before was broken off where nobody saw it, and much may have happened since
            self.leave()
            self._running, self._skip = False, None
        self.enter(optimizer, gradients_ready)

    def enter(self, optimizer: Optimizer, gradients_ready: bool) -> None:
        """The same in the middle of an update, where `leave` has put the schedule's in place."""
        if not self._running:
            self._running, self._clipped, self.skipped, self.used = True, False, False, None
            self._settings.begun(self)
        settings = self._settings
        if gradients_ready and settings.skip and self._skip is None:
            self._skip = Skip(self.optimizers())
        elif gradients_ready and settings.clip is not None and not settings.skip:
            self._clip(optimizer, settings.clip)
        scale, decays = settings.scale.value, settings.decay.changes
        if scale != 1.0 or decays:
            if decays:
                self._place_decays(groups_of(self.optimizers()))
            used = [group.get("weight_decay") for group in optimizer.param_groups]
            if scale != 1.0:  # after the decays, of which Adafactor's makes up for its lower rate
                self._scale_rates(scale)
            self.used = Used(scale, self._rates(optimizer, scale), used)
        if self._skip is not None:
            self._skip.hide()

    def leave(self) -> None:
        """Put the schedule's in place, for the length of a closure or of a hook."""
        self._placed.put_back()
        if self._skip is not None:
            self._skip.show()

    def end(self) -> None:
        """Put everything back, and count."""
        if not self._running:
            return
        self._running = False
        settings, skip, self._skip = self._settings, self._skip, None
        untouched = self._placed.put_back()
        if skip is not None:
            skip.undo()
            self.skipped, settings.skip = True, False
        if settings.clears:
            clear_gradients(self.optimizers())
        settings.made(self)
        if self._clipped and settings.clip is not None and settings.clip.is_counted:
            settings.clip.remaining -= 1
            if settings.clip.remaining <= 0:
                settings.clip = None
        if not untouched:
            self._overwritten()

    def _clip(self, optimizer: Optimizer, plan: Clip) -> None:
        scaled = self._settings.scale.value
        max_norm = harmless_norm(optimizer.param_groups, scaled) if plan.harmless else plan.norm_now()
        if max_norm is not None:
            scale: Any = getattr(optimizer, "grad_scale", None)
            clip(owned_by(optimizer), max_norm, scale if isinstance(scale, Tensor) else None)
            self._clipped = True

    def _rates(self, optimizer: Optimizer, scale: float) -> list[Any]:
        placed = [self._placed.product(group.get("lr")) for group in optimizer.param_groups]
        return [own_rates.shown(optimizer, rate, scale) for rate in placed]

    def _scale_rates(self, scale: float) -> None:
        scaled: set[int] = set()
        for optimizer in reversed(self.optimizers()):  # the innermost first: it may share groups with its holder
            if any(map(own_rates.has_own, held_by(optimizer))):
                continue
            for group in optimizer.param_groups:
                if "lr" in group and id(group) not in scaled:
                    scaled.add(id(group))
                    if own_rates.has_own(optimizer):
                        own_rates.place(self._placed, optimizer, group, scale)
                    else:
                        self._placed.multiply(group, "lr", scale)

    def _place_decays(self, groups: Sequence[Group]) -> None:
        decaying = [group for group in groups if is_number(group.get("weight_decay"))]
        values = self._settings.decay.of([group["weight_decay"] for group in decaying])
        for group, value in zip(decaying, values, strict=True):
            if value != group["weight_decay"]:
                self._placed.put(group, "weight_decay", value)


@torch.no_grad()
def clear_gradients(optimizers: Sequence[Optimizer]) -> None:
    """Set all gradients to 0 in place: code that reads them, or holds them, finds tensors as before."""
    for optimizer in optimizers:
        for parameter in owned_by(optimizer):
            if parameter.grad is not None:
                parameter.grad.zero_()


def is_number(value: Any) -> bool:
    """Whether it is a plain number, and neither a tensor nor None."""
    return isinstance(value, int | float) and not isinstance(value, bool)
