"""The models of the other set: what people train beside perceptrons, plain convolutions and recurrent networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def perceptron(inputs: int, *hidden: int, activation: type[nn.Module]) -> nn.Module:
    """From a row of a table to one number."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), activation()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1), nn.Flatten(0))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()),
            *(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.branch(x))


def residual(classes: int) -> nn.Module:
    """A residual network of two blocks on images of 8 x 8."""
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(_Residual(12), nn.MaxPool2d(2), _Residual(12), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        nn.Linear(48, classes),
    )


class VisionTransformer(nn.Module):
    """Patches of 2 x 2, a class token, two layers of torch's own encoder."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.position = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(patches), -1, -1), patches], 1) + self.position
        return self.head(self.encoder(tokens)[:, 0])


class Mixer(nn.Module):
    """Perceptrons over patches and over channels, in turn (Tolstikhin et al., arXiv 2105.01601)."""

    def __init__(self, classes: int, width: int = 24) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.blocks = nn.Sequential(_Mixing(width), _Mixing(width))
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(images).flatten(2).transpose(1, 2)).mean(1))


class _Mixing(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.over_patches = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.over_channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.over_patches(self.norm_1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.over_channels(self.norm_2(x))


class Rows(nn.Module):
    """An LSTM that reads an image row by row."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, 48, batch_first=True)
        self.head = nn.Linear(48, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.recurrent(images[:, 0])[0][:, -1])


class Colouring(nn.Module):
    """A small U-Net, from grey to colour."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.GELU())
        self.bottom = nn.Sequential(
            *(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.GELU()),
            *(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.GELU()),
        )
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.out = nn.Conv2d(2 * width, 3, 3, padding=1)

    def forward(self, grey: Tensor) -> Tensor:
        fine = self.down(grey)
        return self.out(torch.cat([fine, F.gelu(self.up(self.bottom(fine)))], 1))


def autoencoder() -> nn.Module:
    """Patches of photographs through 24 numbers."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(432, 128), nn.ReLU(), nn.Linear(128, 24), nn.ReLU()),
        *(nn.Linear(24, 128), nn.ReLU(), nn.Linear(128, 432), nn.Unflatten(1, (3, 12, 12))),
    )


class Dilated(nn.Module):
    """Causal convolutions over characters, each with twice the reach of the one before."""

    def __init__(self, classes: int, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=reach) for reach in (1, 2, 4))
        self.head = nn.Linear(width, classes)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text).transpose(1, 2)
        for convolution in self.convolutions:
            x = x + F.relu(convolution(F.pad(x, (2 * convolution.dilation[0], 0))))
        return self.head(x.transpose(1, 2))
