"""What the kinds of devices can do. No other room asks what kind a device is, but for whether it is the CPU."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from types import ModuleType

import torch
from torch import Tensor


def in_use() -> ModuleType | None:
    """torch's module of the accelerator that the script has begun to use: `torch.cuda`, `torch.xpu`, ...

    None before: whoever counts or names CUDA's devices, or asks whether there are any, fixes which of them are visible,
    and a process that was forked afterwards can use none.
    """
    found = torch.accelerator.current_accelerator()
    module = None if found is None else _module(found)
    return module if module is not None and hasattr(module, "is_initialized") and module.is_initialized() else None


def is_recorded(tensor: Tensor) -> bool:
    """Whether what is computed where `tensor` is goes into a CUDA graph now (or XPU's), to be done in its replays.

    Nothing has a value then, and asking for one breaks the recording. Cost: 0.1 us on the CPU.
    """
    if tensor.is_cpu or tensor.is_meta:
        return False
    asks = getattr(_module(tensor.device), "is_current_stream_capturing", None)
    return asks is not None and bool(asks())


def described(tensors: Iterable[Tensor]) -> str:
    """Where tensors are that are not on the CPU, for people: `NVIDIA H100 (cuda:3)`. Empty where all are on the CPU."""
    places = {str(tensor.device): tensor.device for tensor in tensors if not tensor.is_cpu}
    return ", ".join(f"{_name(device)} ({place})" for place, device in sorted(places.items()))


def _name(device: torch.device) -> str:
    get_device_name = getattr(_module(device), "get_device_name", None)
    return str(get_device_name(device)) if get_device_name is not None else device.type.upper()


def _module(device: torch.device) -> ModuleType | None:
    """`torch.cuda` and its like. Not every kind of device has one."""
    return getattr(torch, device.type, None)


def widest(device: torch.device) -> torch.dtype:
    """The widest real type that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


@functools.cache
def can_tell(kind: str) -> bool:
    """Whether devices of this kind tell when a copy to pinned host memory has arrived, as `Arriving` asks them to.

    CUDA, ROCm and XPU do, and others that have events and pinned memory. What may be read when on MPS is not said.
    """
    accelerator = torch.accelerator.current_accelerator()
    if kind == "mps" or accelerator is None or accelerator.type != kind:
        return False
    try:
        torch.Event(kind).record()
        return torch.empty(1, pin_memory=True).is_pinned()
    except RuntimeError:
        return False


class Arriving:
    """Numbers on their way from a device to the host. Starting never waits; reading waits for this copy alone.

    Where the device cannot tell when they are there, nothing is copied until they are read.
    """

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers
        self._event: torch.Event | None = None
        if can_tell(numbers.device.type):
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, device="cpu", pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._event = torch.accelerator.current_stream(numbers.device).record_event()

    def is_here(self) -> bool:
        """Whether reading waits for nothing that is known of."""
        return self._event is None or self._event.query()

    def read(self) -> list[float]:
        """All of them, of one dimension."""
        if self._event is not None:
            self._event.synchronize()
        return self._numbers.tolist()
