"""What has been validated since the last training backward, until training goes on.

Each loss function has its own gap. The validation is by the one that training is compared by.
"""

from __future__ import annotations

from typing import NamedTuple

from trimtab.capture.feeding import Feeding
from trimtab.capture.gaps import Gap, Gaps
from trimtab.capture.loaders import LoaderPass
from trimtab.capture.origins import Origin
from trimtab.sample.criteria import Criterion
from trimtab.sample.passes import PassSums
from trimtab.sample.scalars import Held


class Evaluation(NamedTuple):
    """A loss that was computed for validation, as may be."""

    criterion: Criterion
    predictions: tuple[Held, Held] | None
    origin: Origin | None = None  # where it comes from, where no loader is, or it was asked for
    may_be_trained: bool = False  # whether it may be of the batch that was trained on last


class Validating:
    """The gaps between two trainings, one for each loss function."""

    def __init__(self, gaps: Gaps, feeding: Feeding) -> None:
        self._gaps, self._feeding = gaps, feeding
        self._open: dict[str, Gap] = {}
        self._before = 0  # so many times something was validated between two trainings
        self._samples = 0  # of the newest batch
        self._spent = 0, 0.0  # these, and the seconds that they were waited for

    @property
    def is_open(self) -> bool:
        """Whether anything was validated since training."""
        return bool(self._open)

    @property
    def is_of_looks(self) -> bool:
        """Whether there was nothing but looks at the batch that is trained on."""
        return all(gap.is_of_looks for gap in self._open.values())

    def add(
        self, evaluation: Evaluation, source: LoaderPass | None, *, is_look: bool, loss: str = "", rank: int = 0
    ) -> None:
        """One more, of the newest batch of `source` where there is one, by `loss`. Of these the least `rank` counts."""
        gap = self._open.get(loss)
        if gap is None:
            gap = self._open[loss] = Gap(rank, self._before)
        origin, samples = evaluation.origin, evaluation.criterion.samples
        if source is not None and not (source.exhausted and gap.is_elsewhere(source, origin)):
            is_training_data = self._feeding.knows(source)
            sums = gap.of_loader(source, origin, is_training_data=is_training_data, is_look=is_look)
            samples = 0 if is_look else self._samples_of(source, gap, samples)
        else:
            sums = gap.of_tensors(origin, is_look=is_look)
        sums.add(evaluation.criterion, evaluation.predictions, samples)

    def take_back(self, source: LoaderPass) -> None:
        """The first batch of `source` is trained on now: what was validated of it was a look."""
        looks = [gap.is_trained_on(source) for gap in self._open.values()]
        if True in looks:
            source.give_back(*self._spent)
            self._spent = 0, 0.0

    def close(self, *, trained: bool, is_last: bool, has_unseen: bool) -> tuple[PassSums, str] | None:
        """Training goes on, or is over: the validation pass, and its loss function where training is not compared by
        it. None where nothing was validated, or it is not known which pass it is. See `Gaps.chosen`.
        """
        if not self._open:
            return None
        gaps, self._open = self._open, {}
        self._before += 1
        loss = min(gaps, key=lambda name: gaps[name].rank)
        sums = self._gaps.chosen(gaps[loss], trained=trained, is_last=is_last, has_unseen=has_unseen)
        return None if sums is None else (sums, loss if gaps[loss].rank else "")

    def _samples_of(self, source: LoaderPass, gap: Gap, counted: int) -> int:
        """The samples of the batch that is validated, of which a loss has `counted`, once for each loss function."""
        is_single = self._feeding.is_single(source, counted)
        if source.in_hand:
            self._spent = source.spend()
        self._samples = counted if is_single else self._spent[0] or self._samples
        batch = source, source.batches
        if gap.batch == batch:
            return 0
        gap.batch = batch
        return self._samples
