"""What the engine asks of whoever judges a run, before it answers a rule."""

from __future__ import annotations

import math

from trimtab.types import Strides


class Evidence:
    """Of a run of which nothing is known but which rules fire. Whoever knows more overrides it."""

    def level(self, rule: str, optimizer: str) -> float:
        """Where the newest point of a rule stands for an optimizer; 1 is at its threshold."""
        return math.inf

    def strides(self, rule: str, optimizer: str) -> Strides:
        """How far steps of an optimizer move its layers, as it matters to a rule."""
        return Strides()

    def is_slow(self, rule: str, optimizer: str) -> bool:
        """Whether what a rule says of an optimizer is a reason to raise its learning rate."""
        return True

    def is_harmful(self, optimizer: str) -> bool:
        """Whether training makes the model of an optimizer worse, by what was seen since the last adjustment."""
        return False

    def is_worse(self, optimizer: str) -> bool:
        """Whether the loss of an optimizer is higher by now than it has been, by more than it swings."""
        return False

    def were_good(self, optimizer: str) -> bool:
        """Whether the weights that were last gone back to are known to have had a good loss when they were kept."""
        return False

    def misleads(self, rule: str, optimizer: str) -> str:
        """Why what a rule says, or has said, of an optimizer is no reason to adjust it now; empty where it is one."""
        return ""

    def has_returned(self, rule: str, optimizer: str) -> bool:
        """Whether what misled about an optimizer, since it had passed by itself, is there again by what it did."""
        return False
