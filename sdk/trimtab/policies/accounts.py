"""What policies have done so far, in steps: where each stands on its ladder, what it may still do, and when.

This outlives the process through `state` and `restore`, but for what ends with it: a halt that was asked for, and
failures, whose cause may be mended by then. There is no clock, so that a run that is done again decides the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from trimtab.policies.policy import Policy, halts

FAILURES = 5  # after which a policy is disabled
ROW_STEPS = 2  # first aid that comes no later than this after first aid is in a row with it

Key: TypeAlias = tuple[str, str]  # a policy, a group or a rule; and an optimizer

_KEYED = ("climbed", "aided", "cooling", "acted", "spent")  # what is by `Key` and outlives the process


@dataclass(slots=True)
class Accounts:
    """One entry for each policy (or its group, or its rule) and optimizer; empty when a run begins."""

    climbed: dict[Key, tuple[int, int]] = field(default_factory=dict)  # group: adjustments in a row, step of the last
    aided: dict[Key, tuple[int, int]] = field(default_factory=dict)  # policy: the same of first aid
    cooling: dict[Key, int] = field(default_factory=dict)  # policy: the first step on which it may adjust again
    settling: dict[str, int] = field(default_factory=dict)  # optimizer: ... on which less than critical rules may
    acted: dict[Key, int] = field(default_factory=dict)  # rule: the last episode that was acted on
    finished: set[Key] = field(default_factory=set)  # policies that have asked for a halt
    spent: Counter[Key] = field(default_factory=Counter)  # policy: adjustments
    failures: Counter[str] = field(default_factory=Counter)  # policy: adjustments that raised

    def position(self, policy: Policy, optimizer: str, step: int, since: int) -> tuple[int, int]:
        """How much first aid was given in a row, and the lasting rung that comes next.

        At `step`, for trouble `since` then: steps that are judged together may show it long after it began.
        """
        aided, at = self.aided.get((policy.name, optimizer), (0, 0))
        if step - at > ROW_STEPS:
            aided = 0
        climbed, at = self.climbed.get((policy.group, optimizer), (0, 0))
        if since - at > policy.memory:
            climbed = 0
        return aided, min(policy.first_aid + climbed, len(policy.rungs) - 1)

    def done(self, policy: Policy, optimizer: str, rung: int, step: int, since: int) -> None:
        """A rung was carried out, or would have been."""
        if rung < policy.first_aid:
            self.aided[policy.name, optimizer] = rung + 1, step
            return
        _, lasting = self.position(policy, optimizer, step, since)
        self.aided.pop((policy.name, optimizer), None)
        self.climbed[policy.group, optimizer] = max(rung, lasting) - policy.first_aid + 1, step
        self.spent[policy.name, optimizer] += 1
        self.cool(policy, optimizer, step)
        self.settling[optimizer] = step + policy.cooldown
        if halts(policy.rungs[rung]):
            self.finished.add((policy.name, optimizer))

    def cool(self, policy: Policy, optimizer: str, step: int) -> None:
        self.cooling[policy.name, optimizer] = step + policy.cooldown

    def remaining(self, policy: Policy) -> int:
        """Adjustments left in the policy's budget, which all optimizers share."""
        return max(policy.budget - sum(count for (name, _), count in self.spent.items() if name == policy.name), 0)

    def begin_anew(self, optimizer: str) -> None:
        """It trains another model: nothing was done to that one yet, nor to the run as a whole since it is there.

        Episodes are numbered on, and a policy that fails does so whatever is trained.
        """
        for entries in (self.climbed, self.aided, self.cooling, self.spent):
            for key in [key for key in entries if meets(key[1], optimizer)]:
                del entries[key]
        self.settling = {other: until for other, until in self.settling.items() if not meets(other, optimizer)}
        self.finished = {key for key in self.finished if not meets(key[1], optimizer)}

    def over(self, policy: Policy, optimizer: str) -> bool:
        """Whether the policy does nothing any more: it asked for a halt, or failed too often."""
        return (policy.name, optimizer) in self.finished or self.failures[policy.name] >= FAILURES

    def waiting(self, policy: Policy, optimizer: str, step: int, *, critical: bool) -> bool:
        """Whether the dust of an earlier adjustment has to settle first."""
        if step < self.cooling.get((policy.name, optimizer), 0):
            return True
        return not critical and any(step < until for other, until in self.settling.items() if meets(other, optimizer))

    def state(self) -> dict[str, Any]:
        """For `restore`: plain values that JSON holds."""
        keyed = {name: [[*key, value] for key, value in getattr(self, name).items()] for name in _KEYED}
        return {**keyed, "settling": dict(self.settling)}

    @classmethod
    def restore(cls, state: Mapping[str, Any], ahead: int) -> Accounts:
        """Go on from `state`, where steps were `ahead` of those to come. Raises ValueError or TypeError for another."""

        def keyed(name: str) -> dict[Key, Any]:
            return {(policy, optimizer): value for policy, optimizer, value in state[name]}

        return cls(
            climbed={key: (int(count), int(at) - ahead) for key, (count, at) in keyed("climbed").items()},
            aided={key: (int(count), int(at) - ahead) for key, (count, at) in keyed("aided").items()},
            cooling={key: int(until) - ahead for key, until in keyed("cooling").items()},
            settling={optimizer: int(until) - ahead for optimizer, until in state["settling"].items()},
            acted={key: int(episode) for key, episode in keyed("acted").items()},
            spent=Counter({key: int(count) for key, count in keyed("spent").items()}),
        )


def meets(one: str, other: str) -> bool:
    """Whether two adjustments touch the same optimizer; an empty name stands for all of them."""
    return one == other or not one or not other
