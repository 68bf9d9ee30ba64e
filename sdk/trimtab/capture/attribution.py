"""Which optimizer a loss belongs to, and since when.

"The optimizer that steps next" is wrong for `G.backward, D.backward, G.step, D.step` and for a loss under two
optimizers. What decides is whose gradients a backward changes. One parameter of each optimizer is its probe: the
version counter of its gradient tells, for 0.2 us, whether a backward reached it and whether the gradients were
cleared in between. Only where the probes cannot tell (an optimizer not met yet, one that is reached in parts, a loss
that reaches no probe) the graph is walked.

A gradient is looked at by the thread alone whose backward writes to it: torch writes without Python's lock, and who
reads meanwhile reads freed memory. Which thread that is, is learned by the same walk.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import get_ident

from torch import Tensor

from trimtab.capture.autograd import Reach, reach_of
from trimtab.capture.share import Share, first_with_gradient, has_any, holds_something, local_of, version_of
from trimtab.sample.scalars import Held, is_real

WARM_UP_WALKS = 16
STRAY_WALKS = 64
UNCLAIMED_LOSSES = 64
UNPADDED = 0.9  # of a flat parameter, at least


@dataclass(slots=True, eq=False)
class _Unclaimed:
    """A loss whose optimizer is not known yet. `leaves`: id to (leaf, version of its gradient). None is held."""

    loss: Held
    leaves: dict[int, tuple[weakref.ref[Tensor], int | None]] = field(default_factory=dict)
    hidden: bool = False  # it reaches somebody, but the walk could not tell whom
    thread: int = field(default_factory=get_ident)
    left: dict[int, int] = field(init=False)  # id of a leaf to that of its gradient

    def __post_init__(self) -> None:
        self.left = {key: id(leaf.grad) for key, leaf in self.living().items()}

    def living(self) -> dict[int, Tensor]:
        """The leaves that are not gone, whose ids may be others' by now."""
        return {key: leaf for key, (known, _) in self.leaves.items() if (leaf := known()) is not None}

    def keep(self, kept: Container[int]) -> None:
        """Forget all other leaves."""
        self.leaves = {key: leaf for key, leaf in self.leaves.items() if key in kept}

    def added_to(self, leaves: Mapping[int, tuple[weakref.ref[Tensor], int | None]]) -> None:
        """After a backward that added to these gradients: their versions are others by that alone."""
        self.leaves.update({key: leaves[key] for key in self.leaves.keys() & leaves.keys()})

    def was_cleared(self, emptied: Container[int]) -> bool:
        """Forget leaves that are gone, and those whose gradients were cleared. Whether none is left, and some were."""
        living = self.living()
        rest = {key: leaf for key, leaf in living.items() if key not in emptied}
        self.keep({key for key, leaf in rest.items() if not _was_cleared(leaf, self.leaves[key][1])})
        return bool(living) and not self.leaves and not self.hidden

    def unwritten(self) -> list[Tensor]:
        """The gradients of its leaves, if nobody is known to have written to any since the newest backward."""
        found = [(leaf.grad, self.leaves[key][1]) for key, leaf in self.living().items()]
        unwritten = [gradient for gradient, version in found if gradient is not None and gradient._version == version]
        return unwritten if len(unwritten) == len(found) else []


