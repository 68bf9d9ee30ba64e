"""Mean, variance, norm and largest magnitude of gradients, within 1e-5 of float64, for about three plain sums.

On the CPU gradients are cut into blocks that fit the cache, so that an element is fetched from memory once. Sums of a
block are float32, sums over blocks are Python floats. Where float32 cannot hold the answer (extreme magnitudes, a mean
that outweighs the deviations) that gradient is read again in float64. Small ones of one size are summed in float64 at
once: such a mean is common among them (biases, norms), and reading one again takes 90 us.

On a device nothing may wait, so nothing can be judged and read again: there each block is first divided by its own
magnitude, which always works and costs a block of memory. All figures come over in one copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from trimtab.devices import Arriving
from trimtab.sample.elements import Elements, elements_of, pieces
from trimtab.sample.moments import Moments, combine
from trimtab.sample.seclusion import secluded

BLOCK = 1024 * 1024  # elements: 4 MiB, for caches of today; a smaller one pays for launches, a larger one for memory
DEVICE_BLOCK = 16 * BLOCK  # on a device launches cost more, and there is memory
ROW = 512  # elements whose squares are summed one after the other, with an error of at most ROW / 8 lanes * 2**-24
SMALL = 8 * ROW  # elements up to which a launch costs more than its work
STACKED = 4  # small gradients of one size from which on it pays to copy them into one block
FEW = 32  # elements up to which plain Python is faster than a launch


class Limits(NamedTuple):
    """Where sums of a precision can be trusted."""

    squarable: float  # largest magnitude from which on squares that underflow do not count, be denormals flushed to 0
    # The variance is the difference of the sum of squares from the mean's: where less than this share of it is left,
    # the error of the sum has grown too large.
    cancelled: float


FLOAT32 = Limits(squarable=1e-12, cancelled=0.5)  # sums of squares are right to 4e-6
FLOAT64 = Limits(squarable=1e-140, cancelled=1e-9)  # ... to 1e-14

FIGURES = 4  # that a device computes for each block

Sums: TypeAlias = tuple[float, float, float]  # of the elements, of their squares; the largest magnitude


class Taken:
    """Statistics that have been taken and, on a device, are still on their way."""

    def __init__(self, moments: dict[int, Moments], pending: list[_OnDevice], scale: float | Arriving) -> None:
        self._moments = moments
        self._pending = pending
        self._scale = scale

    def ready(self) -> bool:
        """Whether `read` would not wait. Always true for a device that cannot tell."""
        arrived = isinstance(self._scale, float) or self._scale.is_here()
        return arrived and all(group.ready() for group in self._pending)

    def read(self) -> list[Moments]:
        """One for each gradient, in the order given. Waits while a transfer is under way."""
        for group in self._pending:
            self._moments.update(group.read())
        self._pending = []
        if not isinstance(self._scale, float):
            self._scale = self._scale.read()[0]
        moments = [self._moments[index] for index in range(len(self._moments))]
        return moments if self._scale == 1.0 else [each.divided_by(self._scale) for each in moments]


@secluded
def take(gradients: Sequence[Tensor], scale: Tensor | None = None) -> Taken:
    """Take the statistics of every gradient as it is now, divided by `scale` (one element, as GradScaler's).

    Any floating or complex dtype, any shape, layout and device; nothing given is changed. Elements of a complex
    gradient are its real and its imaginary parts, those of a sparse one include its zeros, those of a DTensor are the
    local shard's, to be combined over ranks. On the CPU the work is done on return. On a device it has been launched,
    five kernels a gradient, without a wait, but for a sparse gradient that is not coalesced (its optimizer waits too).
    Memory: two blocks, and what coalescing needs.
    """
    # Modes and subclasses of the user's (a default device, say) have no business here, and cost microseconds a call.
    with torch.no_grad(), torch._C.DisableTorchFunction():
        here: dict[int, Elements] = {}
        elsewhere: dict[torch.device, dict[int, Elements]] = {}
        for index, gradient in enumerate(gradients):
            elements = values, _ = elements_of(gradient)
            group = here if values.is_cpu else elsewhere.setdefault(values.device, {})
            group[index] = elements
        divisor: float | Arriving = 1.0
        if scale is not None:
            divisor = float(scale.item()) if scale.is_cpu else Arriving(scale.detach().reshape(1).clone())
        return Taken(_on_cpu(here), [_OnDevice(group) for group in elsewhere.values()], divisor)


@secluded
def finite(gradients: Sequence[Tensor]) -> bool:
    """Whether the norms of all gradients on the CPU are finite; those elsewhere are taken for it, as nothing may wait.

    Elements beyond 1e19 are not told from Inf. Cost: about one plain sum.
    """
    with torch.no_grad(), torch._C.DisableTorchFunction():
        here = [_squarable(values) for values, _ in map(elements_of, gradients) if values.is_cpu]
        return not here or math.isfinite(torch.stack([n.double() for n in torch._foreach_norm(here)]).sum().item())


def _squarable(values: Tensor) -> Tensor:
    """Of half precision as float32: its norms end at 65,504."""
    return values.float() if values.dtype is torch.float16 else values


def _on_cpu(group: dict[int, Elements]) -> dict[int, Moments]:
    moments = {}
    alike: dict[tuple[torch.dtype, int], list[int]] = {}
    for index, (values, size) in group.items():
        stored = values.numel()
        if size <= FEW:
            moments[index] = _few(values, size)
        elif 0 < stored <= SMALL:
            alike.setdefault((values.dtype, stored), []).append(index)
        else:
            moments[index] = _judge(values, size, _sums(values, stored))
    for (_, stored), indices in alike.items():
        if len(indices) < STACKED:
            for index in indices:
                values, size = group[index]
                moments[index] = _judge(values, size, _sums(values, stored))
        else:
            for index, sums in zip(indices, _sums_of_alike([group[i][0] for i in indices]), strict=True):
                moments[index] = _judge(*group[index], sums, FLOAT64)
    return moments


def _sums_of_alike(tensors: list[Tensor]) -> Iterator[Sums]:
    """Of small gradients of one size, in float64: copied into one block, they need no launch of their own."""
    most = max(BLOCK // 8 // tensors[0].numel(), 1)
    for some in (tensors[start : start + most] for start in range(0, len(tensors), most)):
        rows = torch.stack([each.reshape(-1) for each in some]).double()
        sums, squares, highest, lowest = rows.sum(1), (rows * rows).sum(1), rows.amax(1), rows.amin(1)
        largest = map(max, highest.tolist(), lowest.neg().tolist())
        yield from zip(sums.tolist(), squares.tolist(), largest, strict=True)


def _sums(values: Tensor, stored: int) -> Sums:
    """Of any gradient, of so many elements. A NaN shows in the sums, if not in the maximum."""
    total, squares, largest = 0.0, 0.0, 0.0
    if stored:
        plain = stored <= BLOCK and values.dtype is torch.float32 and values.is_contiguous()
        for piece in (values.view(-1),) if plain else pieces(values, BLOCK):
            wide = piece if plain else _wide(piece)
            lowest, highest = wide.aminmax()
            largest = max(largest, highest.item(), -lowest.item())
            squares += _sum_of_squares(wide)
            total += wide.sum().item()
    return total, squares, largest


def _sum_of_squares(flat: Tensor) -> float:
    """Of a flat tensor on the CPU, to 4e-6.

    `dot` is faster by a tenth, but off by 1e-4 when many magnitudes are equal: it adds up long runs.
    """
    size = flat.numel()
    if size <= SMALL:
        return flat.dot(flat).item()
    rest = size % ROW
    if rest:
        return _sum_of_squares(flat[:-rest]) + _sum_of_squares(flat[-rest:])
    norms: Tensor = torch.linalg.vector_norm(flat.view(-1, ROW), dim=1)
    return norms.dot(norms).item()


def _judge(values: Tensor, size: int, sums: Sums, limits: Limits = FLOAT32) -> Moments:
    """Moments from sums, or from a second reading where these cannot be trusted."""
    total, squares, max_abs = sums
    mean = total / size
    m2 = squares - total * mean
    if max_abs > limits.squarable and m2 > limits.cancelled * squares:  # false for NaN, and Inf on both sides
        return Moments(size, mean, m2, max_abs)
    return _in_float64(values, size)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _few(values: Tensor, size: int) -> Moments:
    numbers = values.reshape(-1).tolist()
    numbers += [0.0] * (size - len(numbers))
    mean = sum(numbers) / (len(numbers) or 1)
    m2 = sum([(number - mean) * (number - mean) for number in numbers])
    if not math.isfinite(m2):
        return _in_float64(values, size)
    return Moments(len(numbers), mean, m2, max(map(abs, numbers), default=0.0))


def _in_float64(values: Tensor, size: int) -> Moments:
    """The sure way, ten times slower: scaled and centred in float64."""
    parts = [_block_in_float64(piece) for piece in pieces(values, BLOCK // 4) if piece.numel()]
    return combine([*parts, Moments(size - values.numel(), 0.0, 0.0, 0.0)])


def _block_in_float64(piece: Tensor) -> Moments:
    size = piece.numel()
    lowest, highest = (extreme.item() for extreme in piece.aminmax())
    max_abs = max(-lowest, highest)
    if max_abs == 0.0 or not math.isfinite(max_abs):
        return Moments(size, 0.0 * max_abs, 0.0 * max_abs, max_abs)
    unit = math.ldexp(1.0, math.frexp(max_abs)[1] - 1)
    scaled = piece.double() / unit  # exact, as the unit is a power of two
    mean = scaled.mean().item()
    m2 = scaled.sub_(mean).square_().sum().item()
    return Moments(size, mean * unit, m2 * unit * unit, max_abs)


class _OnDevice:
    """The figures of gradients that share a device: computed there, and on their way."""

    def __init__(self, group: dict[int, Elements]) -> None:
        self._sizes: list[tuple[int, int, list[int]]] = []  # index, zeros that are not stored, size of each block
        figures: list[Tensor] = []
        for index, (values, size) in group.items():
            sizes = []
            for block in pieces(values, DEVICE_BLOCK):
                if block.numel():
                    sizes.append(block.numel())
                    figures += _launch(block)
            self._sizes.append((index, size - values.numel(), sizes))
        self._figures = Arriving(torch.cat(figures)) if figures else None

    def ready(self) -> bool:
        return self._figures is None or self._figures.is_here()

    def read(self) -> Iterator[tuple[int, Moments]]:
        figures = iter(self._figures.read() if self._figures else ())
        for index, zeros, sizes in self._sizes:
            parts = [Moments(zeros, 0.0, 0.0, 0.0)]
            for size in sizes:
                max_abs, unit, variance, mean = (next(figures) for _ in range(FIGURES))
                parts.append(Moments(size, mean * unit, variance * size * unit * unit, max_abs))
            yield index, combine(parts)


def _launch(block: Tensor) -> tuple[Tensor, ...]:
    """Largest magnitude, a unit near it, and variance and mean in that unit: one element each."""
    dtype = torch.promote_types(block.dtype, torch.float32)
    max_abs = torch.linalg.vector_norm(block, math.inf, dim=0, keepdim=True, dtype=dtype)
    # Its exponent bits alone are a power of two, which divides without rounding. Inf and NaN become Inf, and give NaN.
    bits, exponent = (torch.int64, 0x7FF << 52) if dtype == torch.float64 else (torch.int32, 0xFF << 23)
    unit = max_abs.view(bits).bitwise_and(exponent).view(dtype).clamp_min(torch.finfo(torch.float32).tiny)
    variance, mean = torch.var_mean(block / unit, dim=0, correction=0, keepdim=True)
    return max_abs, unit, variance, mean
