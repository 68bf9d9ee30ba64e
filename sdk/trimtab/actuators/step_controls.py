"""The part of `Controls` that acts around a step: rate, weight decay, dropout, clipping, clearing, skipping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from trimtab.actions import FOR_GOOD, Change, Refused
from trimtab.actuators import own_rates
from trimtab.actuators.clipping import Clip, check_clippable, harmless_norm, is_plain
from trimtab.actuators.groups import Group, groups_of, optimizers_in
from trimtab.actuators.scales import bounded
from trimtab.actuators.skipping import check_skippable
from trimtab.actuators.steering import Steered, Steering
from trimtab.actuators.updates import clear_gradients, is_number

# Whose update is not proportional to the rate: by the names of their classes, whatever package they come from.
NOT_PROPORTIONAL = ("Prodigy", "DAdapt", "MADGRAD", "MirrorMADGRAD", "Adafactor")  # torch's own: see `own_rates`
GONE = "The optimizer is gone, or has not been seen to step."
DECOUPLED = ("AdamW", "SGD", "ASGD", "Lion", "Muon", "LAMB", "Lamb", "SophiaG")


class StepControls:
    """Controls of one optimizer, by its label. Every method may raise `Refused`; then nothing was changed."""

    def __init__(self, steering: Steering, label: str) -> None:
        self._steering = steering
        self._steered: Steered = steering.steered(label)

    def scale_learning_rate(
        self, factor: float, *, floor: float = 0.0, ceiling: float = math.inf, ramp: int = 0
    ) -> Change:
        """Multiply the scale of the learning rate, from the next update on; the schedule goes on beneath it.

        `floor` and `ceiling` bound the scale, which is reached in `ramp` equal steps.
        """
        groups = self._groups("lr", "has no learning rate to scale: the optimizer computes its own")
        scale = self._steered.settings.scale
        before = scale.target
        refusal = own_rates.refusal(self._optimizers(), bounded(before, factor, floor, ceiling))
        if refusal:
            raise Refused(refusal)
        self._steering.surround(self._steered)
        scale.multiply(factor, floor=floor, ceiling=ceiling, ramp=ramp)
        return Change(
            {"learning_rate_scale": before, **_rates(groups, before)},
            {"learning_rate_scale": scale.target, **_rates(groups, scale.target)},
            own_rates.note(self._optimizers(), scale.target) or _note(self._optimizers(), groups),
        )

    def normalizes(self) -> bool:
        """Whether the optimizer divides by the size of gradients: anything but SGD, as far as its groups tell."""
        return not all(is_plain(group) for optimizer in self._optimizers() for group in optimizer.param_groups)

    def averages(self) -> bool:
        """Whether any group steps along an average of gradients, as with momentum or in Adam, as far as they tell."""
        momenta = [1.0 if "betas" in group else group.get("momentum") for group in groups_of(self._optimizers())]
        return any(momentum > 0 for momentum in momenta if isinstance(momentum, int | float))

    def decay(self) -> float:
        """That of its average of squares, if its first steps are longer for it: see `own_rates.decay`."""
        return own_rates.decay(self._optimizers())

    def scale_weight_decay(self, factor: float, *, floor: float = 0.0, ceiling: float = math.inf) -> Change:
        """Multiply the weight decay, from the next update on. `floor` is where a decay of 0 in every group begins.

        Groups without decay beside others that have one stay without.
        """
        groups = self._groups("weight_decay", "has no weight decay")
        groups = [group for group in groups if is_number(group["weight_decay"])]
        decay, own = self._steered.settings.decay, [group["weight_decay"] for group in groups]
        if not own:
            raise Refused(f"{self._kind()} keeps its weight decay in a tensor, which is not ours to replace.")
        before = decay.of(own)
        self._steering.surround(self._steered)
        decay.multiply(factor, own, floor=floor, ceiling=ceiling)
        return Change({"weight_decay": before}, {"weight_decay": decay.of(own)})

    def set_dropout(self, ratio: float, *, lower: bool = False) -> Change:
        """Raise the ratio of every dropout in the models that hold the optimizer's parameters, until the run ends.

        With `lower` those that have more are set to it too.
        """
        models = self._steering.models_of(self._steered.parameters)
        if not models:
            raise Refused("The model is not known: no module holds the optimizer's parameters.")
        before = self._steered.dropout.set(models, ratio, lower=lower)
        return dropped_out(before, ratio)

    def clip_gradients(self, max_norm: float | None, *, steps: int) -> Change:
        """Clip the 2-norm on the update that is about to be made and the next ones, `steps` in all.

        None clips to the usual norm, asked for anew on each update; where that is not known now, and for SGD, to the
        harmless one. Gradients that are held to that already stay so.
        """
        self._only_one("clipped together")
        settings = self._steered.settings
        before = settings.clip
        plan = Clip(max_norm, steps, self._usual_norm, known=None if before is None else before.known)
        norm = plan.norm_now()
        harmless = max_norm is None and (norm is None or (before is not None and before.harmless))
        if harmless:
            found = harmless_norm(groups_of(self._optimizers()), settings.scale.value)
            norm = math.inf if found is None else found.item()
            if norm == math.inf:
                raise Refused("It is not known yet what norm is usual for these gradients.")
        check_clippable(self._steered.parameters)
        self._steering.surround(self._steered)
        plan.harmless, settings.clip = harmless, plan
        return Change({"max_norm": before.norm_now() if before is not None else None}, clipped(norm, steps))

    def clear_gradients(self) -> Change:
        """Set the gradients to 0 now, and after each update until the run ends.

        Refused where the gradients are those of a closure, which may compute them several times in one step.
        """
        self._only_one("cleared together")
        if self._steering.under_closure(self._steered):
            raise Refused("The step computes its gradients itself, by calling a closure.")
        self._steering.surround(self._steered)
        settings = self._steered.settings
        before, settings.clears = settings.clears, True
        clear_gradients(self._optimizers())
        return Change({"cleared": before}, {"cleared": True})

    def skip_step(self) -> Change:
        """Leave out the update that is about to be made. Its gradients are there again afterwards.

        For an optimizer that is not torch's own this costs a copy of its parameters and state, and copying it back.
        """
        self._only_one("skipped together")
        check_skippable(self._optimizers(), under_closure=self._steering.under_closure(self._steered))
        self._steering.surround(self._steered)
        self._steered.settings.skip = True
        return Change({"skipped": False}, {"skipped": True})

    def _optimizers(self) -> list[Optimizer]:
        return [each for optimizer in self._steered.optimizers for each in optimizers_in(optimizer)]

    def _groups(self, key: str, missing: str) -> list[Group]:
        """Every group with a value for `key`. Raises `Refused` where there is none, or it cannot be held."""
        if not self._steered.optimizers:
            raise Refused(GONE)
        if self._steered.refusal:
            raise Refused(self._steered.refusal)
        groups = [group for group in groups_of(self._optimizers()) if group.get(key) is not None]
        if not groups:
            raise Refused(f"{self._kind()} {missing}.")
        return groups

    def _only_one(self, what: str) -> None:
        if not self._steered.optimizers:
            raise Refused(GONE)
        if len(self._steered.optimizers) > 1:
            raise Refused(f"Optimizers that step inside backward, one a parameter, cannot be {what}.")

    def _kind(self) -> str:
        return type(self._steered.optimizers[0]).__name__

    def _usual_norm(self) -> float | None:
        return self._steering.usual_norm(self._steered.label)


def dropped_out(before: Sequence[float], ratio: float) -> Change:
    """What a change says of dropouts that had the ratios `before`."""
    return Change({"dropout": before if len(before) > 1 else before[0]}, {"dropout": ratio})


def clipped(norm: float | None, steps: int) -> dict[str, Any]:
    """What a change says of clipping from now on: for so many steps, or until the run ends."""
    return {"max_norm": norm} if steps >= FOR_GOOD else {"max_norm": norm, "steps": steps}


def _rates(groups: Sequence[Group], factor: float) -> dict[str, list[float | None]]:
    """What the groups' rates come to. One on a device would have to be waited for: it is None, or left out with all."""
    own = [rate.item() if _is_at_hand(rate) else rate for rate in (group["lr"] for group in groups)]
    rates = [rate * factor if is_number(rate) else None for rate in own]
    return {"learning_rate": rates} if any(rate is not None for rate in rates) else {}


def _is_at_hand(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_cpu and value.numel() == 1


def _note(optimizers: Sequence[Optimizer], groups: Sequence[Group]) -> str:
    """What a factor on the rate means for these optimizers, where it is not just a factor on the update."""
    names = [kind.__name__ for optimizer in optimizers for kind in type(optimizer).__mro__]
    for name in names:
        if name.startswith(NOT_PROPORTIONAL) and not any(map(own_rates.has_own, optimizers)):
            return f"A factor on the learning rate of {name} is not a factor on its update."
    decays: list[Any] = [group for group in groups if group.get("weight_decay")]
    decoupled = [name for name in names if name in DECOUPLED]
    if decays and (decoupled or any(group.get("decoupled_weight_decay") for group in decays)):
        return (
            f"The weight decay of {decoupled[0] if decoupled else names[0]} is multiplied by its rate, and scales too."
        )
    return ""
