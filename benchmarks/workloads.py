"""The loops that are measured, written the way people write them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

CHARACTERS, POSITIONS, WIDTH, HEADS, BLOCKS = 65, 256, 384, 6, 6

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Workload:
    """A model, its optimizer, and where its batches come from. Two loops over it train the same weights."""

    title: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    criterion: Callable[[Tensor, Tensor], Tensor]
    batches: Callable[[], Batches]
    clips: bool = False

    def loop(self) -> Callable[[], Tensor]:
        """A function that makes one step and returns its loss. It has a pass over the data of its own."""
        batches, model, optimizer, criterion = self.batches(), self.model, self.optimizer, self.criterion
        clips = self.clips

        def step() -> Tensor:
            inputs, targets = next(batches)
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            if clips:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss

        return step


def mlp() -> Workload:
    """A two-layer perceptron on images of 28 x 28, from a DataLoader."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return Workload("perceptron", model, optimizer, nn.CrossEntropyLoss(), _loader(_images(20_000), 64))


def cnn() -> Workload:
    """A small convolutional network on the same images."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return Workload("CNN", model, optimizer, nn.CrossEntropyLoss(), _loader(_images(10_000), 32))


def gpt() -> Workload:
    """A GPT of 10.8 M parameters in 76 tensors, on slices of one long text, without a DataLoader."""
    model = _Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    return Workload("GPT", model, optimizer, _next_character, _slices(4, 128))


def tiny() -> Workload:
    """So little work that a microsecond shows: a linear layer, over tensors."""
    model = nn.Linear(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    inputs, targets = torch.randn(64, 16), torch.randint(4, (64,))

    def same() -> Batches:
        while True:
            yield inputs, targets

    return Workload("linear layer", model, optimizer, nn.CrossEntropyLoss(), same)


def tiny_loaded() -> Workload:
    """The same, from a DataLoader."""
    made = tiny()
    data = TensorDataset(torch.randn(64_000, 16), torch.randint(4, (64_000,)))
    return Workload(made.title, made.model, made.optimizer, made.criterion, _loader(data, 64))


@dataclass(frozen=True)
class Rivals:
    """Two small networks that take turns, as in a GAN: the loss of the second goes through the first."""

    first: nn.Module
    second: nn.Module
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]

    def loop(self) -> Callable[[], Tensor]:
        """A function that makes one step of each, and returns the second's loss."""
        first, second, inputs = self.first, self.second, torch.randn(64, 16)
        labels, others = torch.randint(4, (64,)), torch.randint(4, (64,))

        def steps() -> Tensor:
            self.optimizers[0].zero_grad()
            F.cross_entropy(first(inputs), labels).backward()
            self.optimizers[0].step()
            self.optimizers[1].zero_grad()
            loss = F.cross_entropy(first(second(inputs)), others)
            loss.backward()
            self.optimizers[1].step()
            return loss

        return steps


def rivals() -> Rivals:
    """Linear layers, which a microsecond shows in."""
    first, second = nn.Linear(16, 4), nn.Linear(16, 16)
    return Rivals(first, second, tuple(torch.optim.SGD(each.parameters(), lr=1e-3) for each in (first, second)))


WORKLOADS: dict[str, Callable[[], Workload]] = {"mlp": mlp, "cnn": cnn, "gpt": gpt}


def _images(count: int) -> TensorDataset:
    return TensorDataset(torch.randn(count, 1, 28, 28), torch.randint(10, (count,)))


def _loader(data: TensorDataset, batch_size: int) -> Callable[[], Batches]:
    """Every call gives a loader of its own, passed over again and again. It takes a batch with one index operation."""

    def batches() -> Batches:
        loader = DataLoader(data, sampler=BatchSampler(RandomSampler(data), batch_size, False), batch_size=None)
        while True:
            yield from loader

    return batches


def _slices(count: int, length: int) -> Callable[[], Batches]:
    text = torch.randint(CHARACTERS, (1_000_000,))

    def batches() -> Batches:
        while True:
            starts = torch.randint(len(text) - length - 1, (count,)).tolist()
            window = torch.stack([text[start : start + length + 1] for start in starts])
            yield window[:, :-1], window[:, 1:]

    return batches


def _next_character(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.attention(self.norm_1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class _Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(CHARACTERS, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.blocks = nn.Sequential(*(_Block() for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, text: Tensor) -> Tensor:
        x = self.characters(text) + self.positions(torch.arange(text.shape[1]))
        return F.linear(self.norm(self.blocks(x)), self.characters.weight)
