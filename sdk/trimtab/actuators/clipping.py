"""Clips gradients for a few steps or for good, to a norm that was given, to what is usual, or to what is harmless.

The usual norm comes from whoever judges gradients: an average of earlier norms that never holds the one it is used on
(as in ZClip, arXiv 2504.02507, whose average is over norms of steps that were not clipped).

Where gradients explode from the start nothing is usual. Then the norm is bounded by that of the weights, as in adaptive
gradient clipping (Brock et al., arXiv 2102.06171, which bounds |g| / |w|), and by the rate: SGD changes the weights by
lr |g| / (1 - momentum) at most, and that is held under `UPDATE_RATIO` of |w|, over all parameters together so that the
direction stays. Optimizers that divide by the size of gradients need no such bound, and have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm  # bound before capture wraps what is below

from trimtab.actions import FOR_GOOD, Refused

UPDATE_RATIO = 0.05


@dataclass(slots=True)
class Clip:
    """A plan for the next updates. With `max_norm` None it asks `usual` on each one, or bounds the `harmless`."""

    max_norm: float | None
    remaining: int
    usual: Callable[[], float | None]
    harmless: bool = False
    known: float | None = None  # what was usual in the run that this one resumes, until `usual` is known again

    @property
    def is_counted(self) -> bool:
        """Whether it ends before the run does."""
        return self.remaining < FOR_GOOD

    def usual_now(self) -> float | None:
        """The norm that gradients usually have; None while nobody knows."""
        usual = self.usual()
        return self.known if usual is None else usual

    def norm_now(self) -> float | None:
        """The norm to clip to on this update; None while nobody knows what is usual."""
        return self.usual_now() if self.max_norm is None else self.max_norm

    def state(self) -> dict[str, Any]:
        """What `load` takes."""
        return {
            "max_norm": self.max_norm,
            "remaining": self.remaining,
            "harmless": self.harmless,
            "usual": self.usual_now(),
        }

    @classmethod
    def load(cls, state: Mapping[str, Any], usual: Callable[[], float | None]) -> Clip:
        """Go on where the run of `state` was. Raises ValueError or TypeError for what `state` does not say."""
        norms = state["max_norm"], state["usual"]
        if not (all(norm is None or 0 < norm < math.inf for norm in norms) and 0 < state["remaining"] < math.inf):
            raise ValueError(f"{state}: this is no clipping of gradients")
        max_norm, known = (None if norm is None else float(norm) for norm in norms)
        return cls(max_norm, int(state["remaining"]), usual, bool(state["harmless"]), known)


def check_clippable(parameters: Sequence[Tensor]) -> None:
    """Raises `Refused` for gradients that torch's own clipping cannot take."""
    if any(p.grad is not None and p.grad.layout is not torch.strided for p in parameters):
        raise Refused("The gradients are sparse, and torch clips dense ones only.")


def is_plain(group: Mapping[str, Any]) -> bool:
    """Whether updates are the gradients times the rate, give or take momentum, as in SGD and what is derived of it."""
    return "dampening" in group and "lr" in group


def harmless_norm(groups: Sequence[Mapping[str, Any]], scale: float) -> Tensor | None:
    """The norm of gradients that moves the weights by `UPDATE_RATIO`, with `scale` on the learning rate.

    None for anything but SGD, and where the rate is 0. Infinite where the weights are 0, as those of a linear model
    that begins there: no step would be small beside them. Cost: one pass over the parameters, no wait.
    """
    if not groups or not all(map(is_plain, groups)):
        return None
    rates = [group["lr"] / (1 - min(group["momentum"], 0.99)) for group in groups]
    rate = max(rates) * scale
    with torch.no_grad():
        weights = get_total_norm([p for group in groups for p in group["params"]])
    return torch.where(weights > 0, UPDATE_RATIO * weights / rate, math.inf) if rate > 0 else None


def clip(parameters: Sequence[Tensor], max_norm: float | Tensor, scale: Tensor | None) -> None:
    """Clip the 2-norm over all gradients to `max_norm`, in place, as `clip_grad_norm_` does: nothing waits.

    `scale` is what a GradScaler has multiplied the gradients by, where the optimizer itself divides by it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        norm = get_total_norm(gradients)
        norm = norm if scale is None else norm / scale.to(norm.device)
        if isinstance(max_norm, Tensor):  # which torch would wait for
            norm = norm / max_norm.to(norm.device)
            max_norm = 1.0
        clip_grads_with_norm_(parameters, max_norm, norm)
