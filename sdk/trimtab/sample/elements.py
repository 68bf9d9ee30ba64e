"""The elements of a gradient, whatever it is: as one real, strided tensor, and cut into flat pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

# What is stored, real and strided, and the number of elements: with the zeros that a sparse gradient leaves out.
Elements: TypeAlias = tuple[Tensor, int]


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
    return values, size


def _stored(gradient: Tensor) -> Tensor:
    if gradient.layout is torch.sparse_coo:
        return gradient.coalesce().values()
    return gradient.to_dense() if gradient.is_mkldnn else gradient.values()


def pieces(values: Tensor, most: int) -> Iterable[Tensor]:
    """Cut into flat pieces of at most `most` elements, in any order, without a copy where memory is dense."""
    if not values.is_contiguous():
        values = values.permute(sorted(range(values.dim()), key=values.stride, reverse=True))
        if not values.is_contiguous():
            return _copies(values, most)
    flat, size = values.view(-1), values.numel()
    return flat.chunk(-(-size // most)) if size > most else (flat,)


def _copies(values: Tensor, most: int) -> Iterator[Tensor]:
    if values.numel() <= most:
        yield values.reshape(-1)
    else:
        for half in values.chunk(2, dim=max(range(values.dim()), key=values.size)):
            yield from _copies(half, most)
