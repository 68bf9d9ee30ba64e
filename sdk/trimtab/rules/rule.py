"""A rule of the user's own, and the list of rules that a run is judged by.

Three lines are enough:

    Rule("loss_too_high", signal="logged:perplexity", threshold=100, hold=3, severity="warning")

or the same keys in the TOML file:

    [[rules]]
    name = "loss_too_high"
    signal = "logged:perplexity"
    threshold = 100
    hold = 3

A table whose name is a shipped rule's changes that one: `threshold`, `hold`, `clear`, `severity`, and of
`no_improvement` also `min_delta`; `enabled = false` leaves it out.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab import signals
from trimtab.catalog.rules import RULES, RuleSpec
from trimtab.errors import ConfigError, did_you_mean
from trimtab.types import Severity

LOGGED = "logged:"
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of your own, beside the shipped ones. It fires when `hold` points in a row are at `threshold` or above.

    Args:
        name: letters, digits and underscores; not a shipped rule's.
        signal: what is judged; larger is worse. One of: the name of a built-in signal (docs/rules/README.md);
            "logged:NAME" for a value that you log; a function that is called with the loss of each step (a float, or
            None if there is none) and returns a number, or None for "no point". In a table the function is written as
            "MODULE:FUNCTION". It is called on the training thread; after raising five times it is not called any more.
        threshold: a number over 0.
        hold: points in a row, from 1 to 10000.
        clear: the episode ends after `hold` points in a row under this share of the threshold, over 0 to 1.
        severity: "info" only reports, unless a policy of yours is bound to the rule; "warning" and "critical" may act.
        relative: not judged for 20 steps after your own learning rate changed by 2x. Says nothing of a rule that is
            judged once for the run: about validation, records, or what you log.
        meaning, advice: sentences for people, on what it means and what to do.

    Raises:
        ConfigError: a name that is taken or no identifier, an unknown signal (with the nearest), a value out of range.
    """

    name: str
    signal: str | Callable[[float | None], float | None]
    threshold: float
    hold: int = 1
    clear: float = 0.8
    severity: Severity = "warning"
    relative: bool = False
    meaning: str = ""
    advice: str = ""

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.isidentifier()):
            raise ConfigError(f"rule name {self.name!r}: expected letters, digits and underscores, as my_rule.")
        if self.name in RULES:
            raise ConfigError(
                f"rule {self.name}: this is a shipped rule. Take another name, or give a table with that name and only "
                "what should change."
            )
        _check(self.name, self)
        if not isinstance(self.relative, bool):
            raise ConfigError(f"rule {self.name}: relative={self.relative!r}: expected true or false.")
        for key in ("meaning", "advice"):
            if not isinstance(getattr(self, key), str):
                raise ConfigError(f"rule {self.name}: {key}={getattr(self, key)!r}: expected a text.")
        if isinstance(self.signal, str):
            if not self.signal.startswith(LOGGED):
                signals.find(self.signal)
                _refuse_watchdogs(self.name, self.signal)
            elif self.signal == LOGGED:
                raise ConfigError(f"rule {self.name}: signal='logged:' lacks a name. Give one, as 'logged:perplexity'.")
        elif not callable(self.signal):
            raise ConfigError(
                f"rule {self.name}: signal={self.signal!r}: expected the name of a signal, 'logged:NAME' or a function."
            )


_CHANGES = {"threshold", "hold", "clear", "severity"}
_MORE = {"no_improvement": ("min_delta",)}  # what else may be changed of a shipped rule
_KEYS = {field.name for field in dataclasses.fields(Rule)}


def resolve(given: Sequence[Rule | RuleSpec | Mapping[str, Any]] | None = None) -> list[RuleSpec | Rule]:
    """The rules of a run: the shipped ones, as `given` changes them, and those that it adds.

    `given` holds rules, or mappings with the keys of `Rule`. A mapping whose name is a shipped rule's may have
    `enabled`, `threshold`, `hold`, `clear` and `severity`, and that of `no_improvement` also `min_delta`.

    Raises:
        ConfigError: an unknown key, rule or signal (with the nearest name), a value out of range, a name used twice.
    """
    found: dict[str, RuleSpec | Rule] = dict(RULES)
    named: set[str] = set()
    for item in given or ():
        rule = _read(item)
        name = rule["name"] if isinstance(rule, dict) else rule.name
        if name in named:
            remedy = "Put what changes into one table" if name in RULES else "Give one of them another name"
            raise ConfigError(f"rule {name}: given twice. {remedy}.")
        named.add(name)
        if not isinstance(rule, dict):
            found[name] = rule
        elif rule.pop("enabled", True):
            found[name] = _changed(RULES[name], rule)
        else:
            del found[name]
    return list(found.values())


