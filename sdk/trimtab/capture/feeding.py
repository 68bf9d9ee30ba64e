"""Which loaders feed training, and how many samples are behind each of its backwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trimtab.capture.identity import Living
from trimtab.capture.loaders import LoaderPass


class Lookahead:
    """How many batches a loop has in hand beside those that it trains on, told from how many each training fetched.

    Accelerate and its like fetch one before they hand out the one before it: two come for the first training, and one
    for each that follows. `counted` are the samples behind the first loss, where they are known: then the first
    training tells by itself. If several were there, and it took one, a thread reads ahead, or the loop has read the
    whole loader: then each takes one (`is_queue`). Where as many come for the second as for the first, each takes all.
    Batches that are left out before the first training look the same, until the pass is over: see `forget`.
    """

    __slots__ = ("_first", "batches", "is_proven", "is_queue")

    def __init__(self, fetched: int, samples: int, counted: int) -> None:
        self.batches = int(fetched > 1 and counted != samples)
        self.is_queue = fetched > 2 and fetched * counted == samples
        self._first = fetched
        self.is_proven = False  # a training was without a fetch

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to learn."""
        return self._first == 0

    def trained(self, fetched: int) -> None:
        """One more training, for which so many batches came."""
        if fetched >= self._first > 0:
            self.forget()
        self._first = 0
        self.is_proven = self.is_proven or not fetched

    def forget(self) -> None:
        """Nothing is in hand beside what is trained on."""
        self.batches, self.is_queue, self._first = 0, False, 0


