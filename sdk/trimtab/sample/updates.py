"""How far a step moved each layer: the 2-norm of what it changed, over the 2-norm of the weights before it.

About 1e-3 is healthy, by Stanford's course cs231n ("Neural Networks Part 3: ratio of weights:updates"). The weights are
copied before the step and compared after it, so the figure is true for every optimizer, whatever it does with its
learning rate, its moments and its decay. Of a large layer a part is compared: the whole would cost twice what the
statistics of its gradient do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trimtab.devices import widest
from trimtab.sample.elements import elements_of, pieces
from trimtab.sample.scalars import Held, Transfer
from trimtab.sample.seclusion import secluded

MOST = 32 * 1024  # elements of a layer that are copied: ratios of norms over so many are good to a few percent
LINE = 16  # elements that stand together: memory is read in lines of 64 bytes
NOTHING = 1.5e-3  # root mean square of weights that have yet to grow, as LayerScale's: that of 150,000 inputs is more
UNDEFINED = -1.0  # the ratio of a layer whose weights were less than that


class UpdateSample:
    """The ratios of one step, of a device on their way.

    `row`: on which step of the block; `rate`: its learning rate by the schedule, None where that is not known.
    """

    def __init__(self, row: int, names: Sequence[str], ratios: Sequence[Held], rate: float | None = None) -> None:
        self.row = row
        self.rate = rate
        self._names = names
        self._transfer = Transfer(ratios)
        self._read: dict[str, float] | None = None

    @property
    def immediate(self) -> bool:
        """Whether reading costs no wait."""
        return self._transfer.immediate

    def read(self) -> Mapping[str, float]:
        """The ratio of each layer that has one. Waits for their own copy alone, not for later work of the device."""
        if self._read is None:
            pairs = zip(self._names, self._transfer.read(), strict=True)
            self._read = {name: ratio for name, ratio in pairs if ratio != UNDEFINED}
        return self._read


class Weights:
    """The weights of one optimizer's layers, as they were before a step.

    Memory: at most `MOST` elements a layer, kept and used again. The ratio of a larger one is an estimate, from lines
    of elements that are evenly spread. Of a DTensor it is the local shard's. A layer whose weights are next to
    nothing (their root mean square is under 0.0015) has none.
    """

    def __init__(self) -> None:
        self.rate: float | None = None  # of the step that they are held for, by the schedule
        self._buffers: list[Tensor] = []
        self._layers: list[Tensor] = []  # only while a step is under way, as a user may drop them
        self._names: list[str] = []

    @secluded
    def hold(self, parameters: Sequence[Tensor], names: Sequence[str | None]) -> None:
        """Copy the parameters that have a name. No wait."""
        shown = [
            (p, name)
            for p, name in zip(parameters, names, strict=True)
            if name is not None and p.layout is torch.strided and p.numel()
        ]
        self._layers, self._names = [p for p, _ in shown], [name for _, name in shown]
        if shown:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                weights = self._spread()
                self._make_room(weights)
                torch._foreach_copy_(self._buffers, weights)

    @secluded
    def compare(self) -> tuple[Sequence[str], Sequence[Held]]:
        """Names and ratios of the layers that were held, which are let go. No wait."""
        names, ratios = self._names, list[Held]()
        if names:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                weights = self._spread()
                if all(map(_alike, self._buffers, weights)):
                    ratios = _ratios(self._buffers, weights)
        self._layers, self._names = [], []
        return (names, ratios) if ratios else ((), ())

    def _spread(self) -> list[Tensor]:
        """What is compared of each layer, as it is now."""
        return [_part_of(elements_of(layer.detach())[0]) for layer in self._layers]

    def _make_room(self, weights: Sequence[Tensor]) -> None:
        if len(self._buffers) != len(weights) or not all(map(_alike, self._buffers, weights)):
            self._buffers = []  # first, so that there are never two sets
            self._buffers = [torch.empty(w.shape, dtype=w.dtype, device=w.device) for w in weights]


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device


def _part_of(values: Tensor) -> Tensor:
    """All elements, flat and where memory is dense a view; of many some lines, the same each time."""
    size = values.numel()
    (flat,) = pieces(values, size) if size else (values.reshape(-1),)
    if size <= MOST:
        return flat
    lines = size // LINE
    return flat[: lines * LINE].view(lines, LINE).index_select(0, _chosen_lines(lines, values.device))


@functools.lru_cache(maxsize=256)
def _chosen_lines(lines: int, device: torch.device) -> Tensor:
    """Which of so many lines are compared: one of each stretch, each at another place of it.

    At the same place of each they would fall on the same columns of a matrix again and again. Knuth's multiplicative
    hash (The Art of Computer Programming, 6.4) takes the place of a generator, since a guest draws no random number.
    """
    stretch = -(-lines * LINE // MOST)
    index = torch.arange(lines // stretch, device="cpu")
    return (index * stretch + (index * 2_654_435_761 >> 12) % stretch).to(device)


def _ratios(before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Held]:
    """Overwrites `before`."""
    ratios: list[Held] = [UNDEFINED] * len(before)
    elsewhere: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if old.is_cpu:
            ratios[index] = _ratio(old, new)
        else:
            elsewhere.setdefault((old.device, old.dtype), []).append(index)
    for indices in elsewhere.values():
        found = _ratios_on_device([before[i] for i in indices], [after[i] for i in indices])
        for index, ratio in zip(indices, found.unbind(), strict=True):
            ratios[index] = ratio
    return ratios


def _ratio(before: Tensor, after: Tensor) -> float:
    """`dot` may be off by 1e-4, which is nothing here, and saves two thirds of the launches."""
    wide = (before if before.dtype in (torch.float32, torch.float64) else before.float()).view(-1)
    weights = wide.dot(wide).item()
    changes = wide.sub_(after.view(-1)).dot(wide).item()
    return UNDEFINED if weights <= NOTHING * NOTHING * wide.numel() else math.sqrt(changes / weights)


def _ratios_on_device(before: list[Tensor], after: list[Tensor]) -> Tensor:
    """The same in a few kernels, of one device and dtype, one element a layer."""
    wide = torch.promote_types(before[0].dtype, torch.float32)
    norms = torch._foreach_norm(before, 2, dtype=wide)
    least = torch._foreach_div(norms, [NOTHING * math.sqrt(max(layer.numel(), 1)) for layer in before])
    torch._foreach_sub_(before, after)
    changes = torch.stack(torch._foreach_norm(before, 2, dtype=wide))
    ratios = torch.where(torch.stack(least) < 1, UNDEFINED, changes / torch.stack(norms))
    return ratios.to(widest(ratios.device))
