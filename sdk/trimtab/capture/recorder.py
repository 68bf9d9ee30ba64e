"""Writes what is known at the end of a step into a ledger's row."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.optim import Optimizer

from trimtab.capture.criteria import Criteria
from trimtab.capture.loaders import LoaderPass
from trimtab.capture.models import Models
from trimtab.capture.passes import Passes
from trimtab.capture.said import News, Said
from trimtab.sample.books import Books
from trimtab.sample.gradients import finite
from trimtab.sample.ledger import GradientSample, Ledger
from trimtab.sample.meter import Meter
from trimtab.sample.noise import FirstBackward
from trimtab.sample.sampler import Sampler
from trimtab.sample.scalars import Held, sum_of
from trimtab.sample.updates import Weights
from trimtab.searches import Searches, living


@dataclass(slots=True)
class Behind:
    """What is behind some backwards: what loss functions said, and what loaders brought for them."""

    said: Said = field(default_factory=Said)
    fetched: int = 0  # samples of loaders
    wait_s: float = 0.0
    feeds: LoaderPass | None = None  # the pass that fed training then

    def fetched_alone(self, feeds: LoaderPass | None) -> Behind:
        """The same, but for what was said. Nothing where another pass `feeds` training by now."""
        return Behind(fetched=self.fetched, wait_s=self.wait_s, feeds=feeds) if feeds is self.feeds else Behind()

    def add(self, other: Behind) -> None:
        """What is behind the backwards after them."""
        self.said.add(other.said)
        self.fetched += other.fetched
        self.wait_s += other.wait_s
        self.feeds = other.feeds


class Recorder:
    """Rows, samples of gradients, ends of blocks: the same for every kind of step."""

    def __init__(self, books: Books, sampler: Sampler, passes: Passes, criteria: Criteria, meter: Meter) -> None:
        self.books = books
        self.sampler = sampler
        self.pace = sampler.pace
        self.meter = meter
        self.clock = time.perf_counter
        self._held_for = 0.0  # seconds, the newest time
        self._first_for = 0.0  # likewise, of the first backward of the step to come
        self._searches = Searches()  # of the whole process, for models and optimizers
        self._optimizers = weakref.WeakSet[Optimizer]()  # that they found
        self._passes = passes
        self._criteria = criteria
        passes.on_other_pass = self._leave
        passes.on_recount, passes.on_sure = self._recount, self._close_due

    def record(
        self, ledger: Ledger, losses: Sequence[Held], ended_at: float | None, now: float, found_inf: Held | None = None
    ) -> None:
        """Write the row of a step that ended `now`, the one before it at `ended_at`; end the block when it is time."""
        passes, said = self._passes, self._criteria.said
        samples, wait_s = passes.samples, passes.wait_s
        if not samples and said.samples:
            samples, self.books.targets_counted_in = said.samples, passes.epoch
        left_out = passes.left_out if len(losses) == 1 else 0  # the next backwards may be of those
        weight: Held = samples - left_out or passes.batch_samples or 1
        if said.several:
            said.several = False
            if not passes.samples:  # the heads of one model, the steps of one sequence, or so many samples
                samples = 0
        passes.samples = passes.left_out = said.samples = 0
        passes.wait_s = 0.0
        said.unmark()
        self._criteria.end_step()
        loss = total(losses)
        if not ledger.has_criterion:
            ledger.has_criterion = self._criteria.tells
        mean_loss = criterion = None
        if said.has_news:
            news = self._criteria.take(loss, is_one=len(losses) == 1)
            mean_loss, criterion = news.mean_loss, news.criterion
            weight = weight if news.weight is None else news.weight
            _note(news, ledger, len(ledger.rows))
            ledger.holds_sum = self._criteria.holds_sum
            if criterion is not None:
                ledger.criterion.add(criterion)
            if criterion is not None or (news.labels and len(losses) > 1):
                ledger.chance.compare(loss, criterion)
        seconds = None
        if ended_at is not None:
            seconds = now - (ended_at if ended_at > passes.resumed_at else passes.resumed_at)
            if self.pace.warming_up:
                self.pace.settle(seconds)
        ledger.rows.append(
            (loss, mean_loss, criterion, found_inf, weight, len(losses), samples, seconds, wait_s, passes.epoch)
        )
        if now >= ledger.close_at and not passes.is_unsure:
            self.close(ledger)
        meter = self.meter
        meter.steps += 1
        if meter.steps >= meter.turn_at:
            meter.turn()

    def looked(self, ledger: Ledger) -> None:
        """The newest row is of an ordinary step, of which predictions were looked at, or labels counted."""
        self._criteria.end_step()
        _note(self._criteria.take(ledger.rows[-1][0]), ledger, len(ledger.rows) - 1)

    def begin_anew(self, ledger: Ledger) -> None:
        """Another model is trained, and steps for the first time."""
        self.books.begin_anew(ledger)
        self._criteria.begin_anew()

    def begin_passes(self) -> None:
        """Another optimizer trains from now on, alone."""
        self._passes.begin_anew(has_stepped=any(each.epoch == self._passes.epoch for each in self.books.ledgers))

    def has_stepped(self, ledger: Ledger) -> bool:
        """Whether a step of the epoch is in it that the next one is of. A closure may not have begun it yet.

        None that came before the loop left its pass by `break`, evaluated, and went on to another loader's.
        """
        is_of_epoch = ledger.epoch == self._passes.epoch and not self._passes.is_over
        return is_of_epoch and ledger.written != ledger.left_after

    def _leave(self) -> None:
        for ledger in self.books.ledgers:
            ledger.left_after = ledger.written

    def _recount(self, surplus: int) -> None:
        """The newest step has so many samples too many, if one optimizer alone has one that is not read yet."""
        unread = [ledger for ledger in self.books.ledgers if ledger.newest_samples]
        if len(unread) == 1:
            unread[0].recount(surplus)

    def _close_due(self) -> None:
        """End the blocks that were to end with a step of which the samples were not sure."""
        now = self.clock()
        for ledger in self.books.ledgers:
            if now >= ledger.close_at:
                self.books.close(ledger, now)
        self.meter.add(self.clock() - now)

    def set_aside(self) -> Behind:
        """Take away what is behind the backwards since the last step, or since this was called."""
        passes = self._passes
        behind = Behind(self._criteria.set_aside(), passes.samples, passes.wait_s, passes.followed)
        passes.samples, passes.left_out, passes.wait_s = 0, 0, 0.0
        return behind

    @property
    def feeds(self) -> LoaderPass | None:
        """The pass that feeds training, if any."""
        return self._passes.followed

    def resume(self, behind: Behind) -> None:
        """As if nothing but this were behind the backwards since the last step."""
        self._criteria.resume(behind.said)
        self._passes.samples, self._passes.left_out, self._passes.wait_s = behind.fetched, 0, behind.wait_s

    def trained(self) -> None:
        """A step is about to use gradients that no backward brought, but `torch.autograd.grad` or the user's own code.

        What was fetched and called for it is training all the same.
        """
        self._criteria.backward(None)
        if self._passes.has_news:
            self._passes.training(stepping=True)

    def hear_steps(self) -> None:
        """An optimizer was met that tells of its steps."""
        if not self._passes.hears_steps:
            self._passes.hears_steps = True
            self._criteria.hear_steps()

    def stepping(self) -> None:
        """A step is about to use the gradients of backwards, of which some may have run in eval mode."""
        if self._criteria.awaits_step:
            self._criteria.stepping()
        if self._passes.awaits_step:
            self._passes.training(stepping=True)

    @property
    def samples(self) -> int:
        """Behind the losses since the last step, where no loader tells. To be set where fewer were used."""
        return self._criteria.said.samples

    @samples.setter
    def samples(self, samples: int) -> None:
        self._criteria.said.samples = samples

    def close(self, ledger: Ledger) -> None:
        """End the ledger's block."""
        started = self.clock()
        self.books.close(ledger, started)
        self.meter.add(self.clock() - started)

    def search(self, models: Models, parameters: Sequence[Tensor]) -> None:
        """Find the models that hold `parameters`: among new ones alone where they are found all the time.

        So it is where copies of a model are trained for a few steps each.
        """
        models.begin(parameters)
        self._search(models, parameters)

    def guess(self, models: Models, parameters: Sequence[Tensor]) -> None:
        """The same before anybody has stepped: who trains may evaluate first, and only a model tells which it is."""
        if models.guesses():
            self._search(models, parameters)

    def living_optimizers(self) -> list[Optimizer]:
        """Every optimizer of the process: where they are asked for all the time, new ones, and those found before."""
        started = self.clock()
        with self._searches.one() as everywhere:
            self._optimizers.update(living(Optimizer, everywhere=everywhere))
        self.meter.add(self.clock() - started)
        return list(self._optimizers)

    def _search(self, models: Models, parameters: Sequence[Tensor]) -> None:
        started = self.clock()
        with self._searches.one() as everywhere:
            models.search(parameters, everywhere=everywhere)
        self.meter.add(self.clock() - started)

    def sample(
        self, ledger: Ledger, parameters: Sequence[Tensor], scale: Tensor | None = None
    ) -> GradientSample | None:
        """Take gradient statistics for the step that is under way. `scale`: what the gradients are multiplied by."""
        started = self.clock()
        sample = self.sampler.sample_gradients(ledger, parameters, scale)
        cost = self.clock() - started
        self.pace.gradients.cost(cost + self._first_for)
        self._first_for = 0.0
        self.meter.add(cost)
        return sample

    def are_damaged(self, parameters: Sequence[Tensor]) -> bool:
        """Whether a gradient is seen to hold NaN or Inf. See `finite`."""
        started = self.clock()
        damaged = not finite([p.grad for p in parameters if p.grad is not None])
        self.meter.add(self.clock() - started)
        return damaged

    def sample_first(self, ledger: Ledger, parameters: Sequence[Tensor]) -> FirstBackward | None:
        """Take the statistics of what the first backward of a step has brought, before the second adds to it.

        None where it is not known to be a batch of its own: both may be over the same one.
        """
        samples = self._passes.batch_samples
        if not samples or self._passes.samples != 2 * samples:
            return None
        started = self.clock()
        _, taken = self.sampler.take(parameters)
        self._first_for = self.clock() - started
        self.meter.add(self._first_for)
        return FirstBackward(len(ledger.rows), taken, samples)

    def hold_weights(self, ledger: Ledger, parameters: Sequence[Tensor], weights: Weights) -> None:
        """Copy the weights, before the step that is under way."""
        started = self.clock()
        self.sampler.hold_weights(ledger, parameters, weights)
        self._held_for = self.clock() - started
        self.meter.add(self._held_for)

    def compare_weights(self, ledger: Ledger, weights: Weights) -> None:
        """See how far the step moved each layer. Before `record`."""
        started = self.clock()
        self.sampler.compare_weights(ledger, weights)
        cost = self.clock() - started
        self.pace.updates.cost(self._held_for + cost)
        self.meter.add(cost)


def _note(news: News, ledger: Ledger, row: int) -> None:
    ledger.predictions += [(row, *pair) for pair in news.predictions]
    for labels in news.labels:
        ledger.chance.add(labels)


def total(losses: Sequence[Held]) -> Held | None:
    """The sum, or None of nothing."""
    if len(losses) == 1:  # as nearly always
        return losses[0]
    return sum_of(losses) if losses else None
