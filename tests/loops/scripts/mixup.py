"""Mixup as soft targets in one half of training, label smoothing in the other; validated on plain labels."""
import random

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

random.seed(5)
np.random.seed(5)
torch.manual_seed(5)
digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32) / 16
y = torch.tensor(digits.target)
model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
smoothing = nn.CrossEntropyLoss(label_smoothing=0.1)


def mixup(inputs, targets, alpha=0.4):
    lam = np.random.beta(alpha, alpha)
    perm = torch.randperm(len(inputs))
    one_hot = F.one_hot(targets, 10).float()
    return lam * inputs + (1 - lam) * inputs[perm], lam * one_hot + (1 - lam) * one_hot[perm]


losses, val_losses, val_accs = [], [], []
for epoch in range(6):
    model.train()
    indices = list(range(1400))
    random.shuffle(indices)
    for start in range(0, 1400, 70):
        batch = indices[start:start + 70]
        inputs, targets = x[batch], y[batch]
        if epoch < 3:
            inputs, targets = mixup(inputs, targets)
            loss = F.cross_entropy(model(inputs), targets)
        else:
            loss = smoothing(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        outputs = model(x[1400:])
        val_losses.append(F.cross_entropy(outputs, y[1400:]).item())
        val_accs.append((outputs.argmax(-1) == y[1400:]).float().mean().item())
    print("epoch", epoch, "val", val_losses[-1], val_accs[-1])
