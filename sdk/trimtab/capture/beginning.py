"""Whether a training stands where it began, or where another one begins.

A search for a learning rate, or the next fold of a cross-validation, puts the first weights back into the same model,
which one element of each parameter tells. Or it draws new ones (`reset_parameters`), which their versions tell: torch
counts what is written to a tensor, and a step writes the same number of times to each, each time.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Set

import torch
from torch import Tensor, nn

from trimtab.sample.seclusion import secluded

LEARNED = 24  # steps, of which fewer have taught nothing that would have to be forgotten; a rate may be 0 for some
WRITES = 8  # at most, by which a parameter is drawn anew: by its module, and then as its owner would have it


class Beginning:
    """The parameters of an optimizer as they are now. Holds them weakly, and costs about 5 us for each.

    Of parameters that are spread over ranks nothing is noted: what one rank has of them says little.
    """

    __slots__ = ("_held", "_marks", "_versions", "steps")

    def __init__(self, parameters: Collection[Tensor]) -> None:
        self.steps = 0  # since then, for whoever counts them to set
        self._held = [weakref.ref(p) for p in parameters]
        self._marks = [] if any(map(_is_unusual, parameters)) else _copied(parameters)
        self._versions = [p._version for p in parameters] if self._marks else []

    def is_of(self, parameters: Collection[int]) -> bool:
        """Whether these, by their ids, are a part of those, or more than all of those."""
        living, asked = {id(p) for p in self._living()}, set(parameters)
        return asked <= living or (len(living) == len(self._held) and living <= asked)

    def is_apart_from(self, parameters: Set[int]) -> bool:
        """Whether it has none of these, by their ids."""
        return parameters.isdisjoint(map(id, self._living()))

    def is_now(self) -> bool:
        """Whether all have the values of then. Waits for their device, and stops at the first that has not."""
        return bool(self._marks) and self._is_whole and _are(self._living(), self._marks)

    def is_drawn_anew(self) -> bool:
        """Whether all have been written to by something else than the `steps` since then, and that a few times."""
        if not (self._marks and self._is_whole and self.steps >= LEARNED):
            return False
        pairs = zip(self._living(), self._versions, strict=True)
        return all(0 < (p._version - version) % self.steps <= WRITES for p, version in pairs)

    def loaded(self, parameters: Set[int]) -> None:
        """Values of the user's choice were loaded into these, by their ids: they are not drawn anew."""
        if self._marks and self._is_whole:
            pairs = zip(self._living(), self._versions, strict=True)
            self._versions = [version + (id(p) in parameters) for p, version in pairs]

    @property
    def _is_whole(self) -> bool:
        return len(self._living()) == len(self._held)

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
    return not plain or parameter.is_meta or parameter.is_inference() or hasattr(parameter, "_fsdp_flattened")
