"""Actions and policies as plain mappings: from a TOML file, and into the log."""

from __future__ import annotations

import dataclasses
import importlib
import math
import reprlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trimtab.actions import (
    Action,
    ClearGradients,
    ClipGradients,
    Halt,
    LimitUpdates,
    RollBack,
    ScaleLearningRate,
    ScaleWeightDecay,
    SetDropout,
    SkipStep,
)  # fmt: skip
from trimtab.errors import ConfigError, did_you_mean
from trimtab.policies.creeping import CreepBack
from trimtab.policies.policy import Policy

_BUILT_IN = (
    ScaleLearningRate, LimitUpdates, ScaleWeightDecay, SetDropout, ClipGradients, ClearGradients, SkipStep, RollBack,
    Halt,
)  # fmt: skip
_OURS = (*_BUILT_IN, CreepBack)  # whose arguments are texts and truths where their defaults are, and else numbers
ACTIONS: dict[str, type[Action]] = {kind.name: kind for kind in _BUILT_IN}
_KEYS = tuple(spec.name for spec in dataclasses.fields(Policy) if spec.init)


def policy(given: Any, *, where: str = "policies") -> Policy:
    """A policy from a mapping with the arguments of `Policy`.

    A rung of `ladder` is the name of an action, a table `{action = "scale_learning_rate", factor = 0.5}` with the
    action's own arguments, or a list of these. An action of your own is named `module:Class`; the module is imported.

    Raises:
        ConfigError: a key, a name or a value that cannot be used; `where` begins the message.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{where}: {reprlib.repr(given)}: expected the name of a shipped policy, or a table such as "
            "{on = 'loss_spike', ladder = ['roll_back']}."
        )
    for key in given:
        if key not in _KEYS:
            raise ConfigError(f"{where}: {key} is not a setting of a policy. {did_you_mean(str(key), _KEYS)}")
    for key, example in (("on", "'loss_spike'"), ("ladder", "['roll_back']")):
        if key not in given:
            raise ConfigError(f"{where}: {key} is missing. Add it, as {key} = {example}.")
    ladder = given["ladder"]
    if not isinstance(ladder, (list, tuple)):
        raise ConfigError(f"{where}: ladder = {ladder!r}: expected a list of actions, such as ['roll_back'].")
    rungs = [
        [action(part, where=where) for part in (rung if isinstance(rung, (list, tuple)) else (rung,))]
        for rung in ladder
    ]
    try:
        return Policy(**{**given, "ladder": rungs})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def policies(given: Iterable[Policy | str | Mapping[str, Any]], shipped: Sequence[Policy]) -> tuple[Policy, ...]:
    """Exactly the policies given: instances, tables, or names of shipped ones. `"shipped"` is all others."""
    given = list(given)
    own = [
        p if isinstance(p, Policy) else policy(p, where=f"policies[{at}]")
        for at, p in enumerate(given)
        if not isinstance(p, str)
    ]
    taken = {p.on for p in own}
    named: dict[str, Policy] = {}
    for name in (p for p in given if isinstance(p, str)):
        found = [p for p in shipped if name in ("shipped", p.name) and p.on not in taken]
        if not found and name not in ("shipped", *(p.name for p in shipped)):
            nearest = did_you_mean(name, ["shipped", *(p.name for p in shipped)])
            raise ConfigError(f"policies: {name!r} is no shipped policy. {nearest}")
        named.update({p.on: p for p in found})
    return (*own, *named.values())


def action(given: Any, *, where: str = "action", known: Iterable[Action] | None = None) -> Action:
    """An action from its name or a mapping; see `policy`.

    `known` is for what a record, an order or another rank names: instances to find by name where no class of ours is.
    With it nothing is imported, or whoever wrote the record could have anything called.
    """
    arguments = dict(given) if isinstance(given, Mapping) else {"action": given}
    name = arguments.pop("action", None)
    if not isinstance(name, str):
        said = f"{where}: {reprlib.repr(given)}"
        raise ConfigError(f"{said}: expected the name of an action, or a table with action = 'NAME'.")
    kind = CreepBack if name == CreepBack.name else ACTIONS.get(name)
    if kind is None and known is None and ":" in name:
        kind = _imported(name, where)
    if kind is None:
        for instance in known or ():
            if instance.name == name:
                return instance
        raise ConfigError(f"{where}: there is no action {name!r}. {did_you_mean(name, ACTIONS)}")
    return _made(kind, name, arguments, where)


def describe(action: Action) -> dict[str, Any]:
    """What `action` can be made from again: its name, and its arguments where they are not the default.

    In plain values that JSON holds. It has no infinity: the largest number stands for it. An argument of an action of
    the user's own may be anything: that is described in a word, and the action found among those that are known.
    """
    if not dataclasses.is_dataclass(action) or isinstance(action, type):
        return {"action": action.name}
    given = {"action": action.name}
    for spec in dataclasses.fields(action):
        value = getattr(action, spec.name)
        plain = isinstance(value, bool | int | float | str)
        if spec.init and value is not spec.default and not (plain and value == spec.default):
            given[spec.name] = sys.float_info.max if plain and value == math.inf else _described(value)
    return given


def _described(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    return reprlib.repr(value)


def arguments(action: Action) -> dict[str, Any]:
    """What the log holds of an action besides its name: see `describe`."""
    return {key: value for key, value in describe(action).items() if key != "action"}


def _made(kind: type[Action], name: str, arguments: Mapping[str, Any], where: str) -> Action:
    if dataclasses.is_dataclass(kind):
        allowed = {spec.name: spec for spec in dataclasses.fields(kind) if spec.init}
        for key, value in arguments.items():
            if key not in allowed:
                hint = did_you_mean(key, allowed) if allowed else "It takes none."
                raise ConfigError(f"{where}: {key} is not an argument of {name}. {hint}")
            default = allowed[key].default
            if kind in _OURS and any(isinstance(value, t) != isinstance(default, t) for t in (bool, str)):
                raise ConfigError(f"{where}: {name}({key}={reprlib.repr(value)}): expected {_expected(default)}.")
        for key, spec in allowed.items():
            if key not in arguments and spec.default is spec.default_factory is dataclasses.MISSING:
                raise ConfigError(f"{where}: {name} needs {key}. Give {{action = {name!r}, {key} = ...}}.")
    try:
        made = kind(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except TypeError as error:
        raise ConfigError(f"{where}: {name}: {error}. Give it the arguments that it takes.") from error
    if not isinstance(made, Action):
        raise ConfigError(f"{where}: {name} is no action. Give a class with name, stage and apply().")
    return made


def _expected(default: Any) -> str:
    if isinstance(default, bool):
        return "true or false"
    return "a text" if isinstance(default, str) else "a number"


def _imported(name: str, where: str) -> type[Action]:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{where}: action {name!r} cannot be imported: {problem}. Give MODULE:CLASS.") from error
    if not isinstance(found, type):
        raise ConfigError(f"{where}: action {name!r} is no class. Give MODULE:CLASS.")
    return found
