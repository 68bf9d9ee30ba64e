"""What capture needs of whoever judges steps and may change them: the only arrow from it to the rooms that steer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch.optim import Optimizer

from trimtab.sample.ledger import Ledger
from trimtab.sample.readings import Due
from trimtab.sample.scalars import Held


class StepController(Protocol):
    """What judges steps, and may change the run around them. Every call is made by the thread that steps."""

    awaits_steps: bool  # whether `stepped` is to be called after every step

    @property
    def acts(self) -> bool:
        """Whether anything may come of a verdict but a word. Where not, steps may be judged when they are over."""
        ...

    @property
    def judges_at_once(self) -> bool:
        """Whether a step whose loss is not finite is judged though it is not its turn."""
        ...

    @property
    def is_wary(self) -> bool:
        """Whether a step is judged, too, if its gradients are not finite, and each step's are worth a look."""
        ...

    @property
    def steers(self) -> bool:
        """Whether `left_out` and `rates` are worth asking."""
        ...

    def met(self, optimizer: Optimizer, label: str) -> None:
        """An optimizer is about to step for the first time."""
        ...

    def begins_anew(self, label: str, *, may_return: bool = False) -> None:
        """Before `met`: what was trained under this label is trained no more, and another model is from now on.

        `may_return`: the other model has a label of its own, and that one may be trained on later.
        """
        ...

    def takes_over(self, label: str, former: Sequence[str]) -> None:
        """After `met`, before its first step: it trains all that others, of these labels, trained for long."""
        ...

    def another_loss(self, loss: str) -> None:
        """Training has a loss that it did not have before: of the function `loss`, or (empty) one written by hand.

        Not called for the first that it has. Comes in the middle of a step.
        """
        ...

    def another_validation(self) -> None:
        """Before `validated`: validation is by a loss function that it was not by before."""
        ...

    def joined(self, optimizer: Optimizer, label: str) -> None:
        """An optimizer is about to step inside `backward`, as one of several with this label. Called once."""
        ...

    def judge(self, ledger: Ledger, due: Due, *, applied: bool = False) -> int:
        """The loss and the gradients of a step are known and not `applied` yet; `due` has those before it too.

        Returns every how many steps to judge.
        """
        ...

    def looks_again(self, label: str) -> bool:
        """After `judge`: whether the gradients of the next step are worth a look, since those of this one were bad.

        Something is done about this step alone. Else its gradients would stand for those of the next.
        """
        ...

    def catch_up(self, ledger: Ledger, due: Due) -> None:
        """Judge steps that are over and recorded, before something is judged that rests on them."""
        ...

    def skipped(self, label: str) -> None:
        """GradScaler skipped a step."""
        ...

    def stepped(self, label: str, *, pending: bool = False) -> bool:
        """The parameters are updated. `pending`: by now the next forward has been made with them.

        Returns whether this optimizer was adjusted since it was asked last: its next steps are to be looked at closely.
        """
        ...

    def left_out(self, optimizer: Optimizer) -> bool:
        """Whether the step was skipped by us, and changed nothing."""
        ...

    def rates(self, optimizer: Optimizer) -> Sequence[Any] | None:
        """What the step used instead of the schedule's own learning rates."""
        ...

    def decays(self, optimizer: Optimizer) -> Sequence[Any] | None:
        """What the step used instead of the user's own weight decay."""
        ...

    def backward_reached(self, label: str, *, loss: Held, cleared: bool) -> None:
        """A backward of `loss` wrote to gradients that an optimizer may apply; the first since they were `cleared`."""
        ...

    def backward_spared(self, label: str, *, loss: Held) -> None:
        """A backward of `loss` would have written to gradients of this optimizer, but for its `inputs=` of others."""
        ...
