"""The loss functions of torch, seen one level below `torch.nn.functional`.

Loss modules, functional losses and names imported before the run all end in the same built-in function, so one
wrapper there sees them all, pickles (models hold the function above it), and costs 0.5 us. Three losses are written
in Python and have no such level: of those the module is seen, the bare function is not.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.jit import _builtins as jit_builtins
from torch.nn import functional

from trimtab.capture.dynamo import take_for
from trimtab.capture.patches import Patches
from trimtab.sample.criteria import MEAN, NONE, SUM, Classes, LossCall


@dataclass(frozen=True, slots=True)
class BuiltinLoss:
    """How one built-in takes its arguments. Positions count from 0; None where it has no such argument."""

    name: str
    owner: Any
    reduction: int
    classes: Classes | None = None
    weight: int | None = None
    ignore_index: int | None = None
    target: int = 1
    weights: tuple[int, ...] = ()  # whatever makes some targets count more than others
    smoothing: int | None = None

    def call(self, output: Tensor, args: tuple[Any, ...]) -> LossCall:
        """What was called, from the positional arguments that `torch.nn.functional` passes down."""

        def at(position: int | None, default: Any = None) -> Any:
            return args[position] if position is not None and position < len(args) else default

        return LossCall(
            self.name, self.samples(args), output, args[0], at(self.target), at(self.reduction, MEAN), self.classes,
            at(self.weight), at(self.ignore_index), any(at(position) is not None for position in self.weights),
            at(self.smoothing, 0.0),
        )  # fmt: skip

    def is_mean(self, args: tuple[Any, ...]) -> bool:
        """Whether the output is already the mean."""
        return len(args) <= self.reduction or args[self.reduction] == MEAN

    def samples(self, args: tuple[Any, ...]) -> int:
        """The batch size."""
        shape = args[self.target].shape
        return shape[0] if shape else 1


@dataclass(frozen=True, slots=True)
class CtcLoss(BuiltinLoss):
    """Its targets may lie one after the other, so the batch is that of the log probabilities (time, batch, class)."""

    def samples(self, args: tuple[Any, ...]) -> int:
        """The batch size."""
        shape = args[0].shape
        return shape[1] if len(shape) == 3 else 1


@dataclass(frozen=True, slots=True)
class HuberLoss(BuiltinLoss):
    """`functional.huber_loss(weight=...)` multiplies the output of the built-in, which knows of no weights, itself.

    It asks for no reduction then. Only so asked its caller's `weight` is looked up, from its frame.
    """

    def call(self, output: Tensor, args: tuple[Any, ...]) -> LossCall:
        """What was called, with the weights in its output."""
        found = BuiltinLoss.call(self, output, args)
        if found.reduction == NONE:
            weight = _weight_of_huber_loss()
            if weight is not None:
                found.output = output.detach() * weight
        return found


@dataclass(frozen=True, slots=True)
class ModuleLoss:
    """A loss module whose arithmetic is Python. Its arguments are (module, input, target)."""

    name: str
    classes: Classes | None = None

    def call(self, output: Tensor, args: tuple[Any, ...]) -> LossCall:
        """What was called."""
        module, input, target = args
        reduction = {"none": NONE, "sum": SUM}.get(module.reduction, MEAN)
        return LossCall(self.name, self.samples(args), output, input, target, reduction)

    def is_mean(self, args: tuple[Any, ...]) -> bool:
        """Whether the output is already the mean."""
        return bool(args[0].reduction == "mean")

    def samples(self, args: tuple[Any, ...]) -> int:
        """The batch size."""
        return args[1].shape[0] if args[1].ndim else 1


@dataclass(frozen=True, slots=True)
class OwnLoss:
    """A loss module of the user's own, whose output is the mean. Its arguments are (input, target, ...)."""

    name: str
    classes: Classes | None = None

    def call(self, output: Tensor, args: tuple[Any, ...]) -> LossCall:
        """What was called."""
        target = args[1] if len(args) > 1 and isinstance(args[1], Tensor) else None
        return LossCall(self.name, self.samples(args), output, args[0], target, MEAN)

    def is_mean(self, args: tuple[Any, ...]) -> bool:
        """Its output is the mean."""
        return True

    def samples(self, args: tuple[Any, ...]) -> int:
        """The batch size."""
        return args[0].shape[0] if args[0].ndim else 1

    @staticmethod
    def mean(output: Any) -> Any:
        """The mean in what such a module returned: of a tuple or list, where one alone of its members can be that."""
        if not isinstance(output, tuple | list):
            return output
        numbers = [each for each in output if type(each) is Tensor and not each.ndim and each.is_floating_point()]
        return numbers[0] if len(numbers) == 1 else output


