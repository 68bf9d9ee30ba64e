"""The data of the rescue benchmark: what comes with scikit-learn, and the text of Python's own help and library."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
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

    return _characters(topics.topics[name] for name in sorted(topics.topics))


@functools.cache
def source() -> Data:
    """The same of Python source: modules of the library of the Python that runs."""
    import argparse
    import ast
    import dataclasses
    import enum
    import subprocess
    import tarfile
    import typing
    import zipfile

    modules = (argparse, subprocess, typing, tarfile, zipfile, ast, enum, dataclasses, inspect)
    return _characters(inspect.getsource(module).encode("ascii", "replace").decode() for module in modules)


@functools.cache
def cancer() -> Data:
    """30 measures of cells, and whether the tumour is benign: 0 or 1."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    return _table(_standard(found.data), torch.tensor(found.target, dtype=torch.float32), 150)


@functools.cache
def diabetes() -> Data:
    """10 measures of patients, and how far the disease had gone a year later, standardised."""
    from sklearn.datasets import load_diabetes

    found = load_diabetes()
    return _table(_standard(found.data), _standard(found.target), 120)


@functools.cache
def photographs() -> Data:
    """Patches of 12 x 12 of two photographs in colour, with values from 0 to 1, and the same in grey."""
    from sklearn.datasets import load_sample_images

    size, stride = 12, 14
    images = [torch.tensor(image, dtype=torch.float32).permute(2, 0, 1) / 255 for image in load_sample_images().images]
    cut = [image.unfold(1, size, stride).unfold(2, size, stride).permute(1, 2, 0, 3, 4) for image in images]
    patches = torch.cat([each.reshape(-1, 3, size, size) for each in cut])
    return _table(patches, patches.mean(1, keepdim=True), 400)


DATA = {
    "digits": digits,
    "text": text,
    "source": source,
    "cancer": cancer,
    "diabetes": diabetes,
    "photographs": photographs,
}


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


def _characters(parts: Iterable[str]) -> Data:
    """Blocks of characters, every tenth held out, and each next character."""
    characters = "".join(parts)
    alphabet = {character: index for index, character in enumerate(sorted(set(characters)))}
    codes = torch.tensor([alphabet[character] for character in characters])
    blocks = codes[: len(codes) // BLOCK * BLOCK].view(-1, BLOCK)
    held_out = torch.arange(len(blocks)) % 10 == 9
    windows = _windows(blocks[held_out])
    every = len(windows) // WINDOWS_HELD_OUT
    windows = windows[::every][:WINDOWS_HELD_OUT]
    return Data(_Windows(blocks[~held_out]), windows[:, :-1], windows[:, 1:], len(alphabet))


def _table(inputs: Tensor, targets: Tensor, held_out: int) -> Data:
    """Split the same way for every seed; targets are numbers, not classes."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    inputs, targets = inputs[order], targets[order]
    return Data(TensorDataset(inputs[held_out:], targets[held_out:]), inputs[:held_out], targets[:held_out], 1)


def _standard(values: object) -> Tensor:
    """Mean 0 and standard deviation 1 in each column."""
    found = torch.tensor(values, dtype=torch.float32)
    return (found - found.mean(0)) / found.std(0)
