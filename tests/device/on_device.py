"""A loop whose tensors are on the device that the variable `DEVICE` names, else on a GPU where there is one."""

import os

import torch
import torch.nn.functional as F
from torch import nn

DEVICE = os.environ.get("DEVICE") or ("cuda" if torch.cuda.is_available() else None)


class Split(nn.Module):
    """A model of which the second half is on another device than the first."""

    def __init__(self, *devices):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 8), nn.Tanh()).to(devices[0])
        self.second = nn.Linear(8, 3).to(devices[1])
        self.between = devices[1]

    def forward(self, inputs):
        return self.second(self.first(inputs).to(self.between))


class Training:
    """A small classifier that learns, and a validation of it. `spoil` multiplies the loss of one step."""

    def __init__(self, device, optimizer=torch.optim.AdamW, **options):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 3))
        self.model.to(device)
        self.optimizer = optimizer(self.model.parameters(), **{"lr": 0.01, **options})
        self.inputs = torch.randn(6, 4).to(device)
        self.labels = torch.tensor([0, 1, 2, 2, 1, 0]).to(device)
        self.ignored = torch.full((6,), -100).to(device)
        self.scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)

    def loss(self, labels=None, **options):
        return F.cross_entropy(self.model(self.inputs), self.labels if labels is None else labels, **options)

    def step(self, spoil=1.0, *, parts=1, clip=None):
        for _ in range(parts):
            loss = self.loss()
            if (spoil, parts) != (1.0, 1):
                loss = loss * spoil / parts
            loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach() * parts

    def scaled_step(self, spoil=1.0):
        loss = self.loss() * spoil
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss.detach()

    def steps(self, count, **options):
        return [self.step(**options) for _ in range(count)]

    def validate(self):
        self.model.eval()
        with torch.no_grad():
            loss = self.loss()
        self.model.train()
        return loss

    @property
    def state(self):
        """Copies of all that training has changed, on the CPU."""
        found = {name: value.cpu().clone() for name, value in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            found |= {f"{index}.{name}": torch.as_tensor(value).cpu().clone() for name, value in state.items()}
        return found


def equal(one, other):
    """Whether two states are the same, bit for bit."""
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