Loss: TypeAlias = BuiltinLoss | ModuleLoss | OwnLoss

BUILTIN_LOSSES: tuple[BuiltinLoss, ...] = (
    BuiltinLoss(
        "cross_entropy_loss", torch._C._nn, 3, "multiclass", weight=2, ignore_index=4, weights=(2,), smoothing=5
    ),
    BuiltinLoss("nll_loss_nd", torch._C._nn, 3, "multiclass", weight=2, ignore_index=4, weights=(2,)),
    BuiltinLoss("multi_margin_loss", torch._C._nn, 5, "multiclass"),
    BuiltinLoss("binary_cross_entropy", torch._C._nn, 3, "binary_probabilities", weights=(2,)),
    BuiltinLoss("binary_cross_entropy_with_logits", torch, 4, "binary_logits", weights=(2, 3)),
    BuiltinLoss("mse_loss", torch._C._nn, 2),
    BuiltinLoss("l1_loss", torch._C._nn, 2),
    BuiltinLoss("smooth_l1_loss", torch._C._nn, 2),
    HuberLoss("huber_loss", torch._C._nn, 2),
    BuiltinLoss("soft_margin_loss", torch._C._nn, 2),
    BuiltinLoss("multilabel_margin_loss", torch._C._nn, 2),
    BuiltinLoss("poisson_nll_loss", torch, 5),
    BuiltinLoss("kl_div", torch, 2),
    CtcLoss("ctc_loss", torch, 5),
    BuiltinLoss("hinge_embedding_loss", torch, 3),
    BuiltinLoss("margin_ranking_loss", torch, 4, target=2),
    BuiltinLoss("cosine_embedding_loss", torch, 4, target=2),
    BuiltinLoss("triplet_margin_loss", torch, 7, target=0),
)

PYTHON_LOSSES = (nn.GaussianNLLLoss, nn.MultiLabelSoftMarginLoss, nn.TripletMarginWithDistanceLoss)

BY_NAME = {"log_target"}  # that `torch.nn.functional` passes so. A call that names more is somebody else's, and unseen

OnLoss: TypeAlias = Callable[[Loss, Tensor, tuple[Any, ...]], object]


def watch_losses(patches: Patches, wrap: Callable[[BuiltinLoss, Any], Any], report: OnLoss) -> Callable[[], None]:
    """Put `wrap(loss, original)` in the place of each built-in, and call `report(loss, output, args)` after the others.

    Returns what undoes what `patches` does not.
    """
    table: dict[int, str] = jit_builtins._get_builtin_table()  # type: ignore[no-untyped-call]
    registered, wrapped = [], []
    for loss in BUILTIN_LOSSES:
        original = getattr(loss.owner, loss.name)
        wrapper = wrap(loss, original)
        wrapper.__name__ = wrapper.__qualname__ = loss.name
        wrapper.__module__ = loss.owner.__name__  # by which it is pickled, as the original
        wrapper.__doc__ = original.__doc__
        patches.replace(loss.owner, loss.name, wrapper)
        wrapped.append((original, wrapper))
        if id(original) in table:  # torch.jit.script finds the operator behind our wrapper
            table[id(wrapper)] = table[id(original)]
            registered.append(id(wrapper))
    for module in PYTHON_LOSSES:
        patches.replace(module, "forward", _wrap_forward(module, report))

    take_for(wrapped)

    def undo() -> None:
        for key in registered:
            table.pop(key, None)

    return undo


def _weight_of_huber_loss() -> Tensor | None:
    """The `weight` that the newest call of `functional.huber_loss` was given, if it is under way."""
    code = functional.huber_loss.__code__
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get("weight")


def _wrap_forward(module: type[nn.Module], report: Callable[..., Any]) -> Any:
    """Nothing in it is global: torch.jit.script compiles what it wraps, and looks that up in its globals."""
    original, loss, in_dynamo, tensor = module.forward, ModuleLoss(module.__name__), is_compiling, Tensor
    names = original.__code__.co_varnames[1:3]  # of its input and its target

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        if not in_dynamo() and type(output) is tensor:  # Dynamo inlines this, as it would the original
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            report(loss, output, (self, *[given[name] for name in names]))
        return output

    in_their_globals = FunctionType(forward.__code__, original.__globals__, closure=forward.__closure__)
    return functools.wraps(original)(in_their_globals)
