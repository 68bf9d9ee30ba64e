"""Steps that find no gradient: they change nothing, and are none.

So it is where a schedule is wound forward or drawn before training, and where `zero_grad` comes before the step.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer

from trimtab import facts
from trimtab.capture.share import first_with_gradient
from trimtab.capture.tracked import Tracked, parameters_of

TOLD_AFTER = 20  # of them, each after a backward of its own
NO_GRADIENT = (
    "Optimizers step, and no parameter of theirs has a gradient: such steps change nothing, and are not counted. "
    "zero_grad() may stand between backward and step, or the optimizer may hold other parameters than the model has, "
    "as where that was copied or built anew after it."
)


class IdleSteps:
    """Tells them, and tells of them where backward is called all the time and nothing comes of it."""

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self.any_seen = False
        self._say = say
        self._in_vain = 0
        self._backward: object = None  # the newest before the last of them

    def is_one(self, tracked: Tracked | None, optimizer: Optimizer) -> bool:
        """Whether the step that begins, with no closure, is certain to change nothing.

        Optimizers of torch pass parameters without a gradient over. Those of others may hold gradients elsewhere. Of
        several ranks another one may have some, and all are to count the same steps.
        """
        if tracked is not None and tracked.share.probe.grad is not None:
            return False
        if first_with_gradient(parameters_of(optimizer), None) is not None or facts.group() is not None:
            return False
        return str(type(optimizer).step.__module__).startswith("torch.optim.")

    def seen(self, backward: object) -> None:
        """There was one. `backward`: the newest that no optimizer applied, if any, while none has applied one yet."""
        self.any_seen = True
        if backward is not None and backward is not self._backward:
            self._backward = backward
            self._in_vain += 1
            if self._in_vain == TOLD_AFTER:
                self._say("no_training", NO_GRADIENT)
