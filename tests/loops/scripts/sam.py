"""Sharpness-aware minimisation: a class of one's own around a base optimizer, by two steps or by a closure."""
import sys

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn


class SAM(torch.optim.Optimizer):
    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        defaults = dict(rho=rho, **kwargs)
        super().__init__(params, defaults)
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        scale = self.param_groups[0]["rho"] / (self._grad_norm() + 1e-12)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                self.state[p]["old_p"] = p.data.clone()
                p.add_(p.grad * scale)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        closure = torch.enable_grad()(closure)
        self.first_step(zero_grad=True)
        closure()
        self.second_step()

    def _grad_norm(self):
        return torch.norm(torch.stack([p.grad.norm(p=2) for g in self.param_groups for p in g["params"]]), p=2)


variant = sys.argv[1] if len(sys.argv) > 1 else "two-steps"
torch.manual_seed(0)
data = load_breast_cancer()
x = torch.tensor((data.data - data.data.mean(0)) / data.data.std(0), dtype=torch.float32)
y = torch.tensor(data.target)
model = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))
criterion = nn.CrossEntropyLoss()
optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.05, momentum=0.9)

losses, perturbed_losses, val_losses = [], [], []
for epoch in range(6):
    for start in range(0, 448, 64):
        inputs, targets = x[start:start + 64], y[start:start + 64]
        if variant == "closure":

            def closure():
                loss = criterion(model(inputs), targets)
                perturbed_losses.append(loss.item())
                loss.backward()
                return loss

            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step(closure)
            optimizer.zero_grad()
        else:
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.first_step(zero_grad=True)
            perturbed = criterion(model(inputs), targets)
            perturbed.backward()
            perturbed_losses.append(perturbed.item())
            optimizer.second_step(zero_grad=True)
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        val_losses.append(criterion(model(x[448:]), y[448:]).item())
    model.train()
    print(f"epoch {epoch} loss {losses[-1]:.4f} val {val_losses[-1]:.4f}")
