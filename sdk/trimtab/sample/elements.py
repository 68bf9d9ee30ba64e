"""The elements of a gradient, whatever it is: as one real, strided tensor, and cut into flat pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Elements(NamedTuple):
    """`values` holds what is stored, real and strided; `size` counts also the zeros that a sparse gradient omits."""

    values: Tensor
    size: int


def elements_of(gradient: Tensor) -> Elements:
    """The elements of any gradient; of a complex one the real and imaginary parts, of a DTensor the local shard.

    Free of copies, but for lazy conjugation, MKL-DNN layouts and sparse gradients that are not coalesced.
    """
    if type(gradient) is not Tensor and hasattr(gradient, "to_local"):
        gradient = gradient.to_local()
    values, size = gradient, gradient.numel()
    if gradient.layout is not torch.strided:
        values = _stored(gradient)
    if values.is_complex():
        values, size = torch.view_as_real(values.resolve_conj()), 2 * size
    return Elements(values, size)


def _stored(gradient: Tensor) -> Tensor:
    if gradient.layout is torch.sparse_coo:
        return gradient.coalesce().values()
    return gradient.to_dense() if gradient.is_mkldnn else gradient.values()


def pieces(values: Tensor, most: int) -> Iterator[Tensor]:
    """Cut into flat pieces of at most `most` elements, in any order, without a copy where memory is dense."""
    if not values.is_contiguous():
        values = values.permute(sorted(range(values.dim()), key=values.stride, reverse=True))
    size = values.numel()
    if values.is_contiguous():
        flat = values.view(-1)
        yield from flat.chunk(-(-size // most)) if size > most else (flat,)
    elif size <= most:
        yield values.reshape(-1)
    else:
        for half in values.chunk(2, dim=max(range(values.dim()), key=values.size)):
            yield from pieces(half, most)
