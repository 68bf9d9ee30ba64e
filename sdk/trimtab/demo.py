"""The training behind `trimtab demo`: scikit-learn's handwritten digits, a small convolutional network, one decorator.

This is how a training script of your own looks with Trimtab: nothing but the decorator is ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import trimtab


@trimtab.watch
def train(epochs: int = 15, learning_rate: float = 0.003, at_the_end: Callable[[], object] | None = None) -> None:
    torch.manual_seed(0)
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    data = TensorDataset(images, torch.tensor(digits))
    train_set, validation_set = random_split(data, [0.8, 0.2])
    train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
    validation_loader = DataLoader(validation_set, batch_size=256)

    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 4 * 4, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    steps = epochs * len(train_loader)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    criterion = nn.CrossEntropyLoss()

    for _ in range(epochs):
        model.train()
        for batch, labels in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(batch), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()

        model.eval()
        with torch.no_grad():
            for batch, labels in validation_loader:
                criterion(model(batch), labels)

    if at_the_end is not None:
        at_the_end()
