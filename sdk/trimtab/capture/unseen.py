"""Whether epoch after epoch the model is evaluated, and no validation is seen of it: that is worth a word."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

from torch import Tensor

from trimtab.capture.identity import Living
from trimtab.capture.loaders import LoaderPass

AFTER = 2  # epochs
PARTS_AFTER = 10  # evaluations of some batches each, as in loops that count steps: an epoch may be longer than the run
NO_VALIDATION_SEEN = (
    "After each epoch, or within it, the model is evaluated, and no loss function of torch that training calls is seen "
    "there: no validation is shown. Log it: trimtab.log(loss=..., phase='validation'). Or name a loss of your own: "
    "run.attach(criterion=...)."
)
AS_IN_TRAINING = (
    "After each epoch, or within it, losses are computed over a loader that does not feed training, in training mode "
    "and with gradients, and no backward follows. If that is the validation, it is not shown, as model.eval() and "
    "torch.no_grad() are missing: call model.eval() before it and model.train() after it, and compute it within "
    "`with torch.no_grad():`."
)


class Unseen:
    """Counts epochs with an evaluation of which no validation came, until there is one. O(1) for each.

    Where an evaluation takes some batches of a loader, and the next one goes on with that pass, each counts as well.
    """

    def __init__(self) -> None:
        self.tell: Callable[[str], object] = lambda text: None  # called with what to say of it
        self._epochs: float = 0
        self._parts: float = 0  # of passes
        self._is_in_epoch = False
        self._dropped = Dropped()
        self._epochs_dropped: float = 0

    def evaluated(self, *, goes_on: bool = False) -> None:
        """The model was evaluated within this epoch, without a loss function that training calls.

        `goes_on`: by a part of a pass over a loader, in which the loop still is.
        """
        self._is_in_epoch = True
        if goes_on:
            self._parts += 1
            if self._parts == PARTS_AFTER:
                self.tell(NO_VALIDATION_SEEN)

    def validated(self) -> None:
        """There was a validation: nothing is unseen from now on."""
        self._epochs = self._parts = self._epochs_dropped = -math.inf

    def computed(self, output: Tensor, source: LoaderPass) -> None:
        """A loss was computed as in training, of a batch of a loader that has not fed any."""
        if 0 <= self._epochs_dropped < AFTER:
            self._dropped.computed(output, source)

    def end_epoch(self, *, is_evaluated: bool) -> None:
        """An epoch is over; whether the model was evaluated so after its last step."""
        if is_evaluated or self._is_in_epoch:
            self._epochs += 1
            if self._epochs == AFTER:
                self.tell(NO_VALIDATION_SEEN)
        self._is_in_epoch = False
        self._dropped.end_epoch()

    def trained(self, trains: Callable[[LoaderPass], bool], *, is_last: bool = False) -> None:
        """What feeds the backward that is about to run is known. `is_last`: none is, as the run ends."""
        self._dropped.end_gap()
        epochs = self._dropped.take(trains, is_last=is_last)
        if self._epochs_dropped < AFTER <= self._epochs_dropped + epochs:
            self.tell(AS_IN_TRAINING)
        self._epochs_dropped += epochs


class Dropped:
    """Losses that were computed as in training, of all batches of a loader, and not differentiated.

    That is certain when their graphs are gone: one that is kept may be trained on yet, as losses of several tasks are.
    A graph is not held, but has a hook that tells, and goes with it. About 8 us for each loss.
    """

    def __init__(self) -> None:
        self._gap: dict[LoaderPass, _Computed] = {}  # since the newest training backward
        self._newest: _Computed | None = None  # of a whole pass in this epoch
        self._ended: list[_Computed] = []  # one of each epoch
        self._trained = Living[bool]()  # loaders whose losses were differentiated

    def computed(self, output: Tensor, source: LoaderPass) -> None:
        """See `Unseen.computed`."""
        if output.grad_fn is None or source.loader in self._trained:
            return
        found = self._gap.get(source)
        if found is None:
            found = self._gap[source] = _Computed(source, self._trained)
        found.losses += 1
        graph = _Graph(found)
        found.graphs.add(graph)
        output.grad_fn.register_prehook(graph.differentiated)

    def end_gap(self) -> None:
        """Training goes on."""
        for each in self._gap.values():
            if each.source.complete and each.losses >= each.source.batches:
                self._newest = each
        self._gap.clear()

    def end_epoch(self) -> None:
        """An epoch is over."""
        self.end_gap()
        if self._newest is not None:
            self._ended.append(self._newest)
        self._newest = None

    def take(self, trains: Callable[[LoaderPass], bool], *, is_last: bool) -> int:
        """The epochs that turned out to have such losses. `trains`: whether a pass is over what training is fed with.

        At the end of the run a variable may still hold the newest loss.
        """
        possible = [each for each in self._ended if not (trains(each.source) or each.source.loader in self._trained)]
        kept = [each for each in possible[: len(possible) - is_last] if len(each.graphs)]
        self._ended = kept[-AFTER:]
        return len(possible) - len(kept)


class _Computed:
    """The losses of one pass over a loader."""

    def __init__(self, source: LoaderPass, trained: Living[bool]) -> None:
        self.source = source
        self.losses = 0
        self.graphs = weakref.WeakSet[_Graph]()  # of those that are not gone
        self.trained = trained


class _Graph:
    """Lives as long as the graph of a loss does."""

    __slots__ = ("__weakref__", "_computed")

    def __init__(self, computed: _Computed) -> None:
        self._computed = computed

    def differentiated(self, _gradients: object) -> None:
        """Backward was called on the loss, or on what was made of it; or `torch.autograd.grad` was."""
        self._computed.trained[self._computed.source.loader] = True
