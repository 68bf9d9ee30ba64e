"""Where a loop may be changed: the end of an optimizer cycle, told from who steps and whose gradients are written.

Between the first and the last step of a cycle a graph may be pending that was recorded with the weights as they are
(the generator's, while the discriminator steps), and gradients may wait to be applied. From the outside one round of
`D.step(), G.step()` looks like one of `G.step(), D.step()`. What tells is how it began: the optimizer that was met last
ends the cycle. So the boundary is its post-hook, provided that nobody holds gradients that are still to be applied.
Gradients that will be cleared instead (a generator's loss writes to the discriminator's) do not count; which they are
is learned from the rounds before.

Where the last one met is idle for long (a critic trained alone, a frozen part), or never comes out clean (it steps
first in every round, having been met late), the one met before it takes over.

Where none ever comes out clean (two that take turns, each while the other accumulates) no cycle ends, and a run that is
lost could not be turned back. Then the steps of those that a backward always follows are boundaries: what the other has
accumulated is dropped with all gradients, as those of weights that are no more, and its next update is made of what
comes after.

What cannot be told: whether a graph is pending. `pending` can; who is about to change weights asks it, and reports
what it found with `blocked`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

IDLE_STEPS = 100  # of others, after which an optimizer no longer ends the cycle; or twice its longest pause
UNCLEAN_STEPS = 3  # in a row, after which it is left out


@dataclass(slots=True)
class _Known:
    """One optimizer."""

    steps: int = 0
    stepped_at: int = 0  # in steps of all
    longest_pause: int = 0
    unclean: int = 0  # steps in a row after which somebody held gradients
    blocked: int = 0  # steps after which a graph was pending
    then_step: bool = False  # whether another step ever followed one, with no backward between
    holds: bool = False  # gradients, written and neither applied nor cleared
    held_after: set[str] = field(default_factory=set)  # whose steps these gradients have outlived
    applies_after: dict[str, bool] = field(default_factory=dict)  # what became of gradients that outlived such a step


class Cycle:
    """Fed by whoever sees backwards and steps, in their order. Holds labels only.

    Cost: 0.8 us a step, 0.15 us a backward; a run with one optimizer needs none of it.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}  # in the order in which they were met
        self._steps = 0
        self._ended_at = 0  # the step at which a cycle ended last
        self._stepped: _Known | None = None  # whose step nothing has followed yet

    def meet(self, living: Sequence[str]) -> None:
        """These there are, in the order in which they were met. The last has not stepped yet, all others have.

        Steps that were made while there was one are not fed: nothing could be told from them.
        """
        for gone in self._known.keys() - set(living):
            del self._known[gone]
        for optimizer in living[:-1]:
            self._known.setdefault(optimizer, _Known(steps=1, stepped_at=self._steps))

    def backward(self, optimizer: str, *, cleared: bool) -> None:
        """A backward wrote to the gradients of `optimizer`. `cleared`: there were none, or they had been cleared."""
        self._stepped = None
        known = self._known.get(optimizer)
        if known is None:
            return
        if cleared:
            self._decided(known, applied=False)
        known.holds = True

    def stepped(self, optimizer: str) -> bool:
        """`optimizer` has stepped, or skipped its step. True when weights may be changed now."""
        self._steps += 1
        known = self._known.get(optimizer)
        if known is None:
            known = self._known[optimizer] = _Known(stepped_at=self._steps)
        self._decided(known, applied=True)
        known.steps += 1
        known.longest_pause = max(known.longest_pause, self._steps - known.stepped_at)
        known.stepped_at = self._steps
        if self._stepped is not None:
            self._stepped.then_step = True
        self._stepped = known
        clean = self._is_clean(optimizer, known)
        known.unclean = 0 if clean else known.unclean + 1
        if clean and known.steps > 1 and self._came_round() and self._ends(known):
            self._ended_at = self._steps
            return True
        return not known.then_step and known.blocked < UNCLEAN_STEPS and self._never_ends()

    def blocked(self, optimizer: str) -> None:
        """A graph was pending after the step of `optimizer`: weights could not be changed."""
        self._known[optimizer].blocked += 1

    def dropped(self) -> None:
        """Weights were changed, and all gradients dropped: what was held is neither applied nor cleared."""
        for known in self._known.values():
            known.blocked = 0
            known.holds = False
            known.held_after.clear()

    def _decided(self, known: _Known, applied: bool) -> None:
        """The gradients that `known` held were applied, or cleared."""
        known.holds = False
        if known.held_after:
            known.applies_after.update(dict.fromkeys(known.held_after, applied))
            known.held_after.clear()

    def _is_clean(self, optimizer: str, known: _Known) -> bool:
        """Whether nobody else holds gradients that, as far as is known, will be applied."""
        clean = True
        for other in self._known.values():
            if other is not known and other.holds:
                other.held_after.add(optimizer)
                clean = clean and not other.applies_after.get(optimizer, True)
        return clean

    def _came_round(self) -> bool:
        """Whether a whole cycle has been seen, so that all of its optimizers are known."""
        return next(known for known in self._known.values() if not self._is_idle(known)).steps > 1

    def _ends(self, known: _Known) -> bool:
        """Whether `known` is the last one met of those that are in use, and come out clean."""
        last = known
        for other in self._known.values():
            if not self._is_idle(other) and other.unclean < UNCLEAN_STEPS and other.blocked < UNCLEAN_STEPS:
                last = other
        return last is known

    def _never_ends(self) -> bool:
        """Whether no cycle has ended for long, since none of those that are in use comes out clean."""
        waited = self._steps - self._ended_at
        if waited <= IDLE_STEPS:
            return False
        used = [known for known in self._known.values() if not self._is_idle(known)]
        return all(known.unclean >= UNCLEAN_STEPS and waited > 2 * known.longest_pause for known in used)

    def _is_idle(self, known: _Known) -> bool:
        return self._steps - known.stepped_at > max(IDLE_STEPS, 2 * known.longest_pause)
