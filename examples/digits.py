"""Trains a small convolutional network on scikit-learn's handwritten digits. It knows nothing of Trimtab.

To watch it, put two words before it:

    trimtab run examples/digits.py --epochs 15
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=0.003)
    options = parser.parse_args()

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
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    steps = options.epochs * len(train_loader)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps)
    criterion = nn.CrossEntropyLoss()

    for epoch in range(1, options.epochs + 1):
        model.train()
        for batch, labels in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(batch), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()

        model.eval()
        correct = 0
        with torch.no_grad():
            for batch, labels in validation_loader:
                logits = model(batch)
                criterion(logits, labels)
                correct += (logits.argmax(1) == labels).sum().item()
        print(f"epoch {epoch}: {correct / len(validation_set):.1%} of {len(validation_set)} validation digits right")


if __name__ == "__main__":
    main()
