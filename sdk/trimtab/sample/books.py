"""The books of a run: one ledger for each optimizer, what happened between their steps, and the events that it makes.

Everything here runs on the thread that trains, or on several where several do. What is on a device is read one block
later, so that nobody waits.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import accumulate, compress
from threading import RLock
from typing import NamedTuple

from trimtab.sample.layers import LayerChoice
from trimtab.sample.ledger import Block, Columns, Ledger, Numbers, known
from trimtab.sample.passes import PassSums, TrainingSums
from trimtab.sample.records import Context, Judged, step_events
from trimtab.sample.scalars import Held
from trimtab.types import Epoch, Event, Step, Totals

LOSSES_SHOW_WITHIN = 20  # steps: where none has shown by then, none is going to
RECORD_INTERVAL_S = 1.0  # at most one record of steps a second, over all optimizers
SOON = 0.1  # of that time there is at most one record of steps in which a rule began to fire
MARKS = 2  # records of validation in that time, at most, with the steps before them


class Place(NamedTuple):
    """Where the loop is."""

    epoch: int | None = None  # None where there is no reason to believe in epochs
    batch: int | None = None  # batches of this epoch so far
    batches: int | None = None  # ... and in all


class _Validation(NamedTuple):
    sums: PassSums
    step: int
    epoch: int | None


class _EndedEpoch(NamedTuple):
    epoch: int
    step: int
    validation: PassSums | None
    seconds: float
    is_fetched: bool  # all its samples came from loaders


class _Marks(NamedTuple):
    """What is published between two blocks of steps."""

    validation: _Validation | None
    ended: list[_EndedEpoch]


class Books:
    """One run's numbers. `emit` takes events; `clock` is in seconds and only differences matter.

    What happened is published in order: the steps, then the validation pass and the epoch's end behind them.
    """

    def __init__(
        self, emit: Callable[[Event], None], layers: LayerChoice, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.ledgers: list[Ledger] = []
        self.samples = 0
        self.epochs = 0
        self.wait_s = 0.0
        self.targets_counted_in = 0  # the newest epoch with samples that are known by the targets of losses alone
        self.nonfinite: Counter[str] = Counter()
        self.steps_before = 0  # of the run that this one resumes
        self._steps_of_others = 0  # the global step at which the training began that is going on
        self.place: Callable[[], Place] = Place  # asked when a record is made
        self.judged: Callable[[str], Judged] = lambda optimizer: Judged()  # ... and this, with whose steps it is about
        self.on_record: Callable[[], object] = lambda: None  # called when the steps of a record are complete
        self.on_no_loss: Callable[[], object] = lambda: None  # called once, where steps show no loss
        self._lossless_steps: int | None = 0  # so far; None once a loss was seen, or its lack was told
        self._emit = emit
        self._layers = layers
        self._clock = clock
        self._publishing = RLock()
        self._waiting: deque[tuple[Ledger, Block] | _Marks] = deque()
        self._ended: list[_EndedEpoch] = []
        self._training = TrainingSums()
        self._epoch_started = clock()
        self._validation: _Validation | None = None
        self._marked_at = -math.inf

    @property
    def global_step(self) -> int:
        """Steps of the optimizer that stepped most often."""
        taken = max((ledger.steps - ledger.steps_of_others for ledger in self.ledgers), default=0)
        return self.steps_before + self._steps_of_others + taken

    def ledger(self, label: str) -> Ledger:
        """The ledger of this label, a new one the first time."""
        for ledger in self.ledgers:
            if ledger.label == label:
                return ledger
        self.ledgers.append(Ledger(label))
        return self.ledgers[-1]

    def count_on(self) -> None:
        """Those that stepped so far step no more: the global step goes on from here with the steps of another one."""
        self.flush()
        self._steps_of_others = self.global_step - self.steps_before
        for each in self.ledgers:
            each.steps_of_others = each.steps

    def begin_anew(self, ledger: Ledger) -> None:
        """Another model is trained under this label, or under a new one: it shares no record with those before it.

        Nor an average. Its steps are counted on.
        """
        self.count_on()
        ledger.begin_anew()

    def forget_criterion(self) -> None:
        """What training is compared by is another loss function from now on."""
        for ledger in self.ledgers:
            ledger.forget_criterion()

    def skip(self, ledger: Ledger, reason: str, loss: Held | None) -> None:
        """A step was not taken. Its loss is in no record, but a value that is not finite is counted."""
        ledger.newly_skipped[reason] += 1
        if loss is None or isinstance(loss, float):
            self._count_losses((loss,))
        else:
            ledger.losses_of_skipped.append(loss)

    @property
    def _interval_s(self) -> float:
        return RECORD_INTERVAL_S * max(len(self.ledgers), 1)

    def close(self, ledger: Ledger, now: float) -> None:
        """End the ledger's block, and publish what can be read without waiting."""
        with self._publishing:
            if self._validation is not None or self._ended:
                self._cut_all(now)
            else:
                self._cut(ledger, now)
            self._publish(keep=len(self.ledgers))

    def close_soon(self, label: str) -> None:
        """A rule began to fire, on steps of this optimizer or (empty) on none: servers should see it with this step.

        It may be the last one for a while, before a long validation or for good.
        """
        now = self._clock()
        for ledger in self.ledgers:
            soon = max(now, ledger.may_close_at)
            if label in ("", ledger.label) and soon < ledger.close_at:
                ledger.close_at, ledger.may_close_at = soon, soon + SOON * self._interval_s

    def validation(self, sums: PassSums) -> None:
        """A validation pass is over. Passes in quick succession are folded into one record."""
        with self._publishing:
            folded = PassSums()
            folded.add_pass(sums)
            if self._validation is not None:
                folded.add_pass(self._validation.sums)
            self._validation = _Validation(folded, self.steps_written(), self.place().epoch)
            self._cut_all_in_time()

    def end_epoch(self, epoch: int, validation: PassSums | None) -> None:
        """An epoch is over."""
        with self._publishing:
            now = self._clock()
            self.epochs += 1
            seconds, is_fetched = now - self._epoch_started, self.targets_counted_in != epoch
            self._ended.append(_EndedEpoch(epoch, self.steps_written(), validation, seconds, is_fetched))
            self._epoch_started = now
            self._cut_all_in_time()

    def flush(self) -> None:
        """Publish everything, waiting for devices where need be."""
        with self._publishing:
            self._cut_all(self._clock())
            self._publish(keep=0)

    def _cut(self, ledger: Ledger, now: float) -> None:
        """End the ledger's block. Whatever ends one does it here, and tells of it."""
        ledger.close_at = now + self._interval_s
        if not ledger.is_empty:
            self._waiting.append((ledger, ledger.cut(time.time(), *self.place())))
            self.on_record()

    def _cut_all(self, now: float) -> None:
        """End every block, and put what stands behind them in line."""
        for ledger in self.ledgers:
            self._cut(ledger, now)
        self._waiting.append(_Marks(self._validation, self._ended))
        self._validation, self._ended = None, []
        self._marked_at = now

    def _cut_all_in_time(self) -> None:
        now = self._clock()
        cuts_nothing = all(ledger.is_empty for ledger in self.ledgers)  # an epoch after its pass
        if cuts_nothing or now - self._marked_at >= self._interval_s / MARKS:
            self._cut_all(now)
            self._publish(keep=len(self.ledgers))

    def _publish(self, keep: int) -> None:
        """Publish in order, up to a block that would have to be waited for; of those at most `keep` stay."""
        while self._waiting:
            item = self._waiting[0]
            must_wait = not isinstance(item, _Marks) and not item[1].immediate
            if must_wait and sum(not isinstance(i, _Marks) for i in self._waiting) <= keep:
                return
            self._waiting.popleft()  # before, so that a fault costs this item only
            if isinstance(item, _Marks):
                self._publish_marks(item)
            else:
                self._publish_block(*item)

    def steps_written(self) -> int:
        """The global step, with those that are not published yet."""
        most = max((ledger.taken for ledger in self.ledgers), default=0)
        return self.steps_before + self._steps_of_others + most

    def _publish_block(self, ledger: Ledger, block: Block) -> None:
        ledger.waiting -= len(block.rows)
        numbers = block.read()
        self._leave_out_skipped(block, numbers)
        ledger.steps += len(numbers.rows.loss)
        ledger.skipped += block.skipped
        self._count(ledger, numbers)
        self._count_losses(numbers.losses_of_skipped)
        if numbers.first_norms:
            ledger.measure_noise(numbers)
        judged = self.judged(ledger.label)
        context = Context(self.global_step, self._totals(ledger), self._layers.depths, judged)
        for event in step_events(ledger, block, numbers, context):
            self._emit(event)

    def _leave_out_skipped(self, block: Block, numbers: Numbers) -> None:
        """Steps of a fused optimizer that GradScaler told to do nothing, as is known only now."""
        rows = numbers.rows
        skipped = {i for i, found in enumerate(rows.found_inf) if found}
        if skipped:
            block.skipped["scaler"] += len(skipped)
            kept = [i not in skipped for i in range(len(rows.loss))]
            place = [0, *accumulate(kept)]
            numbers.gradients = [(place[i], m, n) for i, m, n in numbers.gradients if i not in skipped]
            numbers.updates = [(place[i], ratios) for i, ratios in numbers.updates if i not in skipped]
            numbers.preclip_norms = [(place[i], norm) for i, norm in numbers.preclip_norms if i not in skipped]
            numbers.first_norms = [(place[i], norm, of) for i, norm, of in numbers.first_norms if i not in skipped]
            self._count_losses([rows.loss[i] for i in skipped])
            numbers.rows = Columns._make(tuple(compress(column, kept)) for column in rows)

    def _count(self, ledger: Ledger, numbers: Numbers) -> None:
        rows = numbers.rows
        self.samples += sum(rows.samples)
        self.wait_s += sum(rows.wait_seconds)
        self._count_losses(rows.loss)
        if self._lossless_steps is not None:
            self._look_for_losses(rows.loss)
        bad = sum(any(not m.finite for m in moments) for _, moments, _ in numbers.gradients)
        if bad:
            self.nonfinite["gradient"] += bad
        self._training.add(ledger.label, numbers, holds_sum=ledger.holds_sum, has_criterion=ledger.has_criterion)

    def _count_losses(self, values: Sequence[float | None]) -> None:
        losses = known(values)
        if not math.isfinite(sum(losses)):
            self.nonfinite["loss"] += sum(not math.isfinite(loss) for loss in losses)

    def _look_for_losses(self, values: Sequence[float | None]) -> None:
        """The first losses of a run, or none for so long that the user should know."""
        steps = None if known(values) else (self._lossless_steps or 0) + len(values)
        self._lossless_steps = steps
        if steps is not None and steps >= LOSSES_SHOW_WITHIN:
            self._lossless_steps = None
            self.on_no_loss()

    def _totals(self, ledger: Ledger) -> Totals:
        return Totals(
            steps=ledger.steps,
            samples=self.samples,
            epochs=self.epochs,
            data_wait_seconds=self.wait_s,
            skipped=dict(ledger.skipped),
            nonfinite=dict(self.nonfinite),
        )

    def _publish_marks(self, marks: _Marks) -> None:
        if marks.validation is not None:
            self._publish_validation(marks.validation)
        for ended in marks.ended:
            by_size = sorted(self.ledgers, key=lambda ledger: -ledger.elements)
            labels = [ledger.label for ledger in by_size]
            train = self._training.end(ended.epoch, labels, is_fetched=ended.is_fetched)
            self._emit(
                Epoch(
                    ts=time.time(),
                    step=ended.step,
                    epoch=ended.epoch,
                    train=train,
                    validation=ended.validation.summary() if ended.validation is not None else None,
                    seconds=ended.seconds,
                )
            )

    def _publish_validation(self, validation: _Validation) -> None:
        summary = validation.sums.summary()
        if summary.loss is not None and not math.isfinite(summary.loss):
            self.nonfinite["loss"] += 1
        self._emit(
            Step(
                ts=time.time(),
                step=validation.step,
                steps=validation.sums.batches,
                epoch=validation.epoch,
                phase="validation",
                loss=summary.loss,
                accuracy=summary.accuracy,
                samples=summary.samples,
            )
        )
