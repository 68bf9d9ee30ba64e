"""Single values: a loss, a norm, a learning rate in a tensor.

On the CPU a value is read at once (0.25 us). On a device it is copied at once, since the user may change the tensor
in place later, and read with all others in one transfer that nobody waits for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from trimtab.devices import Arriving, is_recorded, widest
from trimtab.sample.seclusion import modes, secluded

Held: TypeAlias = "float | Tensor"


FEWEST_TELLING, MOST_COMPARED = 16, 1 << 20  # elements

read_now = Tensor.item  # of one element, on the CPU


def hold(value: Tensor) -> Held:
    """The value of a one-element tensor, now. Complex values give their real part."""
    return _hold_secluded(value) if modes() else _hold(value)


def _hold(value: Tensor) -> Held:
    if value.is_cpu:
        number = value.item()
        return number.real if isinstance(number, complex) else number
    held = value.detach()
    if held.is_complex():
        held = held.real
    return held.reshape(()).to(widest(held.device), copy=True)


_hold_secluded = secluded(_hold)


def is_real(value: Any) -> bool:
    """Whether a tensor has values that could be read: not on the meta device, nor recorded, nor a fake of a dry run."""
    if not isinstance(value, Tensor):
        return True
    fakes = sys.modules.get("torch._subclasses.fake_tensor")
    return has_value(value) and (fakes is None or not isinstance(value, fakes.FakeTensor))


def has_value(tensor: Tensor) -> bool:
    """Whether a tensor that is none of a dry run's fakes has values that could be read."""
    return tensor.is_cpu or not (tensor.is_meta or is_recorded(tensor))


@secluded
def is_telling(targets: Tensor) -> bool:
    """Whether other data would hardly have the same targets. False on a device, where looking would wait."""
    if not targets.is_cpu or targets.layout != torch.strided or not FEWEST_TELLING <= targets.numel() <= MOST_COMPARED:
        return False
    return bool((targets != targets.flatten()[0]).any())


@secluded
def are_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same values. False on a device."""
    return one.is_cpu and other.is_cpu and one.shape == other.shape and one.dtype == other.dtype and one.equal(other)


@secluded
def sum_of(values: Sequence[Held]) -> Held:
    """The sum of one value or more, on the device of the first that is on any. No wait."""
    result = values[0]
    for value in values[1:]:
        if isinstance(result, Tensor) and isinstance(value, Tensor) and value.device != result.device:
            value = value.to(result.device, non_blocking=True)
        result = result + value
    return result


class Transfer:
    """Held values on their way to the host. Starting it never waits; reading it waits only for these copies."""

    def __init__(self, values: Sequence[Held]) -> None:
        self._values = list(values)
        by_device: dict[torch.device, list[Tensor]] = {}
        for value in self._values:
            if isinstance(value, Tensor):
                by_device.setdefault(value.device, []).append(value)
        self._copies = {device: _launch(tensors) for device, tensors in by_device.items()}

    @property
    def immediate(self) -> bool:
        """Whether reading costs no wait at all."""
        return not self._copies

    def read(self) -> list[float]:
        """All values as floats, in the order given."""
        arrived = {device: iter(copy.read()) for device, copy in self._copies.items()}
        return [next(arrived[v.device]) if isinstance(v, Tensor) else float(v) for v in self._values]


@secluded
def _launch(tensors: Sequence[Tensor]) -> Arriving:
    """The way of values that are on one device."""
    wide = widest(tensors[0].device)
    return Arriving(torch.stack([tensor.to(wide) for tensor in tensors]))
