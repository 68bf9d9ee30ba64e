"""What was seen of a run and is no evidence any more: an adjustment lies between, another model, another loss."""

from __future__ import annotations

from collections.abc import Callable, Collection

from trimtab.policies import Decision
from trimtab.rules.judge import Judge
from trimtab.steering.answering import Answering
from trimtab.steering.judging import Judging
from trimtab.steering.telling import Telling

ANOTHER_LOSS = (
    "After step {step} training has a loss that it did not have before: {loss}. The losses up to there are no measure "
    "of those that follow, so rules about training begin anew."
)
ANOTHER_STAGE = (
    "After step {step} a new optimizer trains what another one did, and the loss is higher from its first step on, so "
    "something else is asked of the weights. The losses up to there are no measure of those that follow: rules about "
    "training begin anew, and no state from before is gone back to."
)
BY_HAND = "one that no loss function of torch computes"


class Forgetting:
    """Tells every room that holds evidence to let it go. `labels` are those of all optimizers that have stepped.

    `keep_from(step)` lets go of the states from before that step.
    """

    def __init__(
        self,
        judge: Judge,
        judging: Judging,
        answering: Answering,
        telling: Telling,
        labels: Collection[str],
        say: Callable[[str, str], None],
        keep_from: Callable[[int], object],
    ) -> None:
        self._judge, self._judging, self._answering, self._telling = judge, judging, answering, telling
        self._labels = labels
        self._say = say
        self._keep_from = keep_from
        judging.on_stage = self.another_stage

    def everything(self, step: int) -> None:
        """Whatever was seen up to `step`, of every optimizer and of validation."""
        self._fence(None, step)

    def adjusted(self, decision: Decision, step: int, of_all: bool, back_to: int | None) -> None:
        """A decision was carried out, about its optimizer or about the whole run. `back_to`: see `Judge.fence`."""
        self._fence(None if of_all else decision.optimizer, step, back_to)
        self._telling.fence()

    def another_model(self, label: str, step: int) -> None:
        """Another model is trained under this label from now on."""
        self._fence(None, step)
        self._judging.begin_anew(label, step)
        self._answering.begin_anew(label)
        self._telling.begin_anew()

    def another_loss(self, loss: str, step: int) -> None:
        """Training has a loss that it did not have before: of the function `loss`, or (empty) one written by hand."""
        if self._judge.has_baseline:
            self._say(f"another loss {loss}", ANOTHER_LOSS.format(step=step, loss=loss or BY_HAND))
        self._fence(None, step)
        self._judging.another_loss(step)
        self._telling.begin_anew()

    def another_stage(self, step: int) -> None:
        """A new optimizer trains what another one did, and the loss was higher before it moved anything."""
        self._say("another stage", ANOTHER_STAGE.format(step=step))
        self._fence(None, step)
        self._judging.another_stage(step)
        self._telling.begin_anew()
        self._keep_from(step)

    def another_validation(self) -> None:
        """Validation is by a loss function that it was not by before: neither its best nor its course is a measure."""
        self._judge.forget_validation()

    def _fence(self, optimizer: str | None, step: int, back_to: int | None = None) -> None:
        self._judging.fence(self._labels if optimizer is None else [optimizer], step, optimizer, back_to)
        self._answering.fence(of_all=optimizer is None)
