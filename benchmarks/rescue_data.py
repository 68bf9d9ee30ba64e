"""The data of the rescue benchmark: scikit-learn's digits, and the text of Python's own help topics."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

HELD_OUT = 450  # digits of 1,797
WINDOW = 24  # characters that a model sees at once
BLOCK = 2_000  # characters; every tenth block is held out
WINDOWS_HELD_OUT = 128


@dataclass(frozen=True)
class Data:
    """Training samples, and all of what is held out as one batch."""

    train: Dataset[tuple[Tensor, Tensor]]
    inputs: Tensor
    targets: Tensor
    classes: int

    def loader(self, batch_size: int, *, shuffle: bool = True, samples: int | None = None) -> DataLoader[Tensor]:
        """As users make it; the order comes from torch's global generator."""
        train = self.train if samples is None else torch.utils.data.Subset(self.train, range(samples))
        return DataLoader(train, batch_size=batch_size, shuffle=shuffle, drop_last=True)


@functools.cache
def digits() -> Data:
    """Images of 8 x 8 with values from 0 to 1, split the same way for every seed."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(found.images, dtype=torch.float32)[order].unsqueeze(1) / 16
    labels = torch.tensor(found.target, dtype=torch.int64)[order]
    train = TensorDataset(images[HELD_OUT:], labels[HELD_OUT:])
    return Data(train, images[:HELD_OUT], labels[:HELD_OUT], 10)


@functools.cache
def text() -> Data:
    """Windows of characters, and the same windows one character on."""
    from pydoc_data import topics

    characters = "".join(topics.topics[name] for name in sorted(topics.topics))
    alphabet = {character: index for index, character in enumerate(sorted(set(characters)))}
    codes = torch.tensor([alphabet[character] for character in characters])
    blocks = codes[: len(codes) // BLOCK * BLOCK].view(-1, BLOCK)
    held_out = torch.arange(len(blocks)) % 10 == 9
    windows = _windows(blocks[held_out])
    every = len(windows) // WINDOWS_HELD_OUT
    windows = windows[::every][:WINDOWS_HELD_OUT]
    return Data(_Windows(blocks[~held_out]), windows[:, :-1], windows[:, 1:], len(alphabet))


DATA = {"digits": digits, "text": text}


class _Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows that do not overlap, in the order of the text."""

    def __init__(self, blocks: Tensor) -> None:
        self.windows = _windows(blocks)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self.windows[index]
        return window[:-1], window[1:]


def _windows(blocks: Tensor) -> Tensor:
    return blocks.unfold(1, WINDOW + 1, WINDOW + 1).flatten(0, 1)
