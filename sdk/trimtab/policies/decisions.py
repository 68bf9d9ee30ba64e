"""What the engine decided: actions to carry out for one optimizer, or a word on why there are none."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.policies.policy import PERSON, Rung
from trimtab.types import AlertSource, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One rung of one policy, for one episode of one rule.

    With `outcome` None its actions are to be carried out, in their order, and `Engine.settle` is to be told how it
    went. Any other outcome is final, and `reason` says why; such a decision is for the record only.
    """

    policy: str
    rule: str = ""  # empty where no rule asked: creeping back, a person
    optimizer: str = ""  # empty: every one
    episode: int | None = None
    source: AlertSource = "process"
    step: int
    since: int  # the first step that may be bad: a rollback goes to before it
    rung: int = 0  # of the policy's ladder, from 0
    actions: Rung
    outcome: Outcome | None = None
    reason: str = ""
    budget_remaining: int | None = None

    @property
    def by_person(self) -> bool:
        """Whether a person asked for it, and no policy."""
        return self.policy == PERSON
