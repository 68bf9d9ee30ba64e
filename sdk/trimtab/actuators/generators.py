"""The states of random generators: torch on every device in use, Python, and NumPy's global one where it is loaded."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class States:
    """At one moment. Reading them draws nothing."""

    torch: Tensor
    cuda: list[Tensor]
    python: Any
    numpy: Any


def states() -> States:
    """Of now."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    numpy = sys.modules.get("numpy")
    return States(torch.get_rng_state(), cuda, random.getstate(), None if numpy is None else numpy.random.get_state())


def restore(states: States) -> None:
    """Go back to `states`."""
    torch.set_rng_state(states.torch)
    if states.cuda:
        torch.cuda.set_rng_state_all(states.cuda)
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
