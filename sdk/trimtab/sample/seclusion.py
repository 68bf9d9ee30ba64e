"""Keeps what is computed for us from the modes that the user has entered.

A `TorchDispatchMode` sees every operation. Some count or record what they see. Selective checkpointing saves it, and
expects the same again when the forward is repeated, where nothing of ours is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch._C import _len_torch_dispatch_stack as modes
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["modes", "secluded"]

P = ParamSpec("P")
R = TypeVar("R")


def secluded(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, of which no mode sees anything. 0.1 us where there is none."""

    @functools.wraps(function)
    def in_seclusion(*args: P.args, **kwargs: P.kwargs) -> R:
        if not modes():
            return function(*args, **kwargs)
        with _disable_current_modes():
            return function(*args, **kwargs)

    return in_seclusion
