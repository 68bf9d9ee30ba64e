"""GradScaler and gradient clipping: what was scaled, what was skipped, what the norm was before it was clipped."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch.nn.utils.clip_grad as clip_grad
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.compiler import is_compiling
from torch.nn import utils
from torch.optim import Optimizer

from trimtab.capture.dynamo import keep_out
from trimtab.capture.patches import Patches
from trimtab.sample.scalars import Held, has_value, hold

ANCESTORS = 8

_Node: TypeAlias = tuple[str, int]  # of a graph, by its name and number: held itself, it would hold the whole graph


@dataclass(frozen=True, slots=True)
class _Scaled:
    source: weakref.ref[Tensor]
    is_returned: bool  # the source is the very output of the loss function
    output: weakref.ref[Tensor]
    node: _Node  # that computed the output
    loss: Held
    scale: Tensor


class Unscaled(NamedTuple):
    """What a tensor given to backward was before it was scaled."""

    loss: Held
    is_returned: bool  # a loss function returned just that
    root: Any = None  # the node of the graph that computed it, where it was scaled and no more


class ScaledLosses:
    """Tells what a tensor given to backward was before `GradScaler.scale` multiplied it."""

    def __init__(self, is_returned: Callable[[Tensor], bool]) -> None:
        self.recent: list[_Scaled] = []  # since the last backward
        self._is_returned = is_returned  # whether a tensor is the output of the newest loss function, as it was

    def unscaled(self, tensor: Tensor) -> Unscaled | None:
        """The loss behind `tensor`, or None when nothing was scaled.

        The memory is one backward long.
        """
        recent, self.recent = self.recent, []
        for scaled in recent:
            if scaled.output() is tensor:
                self.recent = [other for other in recent if other is not scaled]
                root = None if tensor.grad_fn is None else tensor.grad_fn.next_functions[0][0]
                return Unscaled(scaled.loss, scaled.is_returned, root)
        for scaled in recent:  # what was given to backward was computed from a scaled loss
            if _descends(tensor, scaled.node):
                return Unscaled(hold(tensor.detach() / scaled.scale.to(tensor.device, non_blocking=True)), False)
        return None

    def remember(self, scaler: GradScaler, outputs: Any, scaled: Any) -> None:
        """`scaler` has multiplied `outputs`."""
        pairs = [(outputs, scaled)] if isinstance(outputs, Tensor) else []
        if isinstance(outputs, list | tuple):
            pairs = [(a, b) for a, b in zip(outputs, scaled, strict=True) if isinstance(a, Tensor)]
        for loss, output in pairs:
            if loss.numel() == 1 and has_value(loss) and scaler._scale is not None and output.grad_fn is not None:
                self.recent = [each for each in self.recent if each.source() is not loss]  # a subclass asks its parent
                is_returned, node = self._is_returned(loss), _node(output.grad_fn)
                self.recent.append(
                    _Scaled(weakref.ref(loss), is_returned, weakref.ref(output), node, hold(loss), scaler._scale)
                )
        del self.recent[:-ANCESTORS]


def _node(grad_fn: Any) -> _Node:
    return grad_fn.name(), grad_fn._sequence_nr()


def _descends(tensor: Tensor, ancestor: _Node) -> bool:
    nodes: set[Any] = {tensor.grad_fn} - {None}
    for _ in range(ANCESTORS):
        if any(_node(node) == ancestor for node in nodes):
            return True
        nodes = {parent for node in nodes for parent, _ in node.next_functions} - {None}
    return False


class ScalerListener(NamedTuple):
    """Told of every `GradScaler`. One that is not enabled scales nothing, skips nothing and has no state."""

    scaled: Callable[[GradScaler, Any, Any], object]  # `scale` has made the third of the second
    stepping: Callable[[GradScaler, Optimizer], object]  # `step` begins
    stepped: Callable[[Optimizer], object]  # `step` is over
    unscaling: Callable[[Optimizer], object]  # `unscale_` is about to write to gradients, without clearing them


def watch_scalers(
    patches: Patches, listener: ScalerListener, guard: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Tell `listener` what scalers do, also those of subclasses that have a method of their own, as FSDP's has.

    Where such a method calls the one above it, both are told of: with the same tensors, and while no step is between.
    A subclass of which nothing can be set, as its metaclass may see to, is left as it is: `guard` tells of it.
    """
    covered: set[type] = set()

    def cover(kind: type) -> None:
        if kind in covered or not issubclass(kind, GradScaler):
            return
        covered.add(kind)
        for name, watched in (("scale", _scale), ("step", _step), ("unscale_", _unscale)):
            if name in vars(kind):
                patches.replace(kind, name, keep_out(watched(vars(kind)[name], listener), calls_user_code=True))

    try_to_cover = guard("GradScaler", cover)
    begin: Callable[..., None] = GradScaler.__init__

    @functools.wraps(begin)
    def make(self: GradScaler, *args: Any, **kwargs: Any) -> None:
        for kind in type(self).__mro__:
            try_to_cover(kind)
        begin(self, *args, **kwargs)

    for kind in _with_subclasses(GradScaler):
        try_to_cover(kind)
    patches.replace(GradScaler, "__init__", make)  # of subclasses that are not there yet


