"""An iterable dataset without length, read for ever; training counts steps, not epochs."""
from itertools import islice

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, IterableDataset


class Stream(IterableDataset):
    def __init__(self, seed):
        digits = load_digits()
        self.x = torch.tensor(digits.data, dtype=torch.float32) / 16
        self.y = torch.tensor(digits.target)
        self.seed = seed

    def __iter__(self):
        g = torch.Generator().manual_seed(self.seed)
        while True:
            i = torch.randint(0, len(self.y), (), generator=g)
            yield self.x[i], self.y[i]


def infinite(loader):
    while True:
        yield from loader


torch.manual_seed(0)
stream = infinite(DataLoader(Stream(3), batch_size=32))
model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
optimizer = torch.optim.RAdam(model.parameters(), lr=5e-3)
loss_fn = nn.CrossEntropyLoss()
losses = []
for step, (inputs, targets) in enumerate(islice(stream, 80), 1):
    loss = loss_fn(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    if step % 20 == 0:
        print(f"step {step:>4}: {sum(losses[-20:]) / 20:.4f}")
