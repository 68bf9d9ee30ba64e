"""A policy: which rule it answers, and the ladder of what it does."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from reprlib import repr as shown
from typing import TypeAlias

from trimtab.actions import LARGEST, STAGES, Action, Halt, LimitUpdates, RollBack, ScaleLearningRate
from trimtab.errors import ConfigError, did_you_mean
from trimtab.types import Strides

ALERT = "alert:"  # before the name of an alert that is no rule of ours
PERSON = "person"  # the policy of what a person asked for
CREEP_BACK = "creep_back"  # the policy of a lowered rate on its way back
_RESERVED = (PERSON, CREEP_BACK)
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")

Rung: TypeAlias = tuple[Action, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What to do when a rule fires, and what to do when it fires again.

    The first time the first rung of the ladder is carried out. If the rule fires again within `memory` steps, it is the
    next rung; later it is the first one again. Rungs at the beginning that touch one step only (skip it, clip it) are
    first aid: each new trouble gets them first, at once, and only if it goes on from step to step the rungs above
    follow.

    Args:
        on: the name of a rule, or `alert:NAME` for an alert of that name from outside.
        ladder: rungs. Each is an action, or several in a tuple, which are applied in the order given.
        name: unique. Default: that of the rule or alert.
        cooldown: steps after an adjustment in which this policy makes no other. First aid needs none and sets none.
        budget: adjustments in a training, over all optimizers, 1 or more. First aid is not counted.
        memory: steps after an adjustment within which the rule climbs when there is trouble again.
        group: policies of one group share their place on the ladder, since one trouble may show as a spike first and
            as divergence next. Default: each policy for itself.

    Raises:
        ConfigError: a ladder without an action, something in it that is no action, a number out of range.
    """

    on: str
    ladder: Sequence[Action | Sequence[Action]]
    name: str = ""
    cooldown: int = 20
    budget: int = 8
    memory: int = 300
    group: str = ""
    rungs: tuple[Rung, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.on, str) or not self.on or self.on == ALERT:
            raise ConfigError(f"Policy(on={self.on!r}): expected the name of a rule, or 'alert:NAME' for an alert.")
        for name, default in (("name", self.on.removeprefix(ALERT)), ("group", self.name or self.on)):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"Policy(on={self.on!r}, {name}={getattr(self, name)!r}): expected a text.")
            object.__setattr__(self, name, getattr(self, name) or default)
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise ConfigError(
                f"Policy(name={self.name!r}): expected up to 64 letters, digits, '_', '.', ':' or '-', and none of "
                f"{', '.join(_RESERVED)}. Give this policy another name."
            )
        for name, least in (("cooldown", 0), ("budget", 1), ("memory", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
                unit = "adjustments" if name == "budget" else "steps"
                raise ConfigError(
                    f"Policy(on={self.on!r}, {name}={shown(value)}): expected a whole number of {unit}, {least} or "
                    "more, and below 2**63."
                )
        object.__setattr__(self, "rungs", tuple(_rungs(self)))

    @property
    def first_aid(self) -> int:
        """How many rungs at the beginning touch the judged step alone."""
        return next((at for at, rung in enumerate(self.rungs) if not momentary(rung)), len(self.rungs))

    @property
    def goes_back(self) -> bool:
        """Whether the first lasting rung goes back to an earlier state."""
        return any(isinstance(action, RollBack) for action in self.rungs[min(self.first_aid, len(self.rungs) - 1)])

    @property
    def lowers(self) -> bool:
        """Whether any rung lowers the learning rate."""
        return any(
            isinstance(a, LimitUpdates) or (isinstance(a, ScaleLearningRate) and a.factor < 1)
            for rung in self.rungs
            for a in rung
        )


def momentary(rung: Rung) -> bool:
    """Whether a rung touches the judged step alone, as skipping or clipping it does."""
    return all(action.stage == "before_step" and getattr(action, "steps", 1) == 1 for action in rung)


def rate_raise(rung: Rung) -> float:
    """The factor by which a rung raises the learning rate; 1 where it does not."""
    factor = 1.0
    for action in rung:
        factor *= action.factor if isinstance(action, ScaleLearningRate) else 1.0
    return max(factor, 1.0)


def measured(rung: Rung, strides: Strides, older: int = 0) -> Rung:
    """The rung with what was measured filled into its actions. They go back to a snapshot so much `older`."""

    def filled(action: Action) -> Action:
        if isinstance(action, LimitUpdates):
            return replace(action, **strides._asdict())
        if isinstance(action, RollBack) and older:
            return replace(action, back=action.back + older)
        return action

    return tuple(map(filled, rung))


def halts(rung: Rung) -> bool:
    return any(isinstance(action, Halt) for action in rung)


def check(policies: Sequence[Policy], rules: Collection[str]) -> None:
    """Raises ConfigError for a policy on a rule that is not in `rules`, and for two on one rule or of one name."""
    seen: dict[str, Policy] = {}
    for policy in policies:
        if not policy.on.startswith(ALERT) and policy.on not in rules:
            raise ConfigError(
                f"Policy(on={policy.on!r}): there is no such rule. {did_you_mean(policy.on, rules)} "
                f"An alert from outside is bound as 'alert:{policy.on}'."
            )
        for key in (f"on={policy.on!r}", f"name={policy.name!r}"):
            if key in seen:
                remedy = "Rename one" if key.startswith("name") else "Put what they do into the ladder of one"
                raise ConfigError(f"Two policies have {key}. {remedy}.")
            seen[key] = policy


def _rungs(policy: Policy) -> Iterator[Rung]:
    given = policy.ladder
    if isinstance(given, (str, Action)) or not isinstance(given, Sequence):
        raise ConfigError(f"Policy(on={policy.on!r}, ladder={given!r}): expected a list of actions, such as [Halt()].")
    if not given:
        raise ConfigError(
            f"Policy(on={policy.on!r}, ladder=[]): expected one action at least. To do nothing about a rule, leave out "
            "its policy."
        )
    for rung in given:
        actions = tuple(rung) if isinstance(rung, (list, tuple)) else (rung,)
        for action in actions:
            if isinstance(action, type) or not isinstance(action, Action):
                raise ConfigError(
                    f"Policy(on={policy.on!r}): {action!r} in its ladder is no action. Give an instance with name, "
                    "stage and apply(), such as RollBack(), or several in a tuple."
                )
            if action.stage not in STAGES or not isinstance(action.name, str) or not action.name:
                raise ConfigError(
                    f"Policy(on={policy.on!r}): {action!r} in its ladder has name={action.name!r} and "
                    f"stage={action.stage!r}. Give it a name, and one of the stages {', '.join(STAGES)}."
                )
        if not actions:
            raise ConfigError(f"Policy(on={policy.on!r}): a rung of its ladder is empty. Give it an action.")
        yield actions
