"""Whether epoch after epoch the model is evaluated, and no validation is seen of it: that is worth a word."""

from __future__ import annotations

import math
from collections.abc import Callable

AFTER = 2  # epochs
NO_VALIDATION_SEEN = (
    "After each epoch, or within it, the model is evaluated, and calls no loss function of torch that training calls: "
    "no validation is shown. Log it: trimtab.log(loss=..., phase='validation'). Or name a loss of your own: "
    "run.attach(criterion=...)."
)


class Unseen:
    """Counts epochs with an evaluation of which no validation came, until there is one. O(1) for each."""

    def __init__(self) -> None:
        self.tell: Callable[[], object] = lambda: None  # called at the end of the second such epoch
        self._epochs: float = 0
        self._is_in_epoch = False

    def evaluated(self) -> None:
        """The model was evaluated within this epoch, without a loss function that training calls."""
        self._is_in_epoch = True

    def validated(self) -> None:
        """There was a validation: nothing is unseen from now on."""
        self._epochs = -math.inf

    def end_epoch(self, *, is_evaluated: bool) -> None:
        """An epoch is over; whether the model was evaluated so after its last step."""
        if is_evaluated or self._is_in_epoch:
            self._epochs += 1
            if self._epochs == AFTER:
                self.tell()
        self._is_in_epoch = False
