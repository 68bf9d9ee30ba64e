"""What `Run.attach` is given: checked before anything of it is taken."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from trimtab.errors import ConfigError


def named(given: Optimizer | Mapping[str, Optimizer] | None) -> Mapping[str, Optimizer]:
    """The optimizers that have been given a name. Raises ConfigError for what is no optimizer."""
    names = given if isinstance(given, Mapping) else {}
    unnamed = [] if given is None or isinstance(given, Mapping) else [given]
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"attach(optimizer=...): expected names, but got {name!r}. Name each by a text.")
    for each in (*names.values(), *unnamed):
        if not hasattr(each, "param_groups"):
            raise ConfigError(
                f"attach(optimizer=...): expected an optimizer, or a mapping such as {{'generator': optimizer}}, "
                f"but got an object of type {type(each).__name__}. Give the optimizers by name."
            )
    return names


def refuse_no_module(argument: str, given: object) -> None:
    """Raises ConfigError for what is given as a model, a criterion or an average, and is none."""
    if given is None or isinstance(given, nn.Module):
        return
    what = f"the class {given.__name__}" if isinstance(given, type) else f"an object of type {type(given).__name__}"
    advice = {
        "model": "Give the model itself.",
        "criterion": "Give the loss module itself; the loss functions of torch are found without it.",
        "average": "Give the copy itself.",
    }
    raise ConfigError(f"attach({argument}=...): expected a torch.nn.Module, but got {what}. {advice[argument]}")
