"""GradScaler and gradient clipping: what was scaled, what was skipped, what the norm was before it was clipped."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.utils.clip_grad as clip_grad
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.compiler import is_compiling
from torch.nn import utils
from torch.optim import Optimizer

from trimtab.capture.dynamo import keep_out
from trimtab.capture.patches import Patches
from trimtab.sample.scalars import Held, hold

ANCESTORS = 8


@dataclass(frozen=True, slots=True)
class _Scaled:
    source: weakref.ref[Tensor]
    output: weakref.ref[Tensor]
    grad_fn: Any
    loss: Held
    scale: Tensor


class ScaledLosses:
    """Tells what a tensor given to backward was before `GradScaler.scale` multiplied it."""

    def __init__(self) -> None:
        self.recent: list[_Scaled] = []  # since the last backward

    def unscaled(self, tensor: Tensor) -> tuple[Held, Tensor | None] | None:
        """The loss behind `tensor` and the tensor that held it, or None when nothing was scaled.

        The memory is one backward long.
        """
        recent, self.recent = self.recent, []
        for scaled in recent:
            if scaled.output() is tensor:
                self.recent = [other for other in recent if other is not scaled]
                return scaled.loss, scaled.source()
        for scaled in recent:  # what was given to backward was computed from a scaled loss
            if _descends(tensor, scaled.grad_fn):
                return hold(tensor.detach() / scaled.scale.to(tensor.device, non_blocking=True)), None
        return None

    def remember(self, scaler: GradScaler, outputs: Any, scaled: Any) -> None:
        """`scaler` has multiplied `outputs`."""
        pairs = [(outputs, scaled)] if isinstance(outputs, Tensor) else []
        if isinstance(outputs, list | tuple):
            pairs = [(a, b) for a, b in zip(outputs, scaled, strict=True) if isinstance(a, Tensor)]
        for loss, output in pairs:
            if loss.numel() == 1 and scaler._scale is not None:
                self.recent.append(
                    _Scaled(weakref.ref(loss), weakref.ref(output), output.grad_fn, hold(loss), scaler._scale)
                )
        del self.recent[:-ANCESTORS]


def _descends(tensor: Tensor, ancestor: Any) -> bool:
    nodes = [tensor.grad_fn]
    for _ in range(ANCESTORS):
        if ancestor in nodes:
            return True
        nodes = [parent for node in nodes if node is not None for parent, _ in node.next_functions]
    return False


def watch_scaling(patches: Patches, on_scaled: Callable[[GradScaler, Any, Any], object]) -> None:
    """Call `on_scaled(scaler, outputs, scaled)` after every `GradScaler.scale` that did scale."""
    original = GradScaler.scale

    def scale(self: GradScaler, outputs: Any) -> Any:
        scaled = original(self, outputs)
        if scaled is not outputs:
            on_scaled(self, outputs, scaled)
        return scaled

    patches.replace(GradScaler, "scale", keep_out(scale, calls_user_code=True))


def watch_scaler_steps(
    patches: Patches, before: Callable[[GradScaler, Optimizer], object], after: Callable[[Optimizer], object]
) -> None:
    """Call `before(scaler, optimizer)` and `after(optimizer)` around every `GradScaler.step`.

    One that is not enabled scales nothing, skips nothing and has no state: its steps are the optimizer's own.
    """
    original = GradScaler.step

    def step(self: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if not self.is_enabled():
            return original(self, optimizer, *args, **kwargs)
        before(self, optimizer)
        result = original(self, optimizer, *args, **kwargs)
        after(optimizer)
        return result

    patches.replace(GradScaler, "step", keep_out(step, calls_user_code=True))


def watch_unscale(patches: Patches, before: Callable[[], object]) -> None:
    """Call before every `GradScaler.unscale_`, which writes to gradients without clearing them."""
    original = GradScaler.unscale_

    def unscale_(self: GradScaler, optimizer: Optimizer) -> None:
        before()
        original(self, optimizer)

    patches.replace(GradScaler, "unscale_", keep_out(unscale_, calls_user_code=True))


def watch_clipping(
    patches: Patches, on_norm: Callable[[Any, float, Tensor], object], on_clipped: Callable[[], object]
) -> None:
    """Call `on_norm(gradients, norm_type, norm)` when `clip_grad_norm_` has the norm, `on_clipped` when it is over.

    One level below `torch.nn.utils`, so that it is seen however the function was imported.
    """
    original = clip_grad._get_total_norm

    def _get_total_norm(tensors: Any, norm_type: float = 2.0, *args: Any, **kwargs: Any) -> Tensor:
        if is_compiling():  # Dynamo inlines this: clipping in a compiled region stays whole, and unseen
            return original(tensors, norm_type, *args, **kwargs)
        if not isinstance(tensors, Tensor):
            tensors = list(tensors)
        norm = original(tensors, norm_type, *args, **kwargs)
        on_norm(tensors, norm_type, norm)
        return norm

    def _clip_grads_with_norm_(*args: Any, **kwargs: Any) -> None:
        clip(*args, **kwargs)
        if not is_compiling():
            on_clipped()

    clip: Any = clip_grad._clip_grads_with_norm_
    patches.replace(clip_grad, "_get_total_norm", _get_total_norm)
    patches.replace(clip_grad, "_clip_grads_with_norm_", _clip_grads_with_norm_)
    _watch_clipping_in_two(patches, on_norm, on_clipped)


def _watch_clipping_in_two(
    patches: Patches, on_norm: Callable[[Any, float, Tensor], object], on_clipped: Callable[[], object]
) -> None:
    """The same for who asks `get_total_norm` and gives what became of it over all ranks to `clip_grads_with_norm_`.

    That one is not told of what kind the norm is: it is taken to be the kind that was asked for last.
    """
    ask: Callable[..., Tensor] = utils.get_total_norm
    clip: Callable[..., None] = utils.clip_grads_with_norm_
    newest_type = 2.0

    def get_total_norm(tensors: Any, norm_type: float = 2.0, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal newest_type
        if not is_compiling():
            newest_type = norm_type
        return ask(tensors, norm_type, *args, **kwargs)

    def clip_grads_with_norm_(parameters: Any, max_norm: float, total_norm: Tensor, *args: Any, **kwargs: Any) -> None:
        if is_compiling():
            clip(parameters, max_norm, total_norm, *args, **kwargs)
            return
        parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        on_norm([p.grad for p in parameters if p.grad is not None], newest_type, total_norm)
        clip(parameters, max_norm, total_norm, *args, **kwargs)
        on_clipped()

    patches.replace(utils, "get_total_norm", get_total_norm)
    patches.replace(utils, "clip_grads_with_norm_", clip_grads_with_norm_)