class Feeding:
    """Remembers which loaders fed training, by weak references. `on_other_data` is called when one is over new data."""

    def __init__(self, on_other_data: Callable[[], object]) -> None:
        self.newest: list[LoaderPass] = []  # behind the newest training backward
        self.counted: Callable[[], int] = lambda: 0  # the samples of the losses since the last step, 0 if not known
        self.waiting: Callable[[], int] = lambda: 0  # likewise, of those that no backward has differentiated yet
        self.of_mean: Callable[[], int] = lambda: 0  # of the one mean that backward is called on, 0 if it is on more
        self.on_data: Callable[[object], object] = lambda data: None  # called with the dataset, or else a sampler
        self._on_other_data = on_other_data
        self._is_counted = False  # whether a loss has counted as many samples as `take` did
        self._lookaheads = Living[Lookahead]()  # by loader
        self._single = Living[bool]()  # by loader: whether losses alone tell how many samples a batch has
        self._loaders = Living[bool]()
        self._data = Living[bool]()

    def has_fed(self, loader: LoaderPass) -> bool:
        """Whether training was ever fed by that loader."""
        return loader.loader in self._loaders

    def knows(self, loader: LoaderPass) -> bool:
        """Whether training was ever fed by that loader, or with its data."""
        return loader.loader in self._loaders or loader.data in self._data

    @property
    def has_rest(self) -> bool:
        """Whether batches were in hand at the newest backward of which each of the next takes one, without a fetch."""
        return any(loader.ahead and (loader.exhausted or self._is_queue(loader)) for loader in self.newest)

    @property
    def is_drained(self) -> bool:
        """Whether what had been read ahead is trained on, and nothing more is to come."""
        return all(map(self._is_drained, self.newest))

    @property
    def longest(self) -> LoaderPass:
        """Of those behind the newest training backward, of which there is one at least."""
        return max(self.newest, key=lambda loader: loader.sized or 0)

    def choose(self, fresh: Sequence[LoaderPass]) -> Sequence[LoaderPass]:
        """Which of those that were fetched from, in order, feed the backward that is about to run. None where all that
        came was validated, or read for something else."""
        running = [loader for loader in fresh if self._feeds(loader)]
        running = running or self._most_likely(fresh)
        self.newest = [loader for loader in running if self.trains(loader)] or list(running)
        for loader in running:
            if loader not in self.newest:
                loader.spend()
        return self.newest

    def take(self) -> tuple[int, float]:
        """Spend what is behind the backward that is about to run: its samples, and the seconds waited for them."""
        batch_samples, waited_s = 0, 0.0
        counted = self.counted() if len(self.newest) == 1 else 0
        singles = [self.is_single(loader, counted) for loader in self.newest]
        for loader in self.newest:
            self._loaders[loader.loader] = True
            if loader.data not in self._data:
                self._data[loader.data] = True
                self._on_other_data()
                self.on_data(loader.data())
            samples, wait_s = loader.spend(self._ahead(loader, counted))
            batch_samples += 0 if any(singles) else samples
            waited_s += wait_s
        self._is_counted = counted == batch_samples > 0
        return batch_samples, waited_s

    def left_out(self, samples: int) -> int:
        """Of so many samples behind the newest training backward, those of batches that its loss is not of."""
        if len(self.newest) != 1:
            return 0
        counted = self.of_mean()
        return samples - counted if self.newest[0].is_of_one(counted, samples) else 0

    def next_of(self, over: LoaderPass, fresh: Sequence[LoaderPass]) -> LoaderPass | None:
        """The pass after one that is over, if the next training is its first."""
        begun = (loader for loader in fresh if loader.batches == loader.newly_fetched and loader.restarts(over))
        return next(begun, None)

    def is_unsure(self, loader: LoaderPass) -> bool:
        """Whether it may yet show that nothing of it was in hand, and that its newest training had other samples."""
        known = self._lookaheads.get(loader.loader)
        return known is not None and not known.is_proven and loader.surplus != 0

    def forget_ahead(self, over: LoaderPass) -> int:
        """Nothing of it was in hand. By how many samples more than its own its last training was counted."""
        known = self._lookaheads.get(over.loader)
        if known is not None:
            known.forget()
        return over.drop_ahead()

    def trains(self, loader: LoaderPass) -> bool:
        """Whether it feeds training for certain."""
        return self._feeds(loader) and not self.evaluates(loader)

    def evaluates(self, loader: LoaderPass) -> bool:
        """Whether what came from it was for an evaluation that called no loss function."""
        return loader.is_evaluated and not self.has_fed(loader)

    def is_single(self, loader: LoaderPass, counted: int) -> bool:
        """Whether its items are samples of which batches are made by hand. Settled when the first are spent."""
        if loader.is_batched:
            return False
        known = self._single.get(loader.loader)
        if known is None:
            known = self._single[loader.loader] = loader.is_of_single_samples(counted)
        return known

    def is_steady(self, loader: LoaderPass) -> bool:
        """Whether a batch of it more is a backward more, and no matter which of those in hand that is for."""
        if self._single.get(loader.loader) or self._is_queue(loader):
            return False
        if not loader.ahead:
            return True
        known = self._lookaheads.get(loader.loader)
        return loader.each is not None and known is not None and known.settled  # all but the last are of one size

    def _is_drained(self, loader: LoaderPass) -> bool:
        if loader.in_hand:
            return False
        is_over = loader.exhausted and self._is_queue(loader)
        return is_over or (loader.complete and self._is_counted and not loader.held)

    def _is_queue(self, loader: LoaderPass) -> bool:
        known = self._lookaheads.get(loader.loader)
        return known is not None and known.is_queue

    def _feeds(self, loader: LoaderPass) -> bool:
        """Whether what came from it is for training: more may come, or this was its last, and none was asked for."""
        if not loader.held or loader.exhausted or not loader.in_hand:  # all that came was validated
            return False
        return loader.running or loader in self.newest or not loader.is_evaluated

    def _most_likely(self, fresh: Sequence[LoaderPass]) -> list[LoaderPass]:
        """Of passes that were left, or are over, the newest that the backward may be fed by. Its loss may tell."""
        counted = self.counted()
        possible = [loader for loader in fresh if self._may_feed(loader, counted)]
        return ([loader for loader in possible if loader.samples == counted] or possible)[-1:]

    def _may_feed(self, loader: LoaderPass, counted: int) -> bool:
        """Whether a backward may be fed by what is in hand of a pass that was left, or is over.

        Not if that came for an evaluation. Nor if no more comes, and the loss is of another size than its batches: so
        it is where data was read beforehand, of which the loop makes its own.
        """
        if not loader.in_hand or self.evaluates(loader) or (loader.is_evaluated and loader.exhausted):
            return False
        return not loader.complete or loader.may_hold(counted)

    def _ahead(self, loader: LoaderPass, counted: int) -> int:
        """How many of the batches in hand are for later steps."""
        if self._single.get(loader.loader):
            return 0
        known = self._lookaheads.get(loader.loader)
        if known is None:
            if counted + self.waiting() == loader.samples:  # the next backwards are of the rest
                counted = loader.samples
            known = self._lookaheads[loader.loader] = Lookahead(loader.newly_fetched, loader.samples, counted)
        else:
            known.trained(loader.newly_fetched)
            if loader.ahead and loader.is_newest(self.of_mean()):
                self.forget_ahead(loader)
        if known.is_queue:
            return max(loader.in_hand - 1, 0)
        return 0 if loader.exhausted else min(known.batches, loader.in_hand - 1)
