"""Hands the judge what was sampled: each step once, in its order, and none that an adjustment has made worthless."""

from __future__ import annotations

import difflib
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch.optim import Optimizer

from trimtab.rules.judge import Judge
from trimtab.sample.books import Books
from trimtab.sample.ledger import Ledger
from trimtab.sample.readings import Due, Point, Points, points
from trimtab.steering.evidence import doubt_of_loss
from trimtab.types import PhaseSummary, Verdict

UNJUDGED = (
    "{doubt}: {rules} are not judged. Log the return, as trimtab.log(episode_return=...), and name it by "
    "monitor=('episode_return', 'max')."
)
NOT_FINITE = (
    "After step {step} the validation loss is {loss}, though the training loss before it is finite. If the next is, "
    "too, what differs are running statistics: one batch with NaN or Inf in its inputs leaves those of a BatchNorm so "
    "for good. If not, that step has made the weights so. With act= set, trimtab.restore_best() puts back the state of "
    "the best validation."
)
ALWAYS_WORSE = (
    "After {epochs} epochs the mean training loss is {loss:.4g}, and it was never near {chance:.4g}, which the best "
    "answer that is the same for every input has (loss_at_chance). Inputs, targets or the first weights may be on a "
    "scale that is far too large, or the learning rate far too low."
)
NOT_TRAINED: tuple[float | None, float | None] = (None, None)
WORSE_AFTER = 2  # epochs: within the first one a model may be slow to begin
MISSING_AFTER = 2  # validation passes: what is monitored may be logged after the first
MISSPELT_AFTER = 10  # values of a name much like the one that is monitored
LIKE = 0.85  # as `difflib` has it; train_loss and val_loss are alike by 0.67


def fixed_beside(label: str, optimizers: Mapping[str, weakref.ref[Optimizer]]) -> list[str]:
    """The labels of the others of which no parameter is trained at this moment. 0.3 us for each that is."""
    living = ((other, held()) for other, held in optimizers.items() if other != label)
    return [other for other, optimizer in living if optimizer is not None and not any(_trained(optimizer))]


def _trained(optimizer: Optimizer) -> Iterator[bool]:
    return (parameter.requires_grad for group in optimizer.param_groups for parameter in group["params"])


