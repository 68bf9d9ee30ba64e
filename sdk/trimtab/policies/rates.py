"""The learning-rate scale of every optimizer: when it may be raised, and when it creeps back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from trimtab.policies.accounts import meets
from trimtab.policies.creeping import CreepBack, Creeping
from trimtab.policies.decisions import Decision
from trimtab.policies.policy import CREEP_BACK
from trimtab.types import Verdict

RAISE_BARRED_STEPS = 200  # after a rule fired whose policy lowers the learning rate


class Rates:
    """Empty until a scale is set for the first time."""

    def __init__(self) -> None:
        self._creeping: dict[str, Creeping] = {}
        self._lowered: dict[str, int] = {}  # optimizer: when a rule last fired whose policy lowers its rate
        self._seen: dict[str, int] = {}  # optimizer: up to which step its health is counted

    def set(self, optimizer: str, scale: float, *, by_person: bool) -> None:
        """The scale of one optimizer is now this. Where it was so before, nothing was set."""
        creeping = self._creeping.get(optimizer) or Creeping()
        if scale == creeping.scale:
            return
        self._creeping[optimizer] = creeping
        if by_person:
            creeping.chosen(scale)
        elif scale < creeping.scale:
            creeping.fell(scale)
        else:
            creeping.raised(scale)

    def left(self, optimizer: str) -> float:
        """What share of its learning rate policies have left it."""
        creeping = self._creeping.get(optimizer)
        return 1.0 if creeping is None else creeping.scale / creeping.home

    def creeping(self, optimizer: str) -> Creeping | None:
        """Where its scale stands, and how far it may come back; None where it was never set."""
        return self._creeping.get(optimizer)

    def put_back(self, optimizer: str, creeping: Creeping) -> None:
        """Its scale stands where it did before it was forgotten. Health is counted anew."""
        creeping.trouble()
        self._creeping[optimizer] = creeping

    def forget(self, optimizer: str) -> None:
        """Nothing is known of its scale any more, but when a rule fired."""
        self._creeping.pop(optimizer, None)
        self._seen.pop(optimizer, None)

    def begin_anew(self, optimizer: str) -> None:
        """It trains another model: nothing is known of it at all, nor when a rule of the run as a whole fired."""
        self.forget(optimizer)
        self._lowered = {other: at for other, at in self._lowered.items() if not meets(other, optimizer)}

    def trouble(self, optimizer: str, step: int, *, lowers: bool) -> None:
        """A rule fired, or ceased to: health is counted from here on. `lowers`: its policy lowers the learning rate."""
        if lowers:
            self._lowered[optimizer] = step
        for other, creeping in self._creeping.items():
            if meets(other, optimizer):
                creeping.trouble()
                self._seen[other] = step

    def may_raise(self, optimizer: str, factor: float, step: int) -> bool:
        """Whether nothing speaks against a higher rate: neither trouble of late, nor a fall from such a height."""
        for other, at in self._lowered.items():
            if meets(other, optimizer) and step - at <= RAISE_BARRED_STEPS:
                return False
        return all(c.allows(c.scale * factor) for other, c in self._creeping.items() if meets(other, optimizer))

    def healthy(self, optimizers: Collection[str], step: int, is_worse: Callable[[str], bool]) -> Iterator[Decision]:
        """These are healthy at `step`: yields a decision for each whose scale is to grow.

        One whose loss `is_worse` than it was waits: the rate that it has is high enough.
        """
        for optimizer, creeping in self._creeping.items():
            if optimizer not in optimizers:
                continue
            scale = creeping.healthy_steps(step - self._seen.get(optimizer, step))
            self._seen[optimizer] = step
            if scale is not None and not is_worse(optimizer):
                yield Decision(
                    policy=CREEP_BACK,
                    optimizer=optimizer,
                    step=step,
                    since=step,
                    actions=(CreepBack(scale / creeping.scale, ceiling=creeping.home),),
                    reason=f"{creeping.healthy} healthy steps",
                )

    def give_back(self, verdict: Verdict, step: int) -> Decision | None:
        """What fires is not the rate's fault: undo what it was lowered by, or None where it was not."""
        creeping = self._creeping.get(verdict.optimizer)
        if creeping is None or creeping.scale >= creeping.home:
            return None
        return Decision(
            policy=CREEP_BACK,
            optimizer=verdict.optimizer,
            step=step,
            since=step,
            actions=(CreepBack(creeping.home / creeping.scale, ceiling=creeping.home),),
            reason=f"{verdict.rule} whatever was done about it: neither weights nor rate are the cause",
        )

    def __bool__(self) -> bool:
        return bool(self._creeping)

    def state(self) -> dict[str, Any]:
        """For `restore`: plain values that JSON holds."""
        return {
            "creeping": {optimizer: creeping.state() for optimizer, creeping in self._creeping.items()},
            "lowered": dict(self._lowered),
            "seen": dict(self._seen),
        }

    @classmethod
    def restore(cls, state: Mapping[str, Any], ahead: int) -> Rates:
        """Go on from `state`, where steps were `ahead` of those to come."""
        rates = cls()
        rates._creeping = {optimizer: Creeping.restore(s) for optimizer, s in state["creeping"].items()}
        rates._lowered = {optimizer: int(at) - ahead for optimizer, at in state["lowered"].items()}
        rates._seen = {optimizer: int(at) - ahead for optimizer, at in state["seen"].items()}
        return rates
