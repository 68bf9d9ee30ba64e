"""A training that goes well unless a test spoils it."""

import torch
from torch import nn
from torch.nn import functional as F


class Training:
    """A small classifier on separable data: it learns, and any trouble is of the test's making."""

    def __init__(self, lr=0.05, optimizer=torch.optim.Adam):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        self.optimizer = optimizer(self.model.parameters(), lr=lr)
        self.inputs = torch.randn(64, 8)
        self.labels = self.inputs[:, :3].argmax(1)

    def step(self, spoil=1.0):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.inputs * spoil), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def steps(self, count):
        for _ in range(count):
            self.step()

    @property
    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
