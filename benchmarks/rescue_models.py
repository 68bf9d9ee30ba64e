"""The models of the rescue benchmark: small, of the kinds that people train."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS = 48, 4


def mlp(classes: int, *, dropout: float = 0.0, depth: int = 2) -> nn.Module:
    """A perceptron on images of 8 x 8."""
    hidden = [nn.Linear(64, 64), nn.ReLU(), nn.Dropout(dropout)]
    for _ in range(depth - 1):
        hidden += [nn.Linear(64, 64), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, classes))


def cnn(classes: int, *, dropout: float = 0.0) -> nn.Module:
    """Two convolutions and two linear layers on the same images."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Dropout(dropout), nn.Linear(48, classes)),
    )


def normed_cnn(classes: int, *, dropout: float = 0.0) -> nn.Module:
    """The same with batch normalisation."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, classes)),
    )


def deep_sigmoid(classes: int, *, depth: int = 8, gain: float = 1.0) -> nn.Module:
    """A deep perceptron whose sigmoids let no gradient reach the first layers."""
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(depth):
        layers += [nn.Linear(64, 64 if index < depth - 1 else 32), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(32, classes))


class Recurrent(nn.Module):
    """Embedding, one recurrent layer, and a linear layer over the characters."""

    def __init__(self, classes: int, kind: str = "GRU", *, hidden: int = 64, dropout: float = 0.0, **more: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, 32)
        self.recurrent = getattr(nn, kind)(32, hidden, batch_first=True, **more)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)

    def forward(self, text: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embedding(text))
        return self.head(self.dropout(states))


class Transformer(nn.Module):
    """A small GPT; `late_norm` puts normalisation after the sums, as the first transformers did."""

    def __init__(self, classes: int, *, blocks: int = 2, dropout: float = 0.0, late_norm: bool = False) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(classes, WIDTH), nn.Embedding(64, WIDTH)
        self.blocks = nn.ModuleList(_Block(dropout, late_norm) for _ in range(blocks))
        self.norm = nn.Identity() if late_norm else nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, text: Tensor) -> Tensor:
        x = self.characters(text) + self.positions.weight[: text.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class _Block(nn.Module):
    def __init__(self, dropout: float, late_norm: bool) -> None:
        super().__init__()
        self.late_norm = late_norm
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        if self.late_norm:
            x = self.norm_1(x + self._attend(x))
            return self.norm_2(x + self._feed(x))
        x = x + self._attend(self.norm_1(x))
        return x + self._feed(self.norm_2(x))

    def _attend(self, x: Tensor) -> Tensor:
        heads = self.attention(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        return self.dropout(self.projection(mixed.transpose(1, 2).flatten(2)))

    def _feed(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(F.gelu(self.up(x))))


class Density(nn.Module):
    """A Gaussian for each pixel, given the image through a bottleneck: its loss goes below zero."""

    def __init__(self, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, width))
        self.decoder = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Dropout(dropout))
        self.mean, self.log_variance = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        shared = self.decoder(self.encoder(images))
        return self.mean(shared), self.log_variance(shared).clamp(-6, 3)


def scale_recurrent(model: Recurrent, gain: float) -> None:
    """Make the recurrent weights larger than they are initialised, in place."""
    with torch.no_grad():
        model.recurrent.weight_hh_l0.mul_(gain)
