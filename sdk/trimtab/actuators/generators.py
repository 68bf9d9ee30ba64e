"""The states of random generators: torch on all devices in use but MPS, Python, and NumPy's where it is loaded."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.devices import in_use


@dataclass(frozen=True, slots=True)
class States:
    """At one moment. Reading them draws nothing."""

    torch: Tensor
    devices: list[Tensor]
    python: Any
    numpy: Any


def states() -> States:
    """Of now."""
    module = in_use()
    of_devices = getattr(module, "get_rng_state_all", list)
    numpy = sys.modules.get("numpy")
    of_numpy = None if numpy is None else numpy.random.get_state()
    return States(torch.get_rng_state(), of_devices(), random.getstate(), of_numpy)


def restore(states: States) -> None:
    """Go back to `states`."""
    torch.set_rng_state(states.torch)
    module = in_use()
    if states.devices and module is not None:
        module.set_rng_state_all(states.devices)
    random.setstate(states.python)
    if states.numpy is not None:
        sys.modules["numpy"].random.set_state(states.numpy)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Whatever is drawn inside, by a library that is imported for the first time as well, was never drawn."""
    before = states()
    try:
        yield
    finally:
        restore(before)