class Judging:
    """From losses, gradients and validation to verdicts. Nothing is answered here.

    `level(step, read)` puts the mean losses of all ranks in the place of this one's.
    """

    def __init__(
        self,
        judge: Judge,
        books: Books,
        say: Callable[[str, str], None],
        level: Callable[[int, list[Point]], list[Point]] | None = None,
    ) -> None:
        self._judge, self._books, self._say = judge, books, say
        self._level = level or (lambda step, read: read)
        self._on_device: dict[str, tuple[int, Points]] = {}  # judged when the next ones come
        self.on_stage: Callable[[int], object] = lambda step: None  # called with the step after which one begins
        self._taken_over: dict[str, tuple[Sequence[str], int]] = {}  # label: whose place it takes, and after which step
        self._fenced_at: dict[str, int] = {}  # the last step of an optimizer that is no evidence any more
        self._train: tuple[float, int] = (0.0, 0)  # sum and number of losses since the last validation
        self._trained: set[str] = set()  # the optimizers that they are of
        self._before = NOT_TRAINED  # their mean at the last one, and at the beginning
        self._validations = 0
        self._logged: Counter[str] = Counter()  # values by name

    def steps(self, ledger: Ledger, step: int, due: Due) -> tuple[list[Verdict] | None, bool]:
        """Judge the steps up to `step`. Verdicts are None where nothing has arrived yet.

        What is on a device is judged one judgement later, so that nobody waits; the second value says whether it is so.
        """
        newest = points(due)
        arrived: tuple[int, Points] | None = (step, newest)
        late = not newest.immediate
        if late:
            arrived, self._on_device[ledger.label] = self._on_device.get(ledger.label), (step, newest)
        last, read = (arrived[0], arrived[1].read()) if arrived is not None else (step, [])
        read = self._level(step, read)
        return self._judge_read(ledger, last, read) if read else None, late

    def rest(self, ledger: Ledger) -> list[Verdict] | None:
        """Judge what is still on its way from a device, and wait for it. Not where ranks exchange their losses.

        Verdicts are None where nothing was.
        """
        arrived = self._on_device.pop(ledger.label, None)
        return None if arrived is None else self._judge_read(ledger, arrived[0], arrived[1].read())

    def _judge_read(self, ledger: Ledger, last: int, read: Sequence[Point]) -> list[Verdict]:
        label = ledger.label
        self._trained.add(label)
        if self._judge.trusts_loss:
            self._doubt_loss()
        verdicts: list[Verdict] = []
        self._judge.chance(label, ledger.chance.read(), is_exact=ledger.chance.is_exact)
        rate = ledger.rate
        fenced_at = self._fenced_at.get(label, 0)
        for index, point in enumerate(read, start=last - len(read) + 1):
            if label in self._taken_over:
                self._look_for_stage(label, index, point.loss)
            if index > fenced_at and point.is_skipped:
                verdicts += self._judge.skipped(label, index)
            elif index > fenced_at:
                verdicts += self._judge.step(label, index, point.loss, point.gradients, rate, point.backwards)
            if point.loss is not None:
                self._train = self._train[0] + point.loss, self._train[1] + 1
        if self._books.epochs >= WORSE_AFTER:
            self._tell_always_worse(label)
        return verdicts

    def _tell_always_worse(self, label: str) -> None:
        """Nothing is done about it: no rate helps where the scale of something is wrong."""
        loss, chance = self._judge.always_worse(label), self._judge.loss_at_chance(label)
        if loss is not None and chance is not None:
            epochs = self._books.epochs
            self._say("loss worse than a constant", ALWAYS_WORSE.format(epochs=epochs, loss=loss, chance=chance))

    def _doubt_loss(self) -> None:
        doubt = doubt_of_loss()
        if doubt and (unjudged := self._judge.distrust_loss()):
            self._say("loss in reinforcement learning", UNJUDGED.format(doubt=doubt, rules=", ".join(unjudged)))

    def _look_for_stage(self, label: str, index: int, loss: float | None) -> None:
        """The first loss of an optimizer that has taken the place of others is of weights that it has not moved."""
        former, step = self._taken_over[label]
        if loss is None or index <= step:
            return
        del self._taken_over[label]
        if any(self._judge.is_left(each, loss) for each in former):
            self.on_stage(step)

    def validation(self, step: int, summary: PhaseSummary) -> list[Verdict]:
        """Judge a validation pass against the training since the one before."""
        total, count = self._train
        ledgers = self._books.ledgers
        of_these = [ledger for ledger in ledgers if ledger.label in self._trained] or ledgers
        self._train, self._trained = (0.0, 0), set()
        criterion = of_these[0].criterion.take() if of_these else None
        if criterion or count:  # else no step was judged since the last pass: its turn is every so many of them
            self._before = criterion or (total / count, None)
        trained = self._before
        verdicts = self._judge.validation(step, summary.loss, summary.accuracy, *trained, settled=self._judge.settled)
        if summary.loss is not None and not math.isfinite(summary.loss) and trained[0] and math.isfinite(trained[0]):
            self._say("validation not finite", NOT_FINITE.format(step=step, loss=summary.loss))
        self._validations += 1
        if self._validations == MISSING_AFTER and not self._judge.monitored:
            self._tell_unmonitored()
        return verdicts

    def logged(self, step: int, name: str, value: float, *, of_training: bool = False) -> list[Verdict]:
        """Judge a value that the user logged."""
        self._logged[name] += 1
        verdicts = self._judge.logged(step, name, value, of_training=of_training)
        awaited = self._judge.awaits_logged
        if awaited and self._logged[name] == MISSPELT_AFTER and difflib.get_close_matches(awaited, [name], cutoff=LIKE):
            self._tell_unmonitored()
        return verdicts

    def completed(self) -> None:
        """The run ends by itself: what is monitored will not be logged any more."""
        if self._judge.awaits_logged and self._books.ledgers:
            self._tell_unmonitored()

    def _tell_unmonitored(self) -> None:
        self._say("monitor", self._judge.not_monitored(self._logged))

    def begin_anew(self, label: str, step: int) -> None:
        """After `step` another model is trained under this label: no loss of before stands behind its validation."""
        self._judge.begin_anew(label, step)
        self._on_device.pop(label, None)
        self._train, self._before = (0.0, 0), NOT_TRAINED

    def another_loss(self, step: int) -> None:
        """After `step` training has a loss that it did not have before: none of those so far stands behind it."""
        self._judge.forget_losses(step)
        self._on_device.clear()
        self._train, self._before = (0.0, 0), NOT_TRAINED

    def taken_over(self, label: str, former: Sequence[str], step: int) -> bool:
        """After `step` an optimizer takes the place of `former` ones. Where all is well a stage may begin with it.

        Returns whether it may. Where something is the matter already, a loss that is high tells nothing.
        """
        if not all(map(self._judge.healthy, former)):
            return False
        self._taken_over[label] = former, step
        return True

    def another_stage(self, step: int) -> None:
        """After `step` the loss is a higher one, since something else is asked of the weights."""
        self._judge.forget_losses(step, has_to_fall=True)
        self._train, self._before = (0.0, 0), NOT_TRAINED

    def fence(self, labels: Iterable[str], step: int, optimizer: str | None, back_to: int | None) -> None:
        """What was seen of `labels` up to `step` is no evidence any more: of `optimizer`, or (None) of everything."""
        self._judge.fence(step, optimizer, back_to)
        for label in labels:
            self._fenced_at[label] = step  # steps that were made before may be judged after
        for ledger in self._books.ledgers:
            if optimizer in (None, ledger.label):
                ledger.newest_update = None  # how far a step moved that is undone, or was made at another rate
                if back_to is not None:
                    ledger.average_anew()
