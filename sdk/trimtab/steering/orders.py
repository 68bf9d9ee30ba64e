"""A person's orders, from the files of `control` to the run: taken up at the end of a step, whatever `act` says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from trimtab.actions import Change
from trimtab.actuators.controls import ADVICE
from trimtab.actuators.halting import NOBODY_ASKS
from trimtab.guard import Guard
from trimtab.policies import Decision, Engine
from trimtab.policies.policy import PERSON
from trimtab.steering.control import Command, Control
from trimtab.steering.execution import OVER, Execution, Moment, Told
from trimtab.types import Adjustment, Outcome


class Orders:
    """Commands that were given and not carried out yet.

    Args:
        take_up: how a decision is carried out.
        silence: called with the step and a reason, so that nothing is done any more that policies have decided.
        refusal: says why this run can be paused, but not adjusted or stopped; empty where it can.
    """

    def __init__(
        self,
        control: Control,
        execution: Execution,
        engine: Engine,
        guard: Guard,
        say: Callable[[str, str], None],
        *,
        take_up: Callable[[Decision, Moment, Told], object],
        silence: Callable[[int, str], object],
        refusal: Callable[[], str],
    ) -> None:
        self._refusal = refusal
        self._silence = silence
        self._control = control
        self._take_up = take_up
        self._execution = execution
        self._engine = engine
        self._guard = guard
        self._say = say
        self._open = False
        self._given: list[Command] = []

    @property
    def waiting(self) -> bool:
        """Whether any was given that the next step should not pass over."""
        return bool(self._given)

    def open(self) -> None:
        """The run begins: from here on orders are taken."""
        problem = self._guard.attempt(self._control.open)
        self._open = problem is None
        if problem is not None:
            self._say("control closed", f"Commands are not taken up: {problem}.")

    def look(self, now: float) -> None:
        """See whether there are any. `now` is in seconds; looks at the disk twice a second at most."""
        if self._open:
            self._given += self._control.poll(now)

    def take_up(self, step: int) -> None:
        """A step is over: do what was ordered."""
        given, self._given = self._given, []
        for command in given:
            if command.kind in ("pause", "resume"):
                self._pause(command, step)
            elif (refusal := self._refusal()) or not command.actions:
                self._record(command, command.kind, step, "refused", refusal or "it names nothing to do")
            else:
                self._take_up(self._decision(command, step), Moment.after(step), self._answering(command))

    def close(self, step: int) -> None:
        """The run ends: answer what it will not do any more, and what nobody has looked at."""
        if self._open:
            self.look(math.inf)
            self._open = False
            for command in self._given:
                self._record(command, command.kind, step, "refused", OVER)
            self._given = []

    def _pause(self, command: Command, step: int) -> None:
        """Or its end. What policies have decided and not done yet is not done."""
        before, after = self._engine.paused, command.kind == "pause"
        self._engine.paused = after
        if after:
            self._silence(step, "paused by a person")
        self._record(command, command.kind, step, "applied", "", Change({"paused": before}, {"paused": after}))

    def _record(
        self, command: Command, action: str, step: int, outcome: Outcome, reason: str, change: Change | None = None
    ) -> None:
        decision = self._decision(command, step)
        recorded = self._execution.record(
            decision, action, Moment.after(step), outcome, change=change, reason=reason or decision.reason
        )
        self._answering(command)([recorded])

    @staticmethod
    def _decision(command: Command, step: int) -> Decision:
        """To go back is to go to the newest snapshot: a person who asks for it knows of no step at which it began."""
        reason, actions = _reason(command), command.actions
        return Decision(policy=PERSON, step=step, since=step + 2, actions=actions, reason=reason)

    def _answering(self, command: Command) -> Callable[[Sequence[Adjustment]], None]:
        def answer(recorded: Sequence[Adjustment]) -> None:
            outcome: Outcome = next((a.outcome for a in recorded if a.outcome != "applied"), "applied")
            text, step = _in_a_row([_described(a, command) for a in recorded]), max(a.step for a in recorded)
            problem = self._guard.attempt(lambda: self._control.acknowledge(command, outcome, text, step=step))
            if problem is not None:
                said = f"What became of command {command.id} cannot be written down"
                self._say(f"control {command.id}", f"{said}: {problem}.")

        return answer


def _described(adjustment: Adjustment, command: Command) -> str:
    """In words, with what was noted beside the reason, which the person knows."""
    if adjustment.outcome != "applied":
        return f"{adjustment.action} was {adjustment.outcome}: {adjustment.reason}"
    before = {name: f"{_short(value)} -> " for name, value in adjustment.before.items()}
    done = ", ".join(f"{n} {before.get(n, '')}{_short(v)}" for n, v in adjustment.after.items()) or adjustment.action
    if adjustment.after.get("halted") == ADVICE:
        done = f"{done}, but {NOBODY_ASKS}"
    note = adjustment.reason.removeprefix(_reason(command)).strip()
    return f"{done}. {note}" if note else done


def _in_a_row(said: Sequence[str]) -> str:
    """Several things in one sentence, of which each may end like one."""
    return "; ".join([*(each.removesuffix(".") for each in said[:-1]), *said[-1:]])


def _reason(command: Command) -> str:
    return f"trimtab {command.kind}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
