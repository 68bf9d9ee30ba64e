"""What rank 0 tells the others of a decision."""

import threading
from dataclasses import dataclass
from typing import Any

import msgspec

from trimtab.actions import Change
from trimtab.policies import Decision
from trimtab.steering.ranks import _written


@dataclass(frozen=True)
class Locked:
    name, stage = "locked", "after_step"
    lock: Any

    def apply(self, controls):
        return Change()


def test_action_that_holds_what_cannot_be_copied_is_told_by_its_name():
    decision = Decision(policy="mine", step=7, since=7, actions=(Locked(threading.Lock()),))
    told = msgspec.json.decode(msgspec.json.encode(_written(decision)))
    assert (told["policy"], told["actions"][0]["action"]) == ("mine", "locked")
