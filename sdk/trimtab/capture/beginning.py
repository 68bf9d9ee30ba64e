"""Whether a training stands where it began, told by one element of each of its parameters.

A search for a learning rate, or the next fold of a cross-validation, puts the first weights back into the same model.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Set

import torch
from torch import Tensor, nn

from trimtab.sample.seclusion import secluded


class Beginning:
    """The parameters of an optimizer as they are now. Holds them weakly, and costs about 5 us for each.

    Of parameters that are spread over ranks nothing is noted: what one rank has of them says little.
    """

    __slots__ = ("_held", "_marks")

    def __init__(self, parameters: Collection[Tensor]) -> None:
        self._held = [weakref.ref(p) for p in parameters]
        self._marks = [] if any(map(_is_unusual, parameters)) else _copied(parameters)

    def is_of(self, parameters: Collection[int]) -> bool:
        """Whether these, by their ids, are a part of those, or more than all of those."""
        living, asked = {id(p) for p in self._living()}, set(parameters)
        return asked <= living or (len(living) == len(self._held) and living <= asked)

    def is_apart_from(self, parameters: Set[int]) -> bool:
        """Whether it has none of these, by their ids."""
        return parameters.isdisjoint(map(id, self._living()))

    def is_now(self) -> bool:
        """Whether all have the values of then. Waits for their device, and stops at the first that has not."""
        living = self._living()
        return bool(self._marks) and len(living) == len(self._held) and _are(living, self._marks)

    def _living(self) -> list[Tensor]:
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
    return not plain or parameter.is_meta or hasattr(parameter, "_fsdp_flattened")
