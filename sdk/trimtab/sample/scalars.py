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
    wide = torch.float32 if held.device.type == "mps" else torch.float64
    return held.reshape(()).to(wide, copy=True)


_hold_secluded = secluded(_hold)


def is_real(value: Any) -> bool:
    """Whether a tensor has values that could be read: not on the meta device, nor among the fakes of a dry run."""
    if not isinstance(value, Tensor):
        return True
    fakes = sys.modules.get("torch._subclasses.fake_tensor")
    return not value.is_meta and (fakes is None or not isinstance(value, fakes.FakeTensor))


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


class Transfer:
    """Held values on their way to the host. Starting it never waits; reading it waits only for this copy."""

    def __init__(self, values: Sequence[Held]) -> None:
        self._values = list(values)
        self._tensors = [v for v in self._values if not isinstance(v, float | int)]
        self._copy: Tensor | None = None
        self._event: torch.cuda.Event | None = None
        if self._tensors:
            self._start()

    def _start(self) -> None:
        stacked = torch.stack([t.double() if t.is_cuda else t for t in self._tensors])
        if stacked.is_cuda:
            self._copy = torch.empty(stacked.shape, dtype=stacked.dtype, device="cpu", pin_memory=True)
            self._copy.copy_(stacked, non_blocking=True)
            self._event = torch.cuda.current_stream(stacked.device).record_event()
        else:
            self._copy = stacked

    @property
    def immediate(self) -> bool:
        """Whether reading costs no wait at all."""
        return not self._tensors

    def read(self) -> list[float]:
        """All values as floats, in the order given."""
        if self._copy is None:
            return [float(v) for v in self._values]
        if self._event is not None:
            self._event.synchronize()
        read = iter(self._copy.tolist())
        return [float(v) if isinstance(v, float | int) else next(read) for v in self._values]