def _with_subclasses(kind: type[GradScaler]) -> Iterator[type[GradScaler]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _with_subclasses(each)


def _scale(original: Callable[..., Any], listener: ScalerListener) -> Callable[..., Any]:
    @functools.wraps(original)
    def scale(self: GradScaler, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        scaled = original(self, outputs, *args, **kwargs)
        if scaled is not outputs:
            listener.scaled(self, outputs, scaled)
        return scaled

    return scale


def _step(original: Callable[..., Any], listener: ScalerListener) -> Callable[..., Any]:
    @functools.wraps(original)
    def step(self: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if not self.is_enabled():
            return original(self, optimizer, *args, **kwargs)
        listener.stepping(self, optimizer)
        result = original(self, optimizer, *args, **kwargs)
        listener.stepped(optimizer)
        return result

    return step


def _unscale(original: Callable[..., Any], listener: ScalerListener) -> Callable[..., Any]:
    @functools.wraps(original)
    def unscale_(self: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        listener.unscaling(optimizer)
        return original(self, optimizer, *args, **kwargs)

    return unscale_


def watch_clipping(
    patches: Patches, on_norm: Callable[[Any, float, Tensor], object], on_clipped: Callable[[], object]
) -> None:
    """Call `on_norm(gradients, norm_type, norm)` when `clip_grad_norm_` has the norm, `on_clipped` when it is over.

    One level below `torch.nn.utils`, so that it is seen however the function was imported.
    """
    original = clip_grad._get_total_norm
    clip: Any = clip_grad._clip_grads_with_norm_

    @functools.wraps(original)
    def _get_total_norm(tensors: Any, norm_type: float = 2.0, *args: Any, **kwargs: Any) -> Tensor:
        if is_compiling():  # Dynamo inlines this: clipping in a compiled region stays whole, and unseen
            return original(tensors, norm_type, *args, **kwargs)
        if not isinstance(tensors, Tensor):
            tensors = list(tensors)
        norm = original(tensors, norm_type, *args, **kwargs)
        on_norm(tensors, norm_type, norm)
        return norm

    @functools.wraps(clip)
    def _clip_grads_with_norm_(*args: Any, **kwargs: Any) -> None:
        clip(*args, **kwargs)
        if not is_compiling():
            on_clipped()

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

    @functools.wraps(ask)
    def get_total_norm(tensors: Any, norm_type: float = 2.0, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal newest_type
        if not is_compiling():
            newest_type = norm_type
        return ask(tensors, norm_type, *args, **kwargs)

    @functools.wraps(clip)
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
