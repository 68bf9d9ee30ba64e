"""Optimizers that are not quite optimizers: a subclass above a subclass, Lookahead, one without super().__init__."""
import argparse

import torch
from sklearn.datasets import load_wine
from torch import nn


class CautiousAdam(torch.optim.Adam):
    """Calls its parent's step, whose class already carries hooks."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.mul_(0.9)
        return super().step(closure)


class Lookahead(torch.optim.Optimizer):
    def __init__(self, base_optimizer, alpha=0.5, k=5):
        super().__init__(base_optimizer.param_groups, dict(lookahead_alpha=alpha, lookahead_k=k))
        self.base_optimizer, self.alpha, self.k, self.count = base_optimizer, alpha, k, 0
        self.param_groups = base_optimizer.param_groups
        self.slow = [[p.detach().clone() for p in g["params"]] for g in self.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.base_optimizer.step(closure)
        self.count += 1
        if self.count % self.k == 0:
            for group, slow_group in zip(self.param_groups, self.slow):
                for p, slow in zip(group["params"], slow_group):
                    slow.add_(p - slow, alpha=self.alpha)
                    p.copy_(slow)
        return loss


class SignSGD(torch.optim.Optimizer):
    """Keeps its own lists and forgets the base class's constructor."""

    def __init__(self, params, lr):
        self.param_groups = [{"params": list(params), "lr": lr}]
        self.state, self.defaults = {}, {"lr": lr}

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign(), alpha=-group["lr"])

    def zero_grad(self, set_to_none=True):
        for p in self.param_groups[0]["params"]:
            p.grad = None


class Plain:
    """Only looks like an optimizer."""

    def __init__(self, params, lr):
        self.params, self.lr = list(params), lr

    @torch.no_grad()
    def step(self):
        for p in self.params:
            p -= self.lr * p.grad

    def zero_grad(self):
        for p in self.params:
            p.grad = None


parser = argparse.ArgumentParser()
parser.add_argument("kind", nargs="?", default="subclass", choices=["subclass", "lookahead", "forgetful", "plain"])
args = parser.parse_args()

torch.manual_seed(6)
wine = load_wine()
x = torch.tensor((wine.data - wine.data.mean(0)) / wine.data.std(0), dtype=torch.float32)
y = torch.tensor(wine.target)
model = nn.Sequential(nn.Linear(13, 8), nn.SiLU(), nn.Linear(8, 3))
torch.optim.Adam([torch.zeros(1, requires_grad=True)])
if args.kind == "subclass":
    optimizer = CautiousAdam(model.parameters(), lr=5e-3)
elif args.kind == "lookahead":
    optimizer = Lookahead(torch.optim.Adam(model.parameters(), lr=5e-3))
elif args.kind == "forgetful":
    optimizer = SignSGD(model.parameters(), lr=1e-3)
else:
    optimizer = Plain(model.parameters(), lr=0.1)

losses = []
for step in range(60):
    idx = torch.randperm(len(y))[:48]
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x[idx]), y[idx])
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(args.kind, losses[0], losses[-1])
