"""Whether backward is called on the very mean that a loss function returned, so that little of it need be read."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor

from trimtab.capture.losses import Loss
from trimtab.sample.scalars import Held, hold

TRUSTED_AFTER = 3  # backwards on the very mean that the loss function returned
DOUBTED_FOR = 100  # of them, after one on something else: GANs take turns, and some penalties come every so many steps


class Objective:
    """Compares what backward is called on with what the newest call of a loss function in training returned.

    A loss whose mean was all of it for long enough is `plain`. What its calls return is the objective's own value, or
    there is more to that one, and it counts beside it (`doubt`).
    """

    def __init__(self) -> None:
        self.newest: Loss | None = None  # that training called
        self.plain: Loss | None = None
        self.is_mean = False  # backward was called on the very mean that it returned
        self.is_sum = False  # ... or on the very sum over samples
        self._output: weakref.ref[Tensor] | None = None  # of the newest call
        self._output_is_mean = False
        self._version = 0  # of that output, as it was returned
        self._kept: Held | None = None  # the value of that output, where it was read
        self._doubted = TRUSTED_AFTER  # backwards until a loss is plain
        self._backwards = 0  # since the last step

    def returned(self, tensor: Any) -> bool:
        """Whether it is what the newest call of a loss function in training returned."""
        return self._output is not None and self._output() is tensor

    def called(self, loss: Loss, output: weakref.ref[Tensor], version: int, *, is_mean: bool) -> None:
        """Training has called a loss function, whose output was of this version then."""
        self.newest, self._output, self._version, self._output_is_mean = loss, output, version, is_mean
        self._kept = None

    def called_plain(self, output: Tensor, version: int) -> Held:
        """Training has called the plain loss, whose output was of this version then. Its value."""
        self._output, self._version, self._kept = weakref.ref(output), version, hold(output)
        return self._kept

    def value_of(self, tensor: Tensor) -> Held:
        """The value of what backward is called on. Not read again where it was kept: on a device each is a copy."""
        if self._kept is not None and self.is_as_returned(tensor):
            return self._kept
        return hold(tensor)

    def is_as_returned(self, tensor: Any) -> bool:
        """Whether it is `returned`, and nobody has written to it since, as `loss += penalty` does."""
        output = None if self._output is None else self._output()
        return output is not None and output is tensor and output._version == self._version

    def backward(self, tensor: Any, *, is_returned: bool | None = None) -> bool:
        """Backward is called on `tensor`: whether that is all of the objective, as it was before. Else `learn`.

        `is_returned`: whether the tensor is as it was returned, where that is known.
        """
        self._backwards += 1
        if self.plain is None or self._backwards > 1:
            return False
        return self.is_as_returned(tensor) if is_returned is None else is_returned

    def learn(self, tensor: Any, *, is_returned: bool | None = None) -> None:
        """Whether backward is called on what was returned."""
        if self._output is None:
            return
        is_given = self.is_as_returned(tensor) if is_returned is None else is_returned
        self.is_mean = is_given and self._output_is_mean
        self.is_sum = is_given and not self._output_is_mean
        is_all = self.is_mean and self._backwards == 1
        self._doubted = max(0, self._doubted - 1) if is_all else DOUBTED_FOR
        self.plain = None if self._doubted else self.newest

    def doubt(self) -> None:
        """The mean may not be all of it this time."""
        self.plain = None

    def end_step(self) -> None:
        """A step is over."""
        self._backwards = 0

    def catch_up(self, *, is_trained: bool) -> None:
        """The plain loss was called in the steps before this one. `is_trained`: backward was, too, in this one."""
        self._backwards = int(is_trained)
