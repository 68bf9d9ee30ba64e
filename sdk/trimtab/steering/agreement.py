"""How the ranks of a job adjust together: every one the same, at the same optimizer step, or none.

All ranks take the same optimizer steps, so a judged step is a place where every one of them is sure to come. There they
exchange two messages over a process group of their own (gloo, on the CPU, so that no device waits): the mean of their
losses, which rank 0 judges, and what rank 0 decided, which all carry out. Before weights are changed they vote.

A rank that does not come within the timeout ends the agreement on every other one, and training goes on unadjusted.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import torch
import torch.distributed as dist

MOST = 64  # losses in one exchange
SHORT = 1024  # bytes of a message that need no second broadcast

PLACES = 1 << 20  # of steps, told apart by their remainder: over thousands of ranks squares still add up exactly

_HEAD = 4
_NAMED = 16  # numbers, at most, that a rank names of its own


class Disagreement(Exception):
    """The ranks have not come to the same place, in a sentence. Nothing more can be agreed on."""


def possible(world_size: int) -> bool:
    """Whether there is a process group of all ranks, by now."""
    return bool(dist.is_available() and dist.is_initialized() and dist.get_world_size() == world_size)


def patience(most_s: float) -> float:
    """For how long a rank may be waited for: `most_s`, or half of the timeout of the job's own group, if that is less.

    Whoever is not waited for may stand in a collective of the job meanwhile, which would run out of time.
    """
    whole: Any = dist.group.WORLD
    try:
        backends = [whole._get_backend(device) for device in whole._device_types]  # there is no public way
        timeouts: list[float] = [backend.options._timeout.total_seconds() for backend in backends]
    except (AttributeError, RuntimeError):  # a backend of its own kind
        return most_s
    return min([most_s, *(timeout / 2 for timeout in timeouts)])


class Agreement:
    """One of these in every rank, used by the thread that steps. Every call is a collective.

    `timeout_s` is for a rank that is late. Cost with two ranks on a busy machine of two cores: 1 to 2 ms for
    `mean_losses` and `tell` together, under 1 ms for `same`.

    Raises (every method): Disagreement, and what torch raises when a rank is gone.
    """

    def __init__(self, rank: int, timeout_s: float) -> None:
        self.leads = rank == 0
        self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout_s))
        self._world_size = dist.get_world_size(self._group)

    def mean_losses(self, place: int, losses: Sequence[float | None]) -> list[float | None]:
        """The mean over ranks of each loss, None where no rank has one. `place` tells the step from any other.

        A loss that is not finite on one rank is not finite for all.
        """
        newest = losses[-MOST:]
        block = torch.zeros(_HEAD + 2 * MOST, dtype=torch.float64)
        for at, each in enumerate((place % PLACES, len(losses))):
            block[2 * at], block[2 * at + 1] = each, each * each
        for at, loss in enumerate(newest):
            if loss is not None:
                block[_HEAD + at], block[_HEAD + MOST + at] = loss, 1.0
        dist.all_reduce(block, group=self._group)
        found = block.tolist()
        for total, squares in (found[0:2], found[2:4]):
            if total * total != squares * self._world_size:  # equal numbers, and no others, have no variance
                raise Disagreement("The ranks do not take the same optimizer steps.")
        sums, counts = found[_HEAD : _HEAD + MOST], found[_HEAD + MOST :]
        means = [s / c if c else None for s, c in zip(sums, counts, strict=True)][: len(newest)]
        return [*[None] * (len(losses) - len(newest)), *means]

    def tell(self, message: Mapping[str, Any] | None) -> dict[str, Any]:
        """What rank 0 has to say, in plain values that JSON holds; the others give None."""
        written = msgspec.json.encode(message) if self.leads else b""
        short = torch.zeros(8 + SHORT, dtype=torch.uint8)
        short[:8] = torch.frombuffer(bytearray(len(written).to_bytes(8, "little")), dtype=torch.uint8)
        if 0 < len(written) <= SHORT:
            short[8 : 8 + len(written)] = torch.frombuffer(bytearray(written), dtype=torch.uint8)
        dist.broadcast(short, src=0, group=self._group)
        length = int.from_bytes(bytes(short[:8].tolist()), "little")
        if length <= SHORT:
            return _decoded(short[8 : 8 + length])
        whole = torch.zeros(length, dtype=torch.uint8)
        if self.leads:
            whole = torch.frombuffer(bytearray(written), dtype=torch.uint8)
        dist.broadcast(whole, src=0, group=self._group)
        return _decoded(whole)

    def same(self, value: float) -> bool:
        """Whether every rank gives the same finite value."""
        ends = torch.tensor([value, -value], dtype=torch.float64)
        dist.all_reduce(ends, op=dist.ReduceOp.MAX, group=self._group)
        largest, least = ends.tolist()
        return bool(largest == -least)

    def common(self, numbers: Collection[int]) -> set[int]:
        """Those that every rank names: none below 0, and of many the largest."""
        newest = sorted(numbers)[-_NAMED:]
        own = torch.tensor([*newest, *[-1] * (_NAMED - len(newest))], dtype=torch.int64)
        found = [torch.empty_like(own) for _ in range(self._world_size)]
        dist.all_gather(found, own, group=self._group)
        return set.intersection(*({int(each) for each in named.tolist()} for named in found)) - {-1}


def _decoded(message: torch.Tensor) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(bytes(message.tolist()))
    return found
