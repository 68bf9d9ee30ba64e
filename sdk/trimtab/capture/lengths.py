"""How long a sampler is, asked so that it makes no difference.

Torch does not ask while a loop takes its batches. A sampler of the user's may make all of its batches to count them, or
go through itself: that draws random numbers, or begins an epoch, and the next pass would be another one.
"""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch

MAY_HAPPEN = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_KNOWN = ("builtins", "torch.")  # where the classes come from that are only asked for a number
_DEEPEST = 4  # samplers around samplers


def length_of(sampler: Any) -> int | None:
    """None of one that cannot tell its length, or does not know it yet. 0.1 ms where it is of the user's class."""
    own = _of_the_users(sampler)
    try:
        if not own:
            return len(sampler)
        with _undone(own):
            return len(sampler)
    except MAY_HAPPEN:
        return None


def _of_the_users(sampler: Any) -> list[Any]:
    """Those of it, and of the ones that it draws from, whose classes are the user's."""
    found = []
    for _ in range(_DEEPEST):
        if sampler is None:
            break
        if not type(sampler).__module__.startswith(_KNOWN):
            found.append(sampler)
        sampler = getattr(sampler, "sampler", None)
    return found


@contextlib.contextmanager
def _undone(samplers: list[Any]) -> Iterator[None]:
    """What is drawn inside was never drawn, and these have the attributes that they had.

    Generators of a device are left out: to ask for their state is to wait for it.
    """
    numpy = sys.modules.get("numpy")
    of_torch, of_python = torch.get_rng_state(), random.getstate()
    of_numpy = None if numpy is None else numpy.random.get_state()
    attributes = [(own, dict(own)) for each in samplers if type(own := getattr(each, "__dict__", None)) is dict]
    try:
        for own, before in attributes:
            own.update({name: copy.deepcopy(value) for name, value in before.items() if _is_generator(value)})
        yield
    finally:
        for own, before in attributes:
            own.clear()
            own.update(before)
        torch.set_rng_state(of_torch)
        random.setstate(of_python)
        if numpy is not None:
            numpy.random.set_state(of_numpy)


def _is_generator(value: Any) -> bool:
    if isinstance(value, torch.Generator):
        return value.device.type == "cpu"
    return isinstance(value, random.Random) or type(value).__module__.startswith("numpy.random")
