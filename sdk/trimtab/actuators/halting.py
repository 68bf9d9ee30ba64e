"""How a run is stopped without losing work: by asking first, and by raising only where the user said so.

What nobody hears is advice: the run trains on with the weights that it has, until the loop asks for the first time.

Frameworks have a stop of their own, which still runs `on_train_end` and saves: they are told through it. A loop of the
user's own asks `trimtab.should_stop()`. Where nobody asks, `on_halt="unwind"` raises `HaltTraining` at the beginning of
a backward, where neither an optimizer nor a scaler is in the middle of anything.

A halt is about the training that it was decided in: where a search goes on with the next model, it is over.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

from trimtab.errors import HaltTraining
from trimtab.searches import living

NOBODY_ASKS = (
    "nobody asks: the loop does not call trimtab.should_stop(). It goes on, with the weights that it has. Ask in the "
    "loop, or use on_halt='unwind'"
)
PATIENCE_BACKWARDS = 1_000  # for a loop that asks, but seldom

# Module and class of the object that has the flag, and the flag.
FLAGS = (
    ("lightning.pytorch.trainer.trainer", "Trainer", "should_stop"),
    ("pytorch_lightning.trainer.trainer", "Trainer", "should_stop"),
    ("transformers.trainer_callback", "TrainerControl", "should_training_stop"),
)
_HOLDER = ("transformers.trainer", "Trainer")  # which says for its control whether it trains


class Halting:
    """Whether the loop is asked to stop, and what is done when it does not listen."""

    def __init__(
        self,
        on_halt: Literal["ask", "unwind"],
        say: Callable[[str, str], None],
        before_backwards: Callable[[Callable[[], None] | None], object],
        steps: Callable[[], int],
        look_out: Callable[[], Callable[[], bool | None] | None],
    ) -> None:
        """Nothing is requested.

        Args:
            before_backwards: has what it is given called at the beginning of every backward from then on; None ends it.
            steps: how many there were.
            look_out: returns what says whether another training is prepared since then, or None on a fault. Both
                may take 0.1 s.
        """
        self.requested = False
        self.asks = False  # whether the loop has ever asked, here or on another rank
        self._reason = ""
        self._on_halt = on_halt
        self.say = say
        self._before_backwards = before_backwards
        self._steps = steps
        self._look_out = look_out
        self._told = False  # whether a framework was told
        self._raised = False
        self._ignored = 0  # backwards since the request
        self._asked_at = -1  # how many steps there were when the loop asked last, since the request
        self._on_heard: Callable[[], object] = _nothing
        self._is_another_prepared: Callable[[], bool | None] = _never

    @property
    def heeded(self) -> bool:
        """Whether a halt was requested, and somebody has heard of it."""
        return self.requested and self._has_listener

    def is_heard(self) -> bool:
        """Whether somebody would hear of a request now. Costs as much as one."""
        return self._has_listener or any(True for _ in _owners())

    def when_heard(self, call: Callable[[], object]) -> None:
        """Have `hear` call it, once; in place of what it was given before."""
        self._on_heard = call

    def request(self, reason: str, *, asks: bool = False) -> None:
        """Ask the loop to stop. Costs one scan of the garbage collector's objects where a framework is loaded.

        `asks`: the loop of another rank has asked, and may tell this one.
        """
        if self.requested:
            return
        self.requested, self._reason, self.asks = True, reason, self.asks or asks
        self._is_another_prepared = self._look_out() or _never
        if self._on_halt == "unwind":
            self._before_backwards(self.before_backward)
        for owner, flag in _owners():
            setattr(owner, flag, True)
            self._told = True
        if not self._has_listener:
            self.say("halt is advice", f"Training should stop ({reason}), but {NOBODY_ASKS}.")

    def begin_anew(self) -> None:
        """Another training has begun: what was requested of the one before is over."""
        self.requested = self._told = self._raised = False
        self._ignored, self._asked_at = 0, -1
        self._on_heard, self._is_another_prepared = _nothing, _never
        if self._on_halt == "unwind":
            self._before_backwards(None)

    def give_way(self) -> None:
        """Where another training is prepared, or has begun, what was requested is over. Takes 0.1 s, where there is."""
        if self.requested and self._is_another_prepared():
            self.begin_anew()

    def asked(self) -> bool:
        """The loop asks whether to stop. It may be the loop of the next training, before its first step."""
        self.asks = True
        if self.requested:
            before, self._asked_at = self._asked_at, self._steps()
            if before == self._asked_at:
                self.give_way()
        return self.requested

    def hear(self) -> None:
        """It was told to."""
        call, self._on_heard = self._on_heard, _nothing
        call()

    def before_backward(self) -> None:
        """Raise `HaltTraining` once the loop has had its chance."""
        if not self.requested:
            return
        self._ignored += 1
        patience = PATIENCE_BACKWARDS if self.asks or self._told else 0
        if self._ignored <= patience:
            return
        if self._raised:
            self.give_way()
        if self.requested:
            self._raised = True
            raise HaltTraining(self._reason)

    @property
    def _has_listener(self) -> bool:
        """Whether somebody is known to listen: the loop, its framework, or whoever is to be unwound."""
        return self.asks or self._told or self._on_halt == "unwind"


def _nothing() -> None:
    pass


def _never() -> bool:
    return False


def _owners() -> Iterator[tuple[Any, str]]:
    """The frameworks' objects that have a flag of their own, and a loop that goes on: others would tell nobody."""
    wanted = {kind: flag for module, name, flag in FLAGS if (kind := _loaded(module, name)) is not None}
    if not wanted:
        return
    holder = _loaded(*_HOLDER)
    found: list[tuple[Any, str]] = []
    idle: set[int] = set()
    for thing in living((*wanted, holder) if holder is not None else tuple(wanted)):
        kinds = type(thing).__mro__
        flag = next((wanted[kind] for kind in kinds if kind in wanted), None)
        if flag is not None:
            found.append((thing, flag))
        elif holder in kinds and not vars(thing).get("is_in_train", True):
            idle.add(id(vars(thing).get("control")))
    yield from ((thing, flag) for thing, flag in found if id(thing) not in idle and _goes_on(thing))


def _loaded(module: str, name: str) -> Any:
    """The class, or None where nobody has imported it. Nothing is imported, as an attribute of the module might be."""
    return vars(sys.modules[module]).get(name) if module in sys.modules else None


def _goes_on(thing: Any) -> bool:
    """Lightning's trainer says what it does. What says nothing goes on, as far as is known."""
    return bool(getattr(vars(thing).get("state"), "status", "running") == "running")
