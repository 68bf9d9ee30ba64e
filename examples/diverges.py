"""Trains on scikit-learn's handwritten digits until, after 6 of 16 epochs, its schedule multiplies the rate by 100.

Without Trimtab it ends no better than guessing. With it, the run is rolled back and its rate lowered:

    python examples/diverges.py
    trimtab run --act process examples/diverges.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

EPOCHS = 16


def main() -> None:
    torch.manual_seed(0)
    pixels, digits = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(digits))
    train_set, validation_set = random_split(data, [0.8, 0.2])
    train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
    validation_loader = DataLoader(validation_set, batch_size=512)

    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0 if epoch < 6 else 100.0)  # meant: 0.1
    criterion = nn.CrossEntropyLoss()

    for epoch in range(1, EPOCHS + 1):
        model.train()
        for batch, labels in train_loader:
            optimizer.zero_grad()
            criterion(model(batch), labels).backward()
            optimizer.step()
        scheduler.step()

        model.eval()
        with torch.no_grad():
            for batch, labels in validation_loader:
                logits = model(batch)
                loss = criterion(logits, labels)
                right = (logits.argmax(1) == labels).float().mean()
        print(f"epoch {epoch:2}: validation loss {loss:.3g}, {right:.1%} right")


if __name__ == "__main__":
    main()
