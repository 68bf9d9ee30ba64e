"""Which batches are training and which validation, and where an epoch ends.

An epoch ends when the loader that feeds training is exhausted, or started anew; where no such loader is in use, when
validation stood between two training steps. It is closed at the next training backward, so that validation belongs
to the epoch before it. Loaders that fetch ahead are exhausted before their last batch is trained on: the end counts
only when the loop has moved on to another loader or to validation. What such a loader has in hand is counted with the
step that trains on it. If nothing was in hand after all, as where batches were left out before the first step, that is
seen when the next pass begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trimtab.capture.feeding import Feeding
from trimtab.capture.followed import Followed
from trimtab.capture.gaps import Gaps
from trimtab.capture.loaders import ATTRIBUTE, LoaderPass
from trimtab.capture.unseen import Unseen
from trimtab.capture.validating import Evaluation, Validating
from trimtab.sample.books import Place
from trimtab.sample.passes import PassSums


class Passes:
    """A small machine fed by loaders, losses and backwards. It reads no tensor and no clock.

    `on_validation` is called with the sums of each validation pass, and with the loss function that they are of where
    that is not the one by which training was compared.
    """

    def __init__(
        self,
        on_validation: Callable[[PassSums, str], object],
        on_epoch: Callable[[int, PassSums | None], object],
        on_unclear: Callable[[], object] = lambda: None,
        on_look: Callable[[], object] = lambda: None,
    ) -> None:
        self.epoch = 1
        self.has_news = True  # whether `training` is to be called before the next training backward
        self.steady: LoaderPass | None = None  # the pass that feeds training, while nothing else goes on
        self.samples = 0  # trained on since the last step, which the recorder clears
        self.left_out = 0  # of these, those of batches that the newest loss is not of
        self.wait_s = 0.0  # for those
        self.batch_samples = 0  # of the newest training batch
        self.resumed_at = 0.0  # when the first batch after validation was asked for
        self.evaluates: Callable[[], bool] = lambda: False  # whether a model is in eval mode
        self.hears_steps = False  # whether steps are announced, so that it can wait for them
        self.awaits_step = False  # whether a backward ran in eval mode, which is training if a step follows
        self.on_validating: Callable[[], object] = lambda: None  # called at the first loss of each validation
        self.on_other_pass: Callable[[], object] = lambda: None  # called before a training that may be another model's
        self.is_unsure = False  # whether the samples of the newest training may prove to be others
        self.on_recount: Callable[[int], object] = lambda surplus: None  # called when its step had so many fewer
        self.on_sure: Callable[[], object] = lambda: None  # called when they have proved to be right, or are by now
        self.awaits_first: Callable[[], bool] = lambda: False  # whether nobody has stepped, and somebody may yet
        self._on_validation = on_validation
        self._on_epoch = on_epoch
        self._followed = Followed()  # whose end is the epoch's
        self._fresh: list[LoaderPass] = []  # fetched from since the last training backward
        self._source: LoaderPass | None = None  # the newest of those
        self._trained = False  # a training backward in this epoch
        self._ends_seen = False
        gaps = Gaps(on_unclear, on_look)
        self.feeding = Feeding(gaps.forget)
        self.unseen = Unseen()
        self._validating = Validating(gaps, self.feeding)
        self._newest_sums: PassSums | None = None  # of this epoch, since it began

    def place(self) -> Place:
        """Where the loop is: the epoch, where there is reason to believe in epochs, and the batch."""
        loader = self._followed.loader
        if loader is None or self._followed.is_one_by_one:
            return Place(self.epoch if self._ends_seen else None)
        is_known = loader.sized is not None or self._ends_seen
        return Place(self.epoch if is_known else None, loader.batches - loader.ahead, loader.sized)

    def fed(self, iterator: Any, batch: Any, asked: float, got: float) -> bool:
        """A batch came. True when it is one more of those that feed training, and that is all there is to it."""
        steady = self.steady
        if steady is None or iterator.__dict__.get(ATTRIBUTE) is not steady or iterator._num_yielded == 1:
            return False
        batches = steady.batches + 1
        if batches == steady.sized:
            return False
        steady.batches = batches
        steady.samples += steady.size(batch, batches) or 0
        steady.wait_s += got - asked
        self.has_news = True
        return True

    def fetched(self, loader: LoaderPass, batch: Any, asked: float, got: float) -> None:
        """A batch came."""
        self.has_news = True
        steady, self.steady = self.steady, None
        if steady is not None and steady is not loader and steady.fed():
            self._fresh.append(steady)  # two loaders side by side, or validation before the batch is trained on
        loader.is_evaluated = self.evaluates() or not torch.is_grad_enabled()
        if loader.is_evaluated or not self.feeding.has_fed(loader):
            self.batch_samples = 0  # the next loss may not be of it, and tells by its targets
        loader.fetched(loader.size(batch, loader.batches + 1) or 0, got - asked)
        if loader.sized is not None:
            loader.complete = loader.batches == loader.sized
        self._followed.fetched(loader)
        if loader is not self._source:
            self._source = loader
            if loader not in self._fresh:
                self._fresh.append(loader)
        if self._validating.is_open:
            self.resumed_at = asked

    def exhausted(self, loader: LoaderPass) -> None:
        """A loader has no more batches."""
        steady, self.steady = self.steady, None
        if steady is not None and steady is not loader and steady.fed():
            self._fresh.append(steady)  # of two loaders side by side the other starts anew before a step
        loader.complete = loader.exhausted = True
        self.has_news = self.has_news or bool(loader.ahead)
        self._followed.exhausted(loader, is_aside=self._is_within(loader))

    def is_aside(self, ended: LoaderPass) -> bool:
        """Whether a pass that has ended fed no training: its loader never did, or it was within the one that does."""
        return not self.feeding.has_fed(ended) or self._is_within(ended)

    def _is_within(self, loader: LoaderPass) -> bool:
        return self._followed.has_within(loader) and loader not in self.feeding.newest

    @property
    def followed(self) -> LoaderPass | None:
        """The pass that feeds training, whose end is the epoch's."""
        return self._followed.loader

    @property
    def is_over(self) -> bool:
        """Whether the next training is of another epoch."""
        return self._followed.is_left or (self._validating.is_open and not self._followed.is_held)

    @property
    def is_fed(self) -> bool:
        """Whether a loss that is computed now, for validation, is about the batch of a loader."""
        return self._source is not None or (self.steady is not None and self.steady.samples > 0)

    @property
    def batch(self) -> tuple[LoaderPass, int] | None:
        """The newest batch of a loader: of which pass, and its number there. None where none came for what goes on."""
        source = self._source if self.steady is None else self.steady
        return None if source is None else (source, source.batches)

    @property
    def asks_origin(self) -> bool:
        """Whether it is to be known where such a loss comes from: at a loader's first batches, and after its last.

        A loop that fetches ahead has the second in hand when it comes to the first.
        """
        return self._source is not None and (self._source.batches <= 2 or self._source.exhausted)

    def validated(self, evaluation: Evaluation, *, loss: str = "", rank: int = 0) -> None:
        """A loss was computed for validation.

        `loss` is the function. Of several the pass is by the one of the least `rank`, that training is compared by.
        """
        self.has_news = True
        steady, self.steady = self.steady, None
        if steady is not None and steady.samples:
            self._source = steady
        source = self._source
        if source is not None:
            is_look = source is self._followed.loader and not (source.exhausted or self._followed.is_in_hand)
        else:
            is_look = evaluation.may_be_trained and self._followed.is_amid
        if is_look and steady is not None and steady.fed():
            self._fresh.append(steady)
        if not is_look and self._validating.is_of_looks:
            self.on_validating()
        self._followed.validated(is_look=is_look)
        self._validating.add(evaluation, source, is_look=is_look, loss=loss, rank=rank)

    def training(self, *, stepping: bool = False) -> None:
        """A backward is about to run, the first one since a batch came or a loss was validated.

        In eval mode it may be an attack on what is evaluated, or a look at the gradient of its inputs: it is training
        only where a step follows, before which this is called again, `stepping`.
        """
        if not stepping and self.hears_steps and self.evaluates():
            self.awaits_step = True
            return
        self.has_news = self.awaits_step = False
        steady = self.steady
        if steady is not None:
            self.batch_samples = steady.samples
            self.samples += steady.samples
            if steady.items is not None and steady.samples > steady.items:
                self.left_out = self.feeding.left_out(steady.samples)
            self.wait_s += steady.wait_s
            steady.samples, steady.wait_s = 0, 0.0
            return
        if self._followed.is_over and self._followed.is_in_hand:
            self._look_back()
        if self.is_unsure:
            self.is_unsure = False
            self.on_sure()
        if self._validating.is_open or self._followed.is_left:
            self._pass_over_first()
            self._resume()
        self._count()
        self._trained = True
        self.has_news = self.feeding.has_rest
        followed = self._followed.loader
        self.is_unsure = followed is not None and self.feeding.is_unsure(followed)
        if not self._followed.is_over and followed is not None and self.feeding.is_steady(followed):
            self.steady = followed

    def ordinary(self) -> bool:
        """Whether the next step may be one more of the same: from a loader that goes on, or without any."""
        steady, followed = self.steady, self._followed
        if self.has_news or self._validating.is_open or followed.is_left or followed.is_over:
            return False
        if steady is None:
            return followed.loader is None and not self._fresh and not self.batch_samples
        return steady.samples == 0 and self.batch_samples > 0 and steady.is_plain and not steady.reuses_iterator

    def catch_up(self, samples: int, wait_s: float | None, *, is_trained: bool) -> None:
        """Batches came from the steady pass. `wait_s`: for the newest, unless its step is over."""
        steady = self.steady
        if steady is None:
            return
        if wait_s is None:
            self.batch_samples = samples
            return
        steady.batches += 1
        if is_trained:
            self.batch_samples = self.samples = samples
            self.wait_s = wait_s
        else:
            steady.samples, steady.wait_s = samples, wait_s
            self.has_news = True

    def end_validation(self, *, is_last: bool) -> None:
        """The validation is over, though no training has followed it yet. `is_last`: none will.

        Then what was trained since the last epoch is one, too, if it was validated: its number would be seen nowhere.
        """
        if self._validating.is_open:
            self._resume(is_last=is_last)
        if is_last and self._trained and self._newest_sums is not None:
            self._followed.is_left = True

    def begin_anew(self, *, has_stepped: bool) -> None:
        """The step that is about to be taken is the first of another optimizer, which trains alone from now on.

        If it is fed by another loader, the pass that fed training before was left. `has_stepped`: with steps that are
        in no epoch yet.
        """
        left, feeding = self._followed.before_backward(), self.feeding.newest
        if left is None or left in feeding or not feeding:
            return
        if has_stepped and not self._followed.is_one_by_one:
            self._ends_seen = True
            self._on_epoch(self.epoch, self._newest_sums)
            self.epoch += 1
            self._newest_sums = None
        self._followed.begin_anew(self.feeding.longest)

    def finish(self) -> None:
        """The run ends: close what is open. The last pass is over, too, where it was left as the one before it was."""
        followed, loader = self._followed, self._followed.loader
        if loader is not None and loader.exhausted and followed.is_in_hand:
            self._recount(loader)
        followed.is_left = followed.is_left or followed.is_over or followed.is_left_as_before
        self._resume(is_last=True)
        self.unseen.trained(self.feeding.knows, is_last=True)

    def _look_back(self) -> None:
        """A pass is over, with batches in hand, as is believed, and training goes on.

        If that is with the next one, of which a single batch came, there were none: who fetches ahead takes more again.
        """
        over = self._followed.loader
        following = None if over is None else self.feeding.next_of(over, self._fresh)
        if over is None or following is None:
            return
        if following.batches == 1:
            self._recount(over)
        self._followed.is_left = True

    def _recount(self, over: LoaderPass) -> None:
        """Nothing was in hand: its last training was on the batch that came last."""
        surplus = self.feeding.forget_ahead(over)
        if self.samples:
            self.samples -= surplus
        elif surplus:
            self.on_recount(surplus)

    def _pass_over_first(self) -> None:
        """What is trained on now, and was validated before, is no validation: the first batch of a pass that goes on.

        Of the later ones it is known which pass feeds training.
        """
        source, is_first = self._source, not (self._trained or self._ends_seen)
        if source is None or source.batches > 1 or not source.held or source.exhausted:
            return
        if not (self.feeding.newest or is_first):  # training goes on without a loader
            return
        self._validating.take_back(source)

    def _resume(self, *, is_last: bool = False) -> None:
        is_over = self.is_over
        validation = self._validating.close(trained=self._trained, is_last=is_last, has_unseen=self._has_evaluated)
        if validation is not None:
            self._on_validation(*validation)
            self._newest_sums = validation[0] if self._trained else None
            self.unseen.validated()
        if self._trained and is_over and self.awaits_first():  # so far that was a warm-up
            self._trained, self._newest_sums = False, None
        if self._trained and is_over:
            self._ends_seen = True
            following = None if is_last else self._source  # which may feed the next training
            fresh = (loader for loader in self._fresh if loader is not following)
            self.unseen.end_epoch(is_evaluated=any(map(self.feeding.evaluates, fresh)))
            self._on_epoch(self.epoch, self._newest_sums)
            self.epoch += 1
            self._trained, self._newest_sums = False, None
        if self._followed.is_left:
            self._followed.let_go()

    def evaluated_otherwise(self) -> None:
        """In eval mode a loss function was called that training does not call."""
        if self._trained:
            self.unseen.evaluated()

    def computed(self, output: Tensor) -> None:
        """A loss was computed as in training, and not of a batch that is known to be training."""
        source = self._source
        if source is not None and self._trained and not (source.is_evaluated or self.feeding.knows(source)):
            self.unseen.computed(output, source)

    def _count(self) -> None:
        """Count what is behind this backward: what was fetched for it, or what was in hand when no more came."""
        self._followed.begin_backward()
        if self.feeding.has_rest and not any(map(self.feeding.trains, self._fresh)):
            self._take()
        elif self._fresh:
            self._follow()
        if self._fresh:
            evaluated = list(filter(self.feeding.evaluates, self._fresh))
            if self._trained and evaluated:
                self.unseen.evaluated(goes_on=any(loader.running for loader in evaluated))
            self._fresh.clear()
            self._source = None
            self.unseen.trained(self.feeding.knows)

    def _follow(self) -> None:
        """Count what was fetched for this backward, and follow the longest loader behind it."""
        feeding = self.feeding.choose(self._fresh)
        self._take()
        if not feeding:
            return
        if self._followed.is_dropped and self._followed.loader not in feeding and self._has_evaluated:
            self.on_other_pass()
        self._followed.trained(feeding, self.feeding.longest)

    @property
    def _has_evaluated(self) -> bool:
        """Whether a loader was read for an evaluation since the last training backward."""
        return any(map(self.feeding.evaluates, self._fresh))

    def _take(self) -> None:
        self.batch_samples, wait_s = self.feeding.take()
        self.samples += self.batch_samples
        self.left_out = self.feeding.left_out(self.batch_samples)
        self.wait_s += wait_s
        if self.feeding.is_drained:  # if there are more, as where a list of batches is trained on again, losses tell
            self.batch_samples = 0
