"""What of a run a snapshot holds: its parts, and every tensor in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from trimtab.actions import Refused
from trimtab.actuators.groups import held_by

PLAIN = (bool, int, float, complex, str, bytes, type(None))

# What the user, or a scheduler of the user's, writes to a parameter group. Everything else in the groups of an
# optimizer that is not torch's own is taken for its state (Prodigy and schedule-free ones keep theirs there).
SCHEDULED = frozenset(
    {"params", "param_names", "name", "lr", "initial_lr", "lr_scale", "max_lr", "min_lr", "base_lr", "swa_lr", "betas",
     "momentum", "base_momentum", "max_momentum", "min_momentum", "weight_decay", "initial_weight_decay", "eps"}
)  # fmt: skip


# What torch itself, or a scheduler, puts on an optimizer: not the state of one of another package.
_OF_TORCH = frozenset(
    {"state", "param_groups", "defaults", "step", "_step_count", "_opt_called",
     "_warned_capturable_if_run_uncaptured"}
)  # fmt: skip
HOOKS = "_optimizer_"  # what torch keeps hooks in, on an optimizer
_DEEPEST = 4  # containers in containers of an attribute


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that a rollback has to turn back together. A snapshot holds all of it weakly."""

    optimizers: Mapping[str, Optimizer]  # by label
    models: Mapping[str, nn.Module] = field(default_factory=dict)  # by name
    scalers: Sequence[GradScaler] = ()
    averages: Sequence[nn.Module] = ()  # copies that follow the models: see `averages`


def parameters_of(parts: Parts) -> Iterator[tuple[str, Tensor]]:
    """Name and parameter, each once however often it is shared; those that no model holds come last.

    Raises:
        Refused: one of them cannot be copied here (sharded, without data).
    """
    seen: set[int] = set()
    for where, module in _holders(parts):
        for name, parameter in parameters_in(module, where):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, _copyable(parameter, name)
    for label, optimizer in all_optimizers(parts):
        for index, parameter in enumerate(owned_by(optimizer)):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"optimizer.{label}.{index}", _copyable(parameter, f"parameter {index} of optimizer {label}")


def parameters_in(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Name and parameter of `module` and all below it, shared ones as often as they are; without lazy ones."""
    for where, each in _modules(module, prefix):
        for name, parameter in each.__dict__.get("_parameters", {}).items():
            if parameter is not None and not is_lazy(parameter):
                yield f"{where}.{name}", parameter


def buffers_of(parts: Parts) -> Iterator[tuple[str, nn.Module, str, Tensor | None]]:
    """Name, module, its own name there, and value of every buffer, also of those that `state_dict` leaves out."""
    for prefix, module in modules_of(parts):
        for name, buffer in module.__dict__.get("_buffers", {}).items():
            if buffer is None or not (buffer.is_meta or is_lazy(buffer)):
                yield f"{prefix}.{name}", module, name, buffer


def modules_of(parts: Parts) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of each, once."""
    seen: set[int] = set()
    for where, holder in _holders(parts):
        for name, module in _modules(holder, where):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module


def _modules(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """`module` and all below it, by its own dictionaries: foreign modules may be half built, or override `modules`."""
    seen: set[int] = set()
    stack = [(prefix, module)]
    while stack:
        name, current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield name, current
        children = current.__dict__.get("_modules", {})
        stack += [(f"{name}.{key}", child) for key, child in reversed(children.items()) if child is not None]


def all_optimizers(parts: Parts) -> Iterator[tuple[str, Optimizer]]:
    """Those given, and those that they wrap (Lookahead, SAM, ZeroRedundancyOptimizer keep theirs in an attribute)."""
    seen: set[int] = set()
    stack = [(label, optimizer) for label, optimizer in reversed(list(parts.optimizers.items()))]
    while stack:
        label, optimizer = stack.pop()
        if id(optimizer) in seen:
            continue
        seen.add(id(optimizer))
        yield label, optimizer
        stack += [(f"{label}.{index}", inner) for index, inner in enumerate(held_by(optimizer))]


def owned_by(optimizer: Optimizer) -> list[Tensor]:
    """Every parameter of every group, in order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def state_in(group: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """What of a parameter group is the optimizer's state, and not the user's schedule."""
    if type(optimizer).__module__.startswith("torch.optim"):
        return {}
    return {key: value for key, value in group.items() if key not in SCHEDULED}


def attributes_of(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer of another package keeps beside `state` and its groups: numbers, and what holds tensors.

    Lists of numbers are left out: they are a log mostly. So is what holds parameters or things of unknown types.
    """
    if type(optimizer).__module__.startswith("torch."):
        return {}
    parameters = {id(parameter) for parameter in owned_by(optimizer)}
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in _OF_TORCH
        and name not in SCHEDULED
        and not name.startswith(HOOKS)
        and (type(value) in (bool, int, float) or _holds_state(value, parameters))
    }


def _holds_state(value: Any, parameters: Set[int]) -> bool:
    """Whether there is a tensor in it, and nothing that is no state."""
    found, level = False, [value]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for each in level:
            if isinstance(each, Tensor):
                if id(each) in parameters or each.requires_grad:
                    return False
                found = True
            elif isinstance(each, dict):
                below += each.values()
            elif type(each) in (list, tuple):
                below += each
            elif type(each) not in PLAIN:
                return False
        level = below
    return found and not level


def _holders(parts: Parts) -> Iterator[tuple[str, nn.Module]]:
    yield from parts.models.items()
    for index, average in enumerate(parts.averages):
        yield f"average.{index}", average


def _copyable(tensor: Tensor, name: str) -> Tensor:
    if tensor.is_meta:
        raise Refused(f"{name} is on the meta device and has no data: there is nothing to go back to.")
    if type(tensor).__module__.startswith("torch.distributed") or is_traceable_wrapper_subclass(tensor):
        raise Refused(f"{name} is a {type(tensor).__name__}: snapshots of sharded or wrapped tensors are not made.")
    if tensor.is_inference():
        raise Refused(f"{name} was made in inference mode, and can never be written to.")
    return tensor
