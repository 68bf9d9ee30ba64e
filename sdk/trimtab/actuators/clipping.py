"""Clips gradients for a few steps, to a norm that was given or to what is usual.

The usual norm comes from whoever judges gradients: an average of earlier norms that never holds the one it is used on
(as in ZClip, arXiv 2504.02507, whose average is over norms of steps that were not clipped).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm  # bound before capture wraps what is below

from trimtab.actions import Refused


@dataclass(slots=True)
class Clip:
    """A plan for the next updates. With `max_norm` None it asks `usual` on each one."""

    max_norm: float | None
    remaining: int
    usual: Callable[[], float | None]

    def norm_now(self) -> float | None:
        """The norm to clip to on this update; None while nobody knows what is usual."""
        return self.usual() if self.max_norm is None else self.max_norm


def check_clippable(parameters: Sequence[Tensor]) -> None:
    """Raises `Refused` for gradients that torch's own clipping cannot take."""
    if any(p.grad is not None and p.grad.layout is not torch.strided for p in parameters):
        raise Refused("The gradients are sparse, and torch clips dense ones only.")


def clip(parameters: Sequence[Tensor], max_norm: float, scale: Tensor | None) -> None:
    """Clip the 2-norm over all gradients to `max_norm`, in place, as `clip_grad_norm_` does: nothing waits.

    `scale` is what a GradScaler has multiplied the gradients by, where the optimizer itself divides by it.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        norm = get_total_norm(gradients)
        clip_grads_with_norm_(parameters, max_norm, norm if scale is None else norm / scale.to(norm.device))
