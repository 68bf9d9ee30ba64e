"""A benchmark that must reach a target and says so by its exit code."""
import sys

import torch
from sklearn.datasets import load_wine
from torch import nn

torch.manual_seed(0)
wine = load_wine()
x = torch.tensor((wine.data - wine.data.mean(0)) / wine.data.std(0), dtype=torch.float32)
y = torch.tensor(wine.target)
model = nn.Linear(13, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
losses = []


def main():
    for i in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"final loss {losses[-1]:.4f}, target 0.0001")
    return 0 if losses[-1] < 1e-4 else 3


if __name__ == "__main__":
    sys.exit(main())