class Attribution:
    """Gives every loss to the shares it belongs to."""

    def __init__(self) -> None:
        self.shares: list[Share] = []
        self.unclaimed: list[_Unclaimed] = []
        self._newest_leaves: list[weakref.ref[Tensor]] = []  # that a loss without an owner reached
        self.by_hand = False  # the shares are of parameters that are updated by hand
        self.cleared = False  # whether the newest backward found that the only optimizer had been given nothing
        self.on_reached: Callable[[Share], object] | None = None  # called with each share that a backward wrote to
        self.on_spared: Callable[[Share, Held], object] | None = None  # ... that it spared, see `_spared`
        self.only: Share | None = None  # the only share there is, when every loss reaches it
        self._walks_left = WARM_UP_WALKS
        self._stray_walks_left = STRAY_WALKS
        self._restricted_walks_left = WARM_UP_WALKS
        self._may_wait = True  # for a device, to see whether gradients were cleared

    @property
    def newest_leaves(self) -> list[Tensor]:
        """What the newest loss without an owner reached, as far as it lives."""
        return [leaf for known in self._newest_leaves if (leaf := known()) is not None]

    @property
    def of_thread(self) -> list[Share]:
        """The shares whose backwards run in this thread: no other may look at their gradients."""
        thread = get_ident()
        return [share for share in self.shares if share.thread == thread]

    @property
    def unapplied(self) -> list[Share]:
        """Those of this thread that have not been stepped on since a backward came there."""
        return [share for share in self.of_thread if not share.is_applied]

    def before_backward(self) -> list[Held]:
        """Look at what was cleared. Returns the losses whose gradients were all cleared and never claimed."""
        thread = get_ident()
        self.cleared = False
        for share in self.of_thread:
            share.look()
            self.cleared = not share.losses and len(self.shares) == 1 and not self.by_hand
        if not self.unclaimed:
            return []
        emptied = self._emptied(thread) if self.by_hand or not self.shares else ()
        cleared = [entry.loss for entry in self.unclaimed if entry.thread == thread and entry.was_cleared(emptied)]
        self.unclaimed = [entry for entry in self.unclaimed if entry.leaves or entry.hidden]
        return [] if self.unclaimed else cleared

    def after_backward(self, loss: Held, roots: Iterable[Tensor], inputs: Sequence[Tensor] | None = None) -> None:
        """Add `loss` to every share that it reached. `inputs`: the leaves that backward was restricted to."""
        reached = False
        unsure: list[Share] = []  # of which other parts may have been reached
        if inputs is not None and self.on_spared is not None and self._restricted_walks_left > 0:
            self._restricted_walks_left -= 1
            for share in self._spared(roots, inputs):
                self.on_spared(share, loss)
        for share in self.of_thread:
            if share.reached():
                share.losses.append(loss)
                reached = True
                if self.on_reached is not None:
                    self.on_reached(share)
            elif share.is_reached_in_parts:
                unsure.append(share)
        if self._walks(unsure, reached=reached):
            self._learn(loss, reach_of(roots) if inputs is None else Reach(inputs), reached)
        elif reached:
            self._trust_probes()

    def add(self, parameters: Sequence[Tensor]) -> Share:
        """A share for an optimizer that was just met, with the losses that wait for it."""
        only, self.only = self.only, None
        for other in self.shares:
            other.takes_all = False
        share = Share(parameters)
        if self.by_hand:
            share.update_by_hand(parameters)
        share.losses = self._claim(share)
        if not share.losses and share.probe.grad is not None:  # it took over from another one
            for other in self.shares:
                if not share.ids.isdisjoint(other.ids):
                    share.losses = list(other.losses)
        if not share.losses and only is not None and only.thread == share.thread:
            share.losses = only.missed(share.probe.grad)
        self.shares.append(share)
        self._walks_left = self._restricted_walks_left = WARM_UP_WALKS
        return share

    def renew(self, share: Share, gone: Iterable[Tensor], parameters: Sequence[Tensor]) -> None:
        """Its optimizer has other parameters now, and no more those that are `gone`.

        Where its probe is among these, what was given to backward since the last step waits for an owner.
        """
        self.only = None
        share.ids = share.ids.difference(map(id, gone)) | {id(p) for p in parameters}
        if share.is_applied:
            waiting = self._claim(share)
            if waiting or id(share.probe) not in share.ids:
                share.losses, share.is_applied = waiting, False
        share.keep_parts()
        if id(share.probe) not in share.ids:
            share.look_at(first_with_gradient(parameters, parameters[0]))
        self._walks_left = self._restricted_walks_left = WARM_UP_WALKS
        self._stray_walks_left = STRAY_WALKS

    def follow(self, share: Share, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Before a step of the only optimizer, on gradients that no backward brought: whether they are others' copies.

        So it is with master weights in float32 of a model in half precision, and with the parameters that FSDP shards,
        after some padding. What tells is that the losses which nobody claims reached about as many elements. Returns
        the tensors that they reached, whose losses are those of `share` from now on.
        """
        entries = [entry for entry in self.unclaimed if entry.thread == share.thread and entry.living()]
        if len(self.shares) > 1 or not entries:
            return []
        leaves = list(entries[-1].living().values())
        own = sum(p.numel() for p in parameters if p.grad is not None)
        reached = sum(leaf.numel() for leaf in leaves)
        if not UNPADDED * reached <= own < 2 * reached:
            return []
        share.losses = [entry.loss for entry in entries]
        share.ids |= set(map(id, leaves))
        lead = next((leaf for leaf in leaves if leaf.grad is not None), None)
        if lead is None:  # FSDP 2 takes gradients away from the whole parameters, and gives the sharded ones theirs
            share.takes_all = True
        else:
            share.follows, share.probe = True, lead
        share.note_version()
        self.unclaimed.clear()
        return leaves

    def walk_again(self) -> None:
        """The graph of the next backward is walked, whatever the probes tell."""
        self._walks_left = max(self._walks_left, 1)

    def drop(self, share: Share) -> None:
        """Its optimizer is gone."""
        self.only = None
        if share in self.shares:
            self.shares.remove(share)

    def _walks(self, unsure: Iterable[Share], *, reached: bool) -> bool:
        """Whether to walk the graph of a backward that `reached` some probe or none: it may have reached more."""
        doubted = [share for share in unsure if share.doubts > 0 or not reached]
        if self._walks_left > 0:
            self._walks_left -= 1
        elif doubted:
            self.only = None
            for share in doubted:
                share.doubts -= 1
        elif reached or (self.shares and self._stray_walks_left <= 0):
            return False
        else:
            self._stray_walks_left -= 1
        return True

    def _trust_probes(self) -> None:
        """They tell all that a backward has reached: no loss of this thread waits for an owner."""
        if self.unclaimed:
            thread = get_ident()
            self.unclaimed = [entry for entry in self.unclaimed if entry.thread != thread]
        self._newest_leaves = []
        share = self.shares[0]
        alone = len(self.shares) == 1 and not (self.by_hand or share.takes_all or share.is_reached_in_parts)
        self.only = share if alone else None

    def _emptied(self, thread: int) -> Container[int]:
        """The leaves of the newest loss without an owner, if it was cleared by `p.grad.data.zero_()`: no version tells.

        Asked while no optimizer has stepped. The least gradient first: of what is not cleared little is read.
        """
        entry = self.unclaimed[-1]
        gradients = entry.unwritten() if entry.thread == thread else []
        is_emptied = bool(gradients) and not any(map(self._holds, sorted(gradients, key=Tensor.numel)))
        return set(entry.leaves) if is_emptied else ()

    def _holds(self, gradient: Tensor) -> bool:
        """Whether it holds something, as far as is known. A device is waited for until one of its gradients does."""
        gradient = local_of(gradient)
        if type(gradient) is not Tensor or gradient.is_sparse or not is_real(gradient):
            return True
        if gradient.is_cpu:
            return holds_something(gradient)
        self._may_wait = self._may_wait and not has_any(gradient)
        return not self._may_wait

    def _claim(self, share: Share) -> list[Held]:
        """Take the losses that wait for its parameters."""
        losses = []
        for entry in self.unclaimed:
            entry.keep(living := entry.living().keys())
            if entry.hidden or not share.ids.isdisjoint(living):
                losses.append(entry.loss)
                share.left = entry.left.get(id(share.probe), 0)
                entry.hidden = False
                entry.keep(living - share.ids)
        self.unclaimed = [entry for entry in self.unclaimed if entry.leaves]
        return losses

    def _spared(self, roots: Iterable[Tensor], inputs: Sequence[Tensor]) -> list[Share]:
        """The shares that a backward, restricted to `inputs` of other ones, would have reached without that."""
        written = set(map(id, inputs))
        others = [share for share in self.shares if share.ids.isdisjoint(written)]
        if len(others) == len(self.shares):  # the gradients of no parameter, as for an attack
            return []
        leaves = set(map(id, reach_of(roots).leaves))
        return [share for share in others if not share.ids.isdisjoint(leaves)]

    def _learn(self, loss: Held, reach: Reach, reached: bool) -> None:
        leaves, thread = {id(leaf): leaf for leaf in reach.leaves}, get_ident()
        rest = dict(leaves)
        for share in self.shares:
            own = leaves.keys() & share.ids
            for key in own:
                rest.pop(key, None)
            if own and share.thread != thread:
                share.move(thread)
                self._stray_walks_left = STRAY_WALKS
            if own and (not share.losses or share.losses[-1] is not loss):  # reached, but the probe did not show it
                share.add_part(leaves[min(own)])
                share.losses.append(loss)
                if self.on_reached is not None:
                    self.on_reached(share)
        hidden = (reach.hides_more or not leaves) and not reached
        if rest or hidden:
            held = {key: (weakref.ref(leaf), version_of(leaf)) for key, leaf in rest.items()}
            for entry in self.unclaimed:
                if entry.thread == thread:
                    entry.added_to(held)
            self._newest_leaves = [leaf for leaf, _ in held.values()]
            self.unclaimed.append(_Unclaimed(loss, held, hidden))
            del self.unclaimed[:-UNCLAIMED_LOSSES]


def _was_cleared(leaf: Tensor, version: int | None) -> bool:
    gradient = leaf.grad
    if gradient is None:
        return version is not None
    return version is not None and gradient._version != version and not holds_something(gradient)
