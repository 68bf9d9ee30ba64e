"""What is noted of parameters, to know later whether they have the values of then: one element of each.

Any step changes it, and so does whoever puts other weights in their place. It costs 5 us a parameter, where comparing
all of them would cost as much as a copy.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from trimtab.sample.seclusion import secluded


class Marks:
    """Of these parameters as they are now, which are held weakly.

    Of parameters that are spread over ranks nothing is noted: what one rank has of them says little.
    """

    __slots__ = ("_held", "_marks")

    def __init__(self, parameters: Collection[Tensor]) -> None:
        self._held = [weakref.ref(p) for p in parameters]
        self._marks = [] if any(map(_is_unusual, parameters)) else _copied(parameters)

    @property
    def are_known(self) -> bool:
        """Whether anything was noted, and all parameters are still there."""
        return self._are_all(self.living())

    def _are_all(self, living: Collection[Tensor]) -> bool:
        return bool(self._marks) and len(living) == len(self._held)

    def are_now(self) -> bool:
        """Whether all have the values of then. Waits for their device, and stops at the first that has not."""
        living = self.living()  # once: they may go at any time
        return self._are_all(living) and _are(living, self._marks)

    def are_others(self) -> bool:
        """Whether one of them has another value, as far as that is known: not where one is gone. Waits likewise."""
        living = self.living()
        return self._are_all(living) and not _are(living, self._marks)

    def living(self) -> list[Tensor]:
        """Those that are still there."""
        return [p for held in self._held if (p := held()) is not None]


@secluded
def _copied(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [_mark(p).clone() for p in parameters if p.numel()]


@secluded
def _are(parameters: Iterable[Tensor], marks: Collection[Tensor]) -> bool:
    now = [_mark(p) for p in parameters if p.numel()]
    return len(now) == len(marks) and all(map(_is_equal, now, marks))


def _is_equal(mark: Tensor, then: Tensor) -> bool:
    """Of tensors of two devices or types torch would raise."""
    return mark.device == then.device and mark.dtype == then.dtype and torch.equal(mark, then)


def _mark(parameter: Tensor) -> Tensor:
    """Its last element, as a view."""
    return parameter.detach()[(-1,) * parameter.dim()]


def _is_unusual(parameter: Tensor) -> bool:
    """Whether an element of it may not be had by itself."""
    plain = type(parameter) in (nn.Parameter, Tensor) and parameter.layout is torch.strided
    return not plain or parameter.is_meta or parameter.is_inference() or hasattr(parameter, "_fsdp_flattened")
