"""Parameters that get gradients and are in no optimizer: often the optimizer was given too few."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor
from torch.optim import Optimizer

from trimtab.capture.models import Models
from trimtab.capture.tracked import parameters_of

LOOKED_AFTER = 50  # steps
NAMED = 3
UNOWNED = (
    "{count} of {all} parameters get gradients and are in no optimizer, so that they are not trained: {names}. If they "
    "are to be trained, give them to an optimizer. If not, requires_grad_(False) saves the time of their gradients."
)


class Unowned:
    """Looks for them once. `optimizers()` are all that live, also those that have not stepped yet."""

    def __init__(
        self, models: Models, optimizers: Callable[[], Iterable[Optimizer]], say: Callable[[str, str], None]
    ) -> None:
        self.is_done = False
        self._models, self._optimizers, self._say = models, optimizers, say

    def look(self, parameters: Sequence[Tensor]) -> None:
        """Before a step on these, with gradients. 1 us a parameter, and 40 ms more where any seems to be left out.

        No gradient of another optimizer's is looked at: a backward of another thread may write to it.
        """
        self.is_done = True
        models = self._models.holding(parameters)
        named = {id(p): (name, p) for model in models for name, p in model.named_parameters()}
        left = {key: found for key, found in named.items() if found[1].requires_grad}
        for parameter in parameters:
            left.pop(id(parameter), None)
        if not left:
            return
        for optimizer in self._optimizers():
            for parameter in parameters_of(optimizer):
                left.pop(id(parameter), None)
        names = [name for name, parameter in left.values() if parameter.grad is not None]
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            first = ", ".join(names[:NAMED]) + more
            self._say("unowned", UNOWNED.format(count=len(names), all=len(named), names=first))