def _read(item: Rule | RuleSpec | Mapping[str, Any]) -> Rule | RuleSpec | dict[str, Any]:
    """A rule as it is, a new one from a mapping, or what a mapping changes of a shipped one."""
    if isinstance(item, RuleSpec):
        _check(item.name, item)
        signals.find(item.signal)
    if isinstance(item, (Rule, RuleSpec)):
        return item
    if not isinstance(item, Mapping):
        raise ConfigError(f"rules: {item!r}: expected Rule(...), or a table with the keys name, signal and threshold.")
    name = item.get("name")
    if name is None:
        raise ConfigError(f'rules: {dict(item)!r}: the name is missing. Add name = "...".')
    if not isinstance(name, str):
        raise ConfigError(f"rules: name={name!r}: expected a text.")
    for key in ("enabled", "relative"):
        if not isinstance(item.get(key, True), bool):
            raise ConfigError(f"rule {name}: {key}={item[key]!r}: expected true or false.")
    if name in RULES and "signal" not in item:
        _refuse_unknown(name, item, {"name", "enabled", *_CHANGES, *_MORE.get(name, ())})
        return dict(item)
    if "signal" not in item:
        raise ConfigError(
            f"rule {name}: there is no such rule, and a new one needs a signal. {did_you_mean(name, RULES)}"
        )
    _refuse_unknown(name, item, _KEYS)
    if "threshold" not in item:
        raise ConfigError(f"rule {name}: the threshold is missing. Add threshold = ..., a number over 0.")
    signal = item["signal"]
    named = isinstance(signal, str) and ":" in signal and not signal.startswith(LOGGED)
    return Rule(**{**item, "signal": _imported(name, signal) if named else signal})


def _imported(rule: str, signal: str) -> Any:
    module, _, function = signal.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"rule {rule}: signal={signal!r}: {problem}. Give MODULE:FUNCTION, or logged:NAME."
        ) from error


def _refuse_unknown(name: str, item: Iterable[str], allowed: set[str]) -> None:
    for key in item:
        if key not in allowed:
            raise ConfigError(f"rule {name}: {key} is not a key. {did_you_mean(key, allowed)}")


def _changed(spec: RuleSpec, changes: Mapping[str, Any]) -> RuleSpec:
    _check(spec.name, changed := dataclasses.replace(spec, **changes))
    return changed


def _check(name: str, rule: RuleSpec | Rule) -> None:
    """Refuse numbers that make no rule."""
    if not (_is_number(rule.threshold) and 0 < rule.threshold < math.inf):
        raise ConfigError(f"rule {name}: threshold={rule.threshold!r}: expected a number over 0.")
    if not isinstance(rule.hold, int) or isinstance(rule.hold, bool) or not 1 <= rule.hold <= 10_000:
        raise ConfigError(f"rule {name}: hold={rule.hold!r}: expected a whole number of points, from 1 to 10000.")
    if not (_is_number(rule.clear) and 0 < rule.clear <= 1):
        raise ConfigError(f"rule {name}: clear={rule.clear!r}: expected a share of the threshold, over 0 to 1.")
    if isinstance(rule, RuleSpec) and not (_is_number(rule.min_delta) and 0 <= rule.min_delta < math.inf):
        raise ConfigError(f"rule {name}: min_delta={rule.min_delta!r}: expected a number, 0 or more.")
    if rule.severity not in SEVERITIES:
        raise ConfigError(f"rule {name}: severity={rule.severity!r}. {did_you_mean(str(rule.severity), SEVERITIES)}")


def _refuse_watchdogs(name: str, signal: str) -> None:
    """A run that hangs has no step at which a rule could be judged."""
    for rule in RULES.values():
        if rule.judged == "watchdog" and rule.signal == signal:
            raise ConfigError(
                f"rule {name}: signal={signal!r}: the watchdog alone judges by it. Change the threshold of its rule, "
                f'as {{"name": "{rule.name}", "threshold": {2 * rule.threshold:g}}}.'
            )


def _is_number(value: object) -> bool:
    """Whether it is one that a float can hold."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def explained(name: str) -> str:
    """What a shipped rule means and what to do, for people."""
    return f"{RULES[name].meaning} {RULES[name].advice}"
