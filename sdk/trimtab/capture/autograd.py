"""The wrapped `torch.autograd.backward`, which sees every training loss, and the walk that tells what a loss reaches.

`Tensor.backward` looks the function up by name, so one wrapper sees both spellings. A `backward` inside another one
(reentrant checkpointing) is part of the outer one and not a loss.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import has_torch_function, has_torch_function_unary, is_tensor_like

from trimtab.capture.dynamo import keep_out
from trimtab.capture.patches import Patches
from trimtab.sample.scalars import is_real
from trimtab.sample.seclusion import secluded

WALK_LIMIT_NODES = 100_000
CHECKPOINT = "CheckpointFunctionBackward"  # of torch, and of those who copied it

AccumulateGrad: type[Any] = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]
in_backward: Callable[[], int] = torch._C._current_graph_task_id  # -1 outside of backward, on any thread


def in_checkpoint() -> bool:
    """Whether a reentrant checkpoint of torch runs its forward, which it does without grad though it trains."""
    checkpoints: Any = sys.modules.get("torch.utils.checkpoint")
    if checkpoints is None:
        return False
    forward, frame = checkpoints.CheckpointFunction.forward.__code__, sys._getframe(1).f_back
    while frame is not None and frame.f_code is not forward:
        frame = frame.f_back
    return frame is not None


def watch_backward(
    patches: Patches,
    before: Callable[[Any, Any], Any],
    after: Callable[[Any, Any], object],
    broken: Callable[[], object],
    wrap: Callable[[Callable[..., Any], Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Call `before(tensors, grad_tensors)` and, when backward has returned, `after` with what `before` gave, if it did.

    The second argument of `after` is what backward was restricted to (`inputs=`), or None. Where backward raises,
    `broken` is called instead. What takes the place of backward is `wrap(original, watched)`.
    """
    original = torch.autograd.backward
    code = getattr(original, "__code__", None)
    calls_itself = code is not None and "has_torch_function" in code.co_names  # through a subclass or a mode

    def backward(
        tensors: Any,
        grad_tensors: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        grad_variables: Any = None,  # the old name, of which torch warns
        inputs: Any = None,
    ) -> None:
        if type(tensors) is not Tensor or grad_tensors is not None or inputs is not None:
            tensors, grad_tensors, inputs = _kept(tensors), _kept(grad_tensors), _kept(inputs)
        token = None if calls_itself and _is_overridden(tensors, inputs) else before(tensors, grad_tensors)
        try:
            if grad_variables is None:
                original(tensors, grad_tensors, retain_graph, create_graph, inputs=inputs)
            else:
                original(tensors, grad_tensors, retain_graph, create_graph, grad_variables, inputs)
        except BaseException:
            if token is not None:
                broken()
            raise
        if token is not None:
            after(token, inputs)

    patches.replace(torch.autograd, "backward", wrap(original, keep_out(backward, calls_user_code=True)))


@keep_out
def _kept(given: Any) -> Any:
    """What can be gone through once is kept: backward is to find it whole."""
    return tuple(given) if isinstance(given, Iterator) else given


@keep_out
def _is_overridden(tensors: Any, inputs: Any) -> bool:
    """Whether a subclass or a mode is asked what backward is to do. Where it calls backward, that is the one."""
    if type(tensors) is Tensor and inputs is None:
        return bool(has_torch_function_unary(tensors))
    asked = [*_listed(tensors), *_listed(inputs)]
    return bool(has_torch_function([each for each in asked if is_tensor_like(each)]))  # type: ignore[no-untyped-call]


def _listed(given: Any) -> Iterable[Any]:
    if isinstance(given, Mapping):
        return given.values()
    return [given] if given is None or isinstance(given, Tensor) or not isinstance(given, Iterable) else given


def are_real(tensors: Any) -> bool:
    """Whether there is a value in each of them."""
    return all(map(is_real, _listed(tensors)))


def as_tensors(inputs: Any) -> Sequence[Tensor] | None:
    """What backward is restricted to, None where it is not."""
    return None if inputs is None else [each for each in _listed(inputs) if isinstance(each, Tensor)]


class Reach(NamedTuple):
    """What a backward writes to."""

    leaves: Sequence[Tensor]
    hides_more: bool = False  # a checkpoint or a hook runs a backward of its own, of which the graph tells nothing


def reach_of(roots: Iterable[Tensor]) -> Reach:
    """Every leaf whose gradient a backward from `roots` writes. Cost: about 1 us a graph node."""
    hides_more = False
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    stack: list[Any] = []
    for root in roots:
        if root.grad_fn is not None:
            stack.append(root.grad_fn)
        elif root.requires_grad:
            found[id(root)] = root
            hides_more = hides_more or _runs_more(root)
    while stack and len(seen) < WALK_LIMIT_NODES:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if type(node) is AccumulateGrad:  # a function of the user's may call anything its `variable`
            leaf = node.variable
            found[id(leaf)] = leaf
            hides_more = hides_more or _runs_more(leaf)
        elif type(node).__name__ == CHECKPOINT:
            hides_more = True
        stack.extend(parent for parent, _ in node.next_functions if parent is not None)
    return Reach(list(found.values()), hides_more)


def _runs_more(leaf: Tensor) -> bool:
    """Whether a leaf that is no parameter has hooks."""
    return type(leaf) is Tensor and bool(leaf._backward_hooks)


@secluded
def objective(
    tensors: Any, grad_tensors: Any, is_loss: Callable[[Tensor], bool] = lambda _: False
) -> tuple[Sequence[Tensor], Tensor | None]:
    """The tensors given to backward, and the scalar whose gradient they ask for: sum(tensor * grad_tensor).

    None where there is no such scalar to be seen: gradient edges instead of tensors, or outputs of a model whose
    gradient comes from the next stage of a pipeline, or from another framework. A loss has one value for a sample; of
    what has more, `is_loss` tells whether a loss function returned it.
    """
    roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if not all(isinstance(root, Tensor) for root in roots):
        return [], None
    if grad_tensors is None:
        weights: list[Tensor | None] = [None] * len(roots)
    else:
        weights = [grad_tensors] if isinstance(grad_tensors, Tensor) else list(grad_tensors)
    if len(weights) != len(roots):  # which torch refuses
        return roots, None
    for root, weight in zip(roots, weights, strict=True):
        if weight is not None and root.ndim > 1 and root.numel() > root.shape[0] and not is_loss(root):
            return roots, None
    if len(roots) == 1 and weights[0] is None:
        return roots, roots[0] if roots[0].numel() == 1 else None
    with torch.no_grad():
        terms = [
            root.detach().sum() if weight is None else (root.detach() * weight.detach()).sum()
            for root, weight in zip(roots, weights, strict=True)
        ]
        return roots, terms[0] if len(terms) == 1 else torch.stack(terms).sum()
