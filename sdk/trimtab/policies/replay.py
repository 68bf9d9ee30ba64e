"""Replays a record: the adjustments that a run made are made again, each at its own step, and no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from trimtab.actions import Action, Halt, RollBack
from trimtab.errors import ConfigError
from trimtab.policies import reading
from trimtab.policies.decisions import Decision


class Recorded(Protocol):
    """What a replay reads of an adjustment: an event of `types`, or a record of `logs`."""

    @property
    def step(self) -> int: ...
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
        self._before: list[Decision] = []
        self._after: list[Decision] = []
        snapshots: set[int] = set()
        for recorded in adjustments:
            if recorded.outcome != "applied":
                continue
            action = _action(recorded, known)
            weights = recorded.after.get("weights_of_step")
            if isinstance(action, (RollBack, Halt)) and isinstance(weights, int):
                snapshots.add(weights)
            decision = _decision(recorded, action, weights)
            (self._before if action.stage == "before_step" else self._after).append(decision)
        self.snapshots = frozenset(snapshots)

    def due(self, step: int, *, applied: bool) -> list[Decision]:
        """What was done to `step` before it was applied, or (`applied`) after it, in its order."""
        waiting = self._after if applied else self._before
        count = 0
        while count < len(waiting) and waiting[count].step <= step:
            count += 1
        found, waiting[:count] = waiting[:count], []
        return found

    @property
    def left(self) -> int:
        """Adjustments that have not been handed out."""
        return len(self._before) + len(self._after)


def _action(recorded: Recorded, known: list[Action]) -> Action:
    where = f"the adjustment at step {recorded.step}"
    try:
        found = reading.action({**recorded.arguments, "action": recorded.action}, where=where, known=known)
    except ConfigError as error:
        raise ConfigError(f"{error} A run can be replayed with the policies that it was made with.") from error
    return RollBack() if isinstance(found, RollBack) else found  # `since` says how far, see below


def _decision(recorded: Recorded, action: Action, weights: object) -> Decision:
    """A rollback goes to the newest snapshot that was two steps old at `since`: to the very one it went to then."""
    since = weights + 2 if isinstance(weights, int) else recorded.step
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
