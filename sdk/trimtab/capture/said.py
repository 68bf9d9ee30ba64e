"""What loss functions have said in training since the last step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from trimtab.sample.chance import Tally
from trimtab.sample.criteria import Criterion, mean_of
from trimtab.sample.scalars import Held, sum_of


class News(NamedTuple):
    """What has to be read of it for the row of a step."""

    mean_loss: Held | None  # the objective as a mean over samples, where it is a sum over them
    criterion: Held | None  # the loss function's own mean, where it is not the objective
    weight: Held | None  # how many targets are behind `mean_loss`
    predictions: list[tuple[Held, Held]]  # that were looked at
    labels: list[Tally]


@dataclass(slots=True)
class Said:
    """What calls of loss functions have said. Emptied when a step takes it, set aside where steps overlap.

    `Criteria` has one for all that a backward has differentiated. A call that waits for one has its own, see `Calls`.
    """

    primary: str | None = None  # the loss function that training is compared by
    samples: int = 0
    several: bool = False  # one backward had more than one call: their samples may be the same ones
    values: list[Criterion] = field(default_factory=list)  # of the primary, where they had to be computed
    predictions: list[tuple[Held, Held]] = field(default_factory=list)
    labels: list[Tally] = field(default_factory=list)
    is_marked: bool = False  # a backward has run since the last step
    is_sealed: bool = False  # ... and runs still, in the lane: under a mode torch calls another for it, with a tuple

    @property
    def has_news(self) -> bool:
        """Whether there is something to take."""
        return bool(self.values or self.predictions or self.labels)

    def mark(self, *, is_sealed: bool = False) -> None:
        """A backward is about to run."""
        self.is_marked, self.is_sealed = True, is_sealed

    def unmark(self) -> None:
        """A step is over."""
        self.is_marked = self.is_sealed = False

    def drop_marked(self) -> None:
        """What the backwards up to the newest brought was cleared unused, as by an attack: so is what was said."""
        self.values, self.predictions, self.labels = [], [], []
        self.samples = 0
        self.unmark()

    def add(self, other: Said) -> None:
        """What was said after it."""
        self.samples += other.samples
        self.several = self.several or other.several
        if other.primary != self.primary:
            self.compare_by(other.primary)
        self.values += other.values
        self.predictions += other.predictions
        self.labels += other.labels

    def compare_by(self, primary: str | None) -> None:
        """Training is compared by another loss function: what was counted of the one before is not its own."""
        self.primary = primary
        self.values, self.labels = [], []

    def take_back(self) -> None:
        """What the primary said of each element is not what is trained on. A mean that it returned is."""
        self.values = [each for each in self.values if not each.by_element]
        self.predictions, self.labels = [], []

    def take(self, loss: Held | None, is_objective: bool, is_sum: bool) -> News:
        """What there is to read, then forget it. `loss`, on which backward was called, is a mean or a sum."""
        values, predictions, labels = self.values, self.predictions, self.labels
        self.values, self.predictions, self.labels = [], [], []
        if is_objective or not values:
            return News(None, None, None, predictions, labels)
        value = mean_of(values, loss)
        if not is_sum:
            return News(None, value, None, predictions, labels)
        return News(value, value, sum_of([each.weight for each in values]), predictions, labels)
