"""Replays a record: the adjustments that a run made are made again, each at its own step, and no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from trimtab.actions import Action, Halt, RollBack, SkipStep
from trimtab.errors import ConfigError
from trimtab.policies import reading
from trimtab.policies.decisions import Decision
from trimtab.policies.policy import PERSON

_SWITCHES = ("pause", "resume")  # which a person did, and change nothing by themselves


class Recorded(Protocol):
    """What a replay reads of an adjustment: an event of `types`, or a record of `logs`."""

    @property
    def step(self) -> int: ...
    @property
    def moment(self) -> str: ...
    @property
    def policy(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def arguments(self) -> Mapping[str, Any]: ...
    @property
    def rule(self) -> str: ...
    @property
    def episode(self) -> int | None: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def after(self) -> Mapping[str, Any]: ...
    @property
    def outcome(self) -> str: ...


class Replay:
    """The applied adjustments of a record, handed out once each.

    `snapshots` are the steps after which the run must take one, whatever its health or the clock say: those that it is
    going to be rolled back to. A replay repeats what policies and persons did; that the loop does again what it did is
    up to the loop (its seeds, its data, `gradients_every`).

    Args:
        adjustments: in the order in which they were recorded.
        actions: instances of actions of the user's own, found by name.

    Raises:
        ConfigError: an action that is not known, or was recorded without its arguments.
    """

    def __init__(self, adjustments: Iterable[Recorded], actions: Iterable[Action] = ()) -> None:
        known = list(actions)
        self._waiting: list[tuple[Decision, bool]] = []  # and whether the step of its number was applied by then
        snapshots: set[int] = set()
        for recorded in adjustments:
            if recorded.outcome != "applied" or (recorded.policy == PERSON and recorded.action in _SWITCHES):
                continue
            action = _action(recorded, known)
            weights = recorded.after.get("weights_of_step")
            if isinstance(action, (RollBack, Halt)) and isinstance(weights, int):
                snapshots.add(weights)
            buffers = recorded.after.get("buffers_of_step")
            if isinstance(buffers, int):
                snapshots.add(buffers)
            self._add(_decision(recorded, action, weights), recorded.moment != "before_step")
        self.snapshots = frozenset(snapshots)

    def due(self, step: int, optimizer: str, *, applied: bool) -> list[Decision]:
        """What was done while `optimizer` took `step`, before the step was applied or (`applied`) after it.

        In the order in which it was done: what comes later waits for what came before. A step that was left out is
        tried again under the same number, and what was done to the second attempt waits for that one.
        """
        found: list[Decision] = []
        while self._waiting:
            decision, was_applied = self._waiting[0]
            if decision.step > step or was_applied != applied:
                break
            if not applied and decision.optimizer not in ("", optimizer):
                break
            if not applied and any(_leaves_out(earlier, decision) for earlier in found):
                break
            found.append(decision)
            del self._waiting[0]
        return found

    def _add(self, decision: Decision, applied: bool) -> None:
        """Behind the others, or to the one before when both were one rung that waited for the same moment."""
        if applied and self._waiting and self._waiting[-1][1]:
            last = self._waiting[-1][0]
            if _rung(last) == _rung(decision):
                since = min(last.since, decision.since)
                self._waiting[-1] = replace(last, since=since, actions=last.actions + decision.actions), True
                return
        self._waiting.append((decision, applied))

    @property
    def left(self) -> int:
        """Adjustments that have not been handed out."""
        return len(self._waiting)


def _rung(decision: Decision) -> tuple[object, ...]:
    return decision.step, decision.policy, decision.rule, decision.episode, decision.optimizer


def _leaves_out(earlier: Decision, decision: Decision) -> bool:
    """Whether the attempt of the first was over before the second was decided: none is left out twice."""
    both = (earlier.actions[0], decision.actions[0])
    return earlier.step == decision.step and all(isinstance(action, SkipStep) for action in both)


def _action(recorded: Recorded, known: list[Action]) -> Action:
    where = f"the adjustment at step {recorded.step}"
    try:
        found = reading.action({**recorded.arguments, "action": recorded.action}, where=where, known=known)
    except ConfigError as error:
        raise ConfigError(f"{error} A run can be replayed with the policies that it was made with.") from error
    return RollBack() if isinstance(found, RollBack) else found  # `since` says how far, see below


def _decision(recorded: Recorded, action: Action, weights: object) -> Decision:
    """A rollback goes to the newest snapshot that was two steps old at `since`: to the very one it went to then."""
    since = 2 + (weights if isinstance(weights, int) else recorded.step)
    return Decision(
        policy=recorded.policy,
        rule=recorded.rule,
        optimizer=recorded.optimizer,
        episode=recorded.episode,
        step=recorded.step,
        since=since,
        actions=(action,),
        reason="replayed",
    )
