"""The loss is imported by its bare name, long before anything runs."""
import numpy as np
import torch
from sklearn.datasets import load_wine
from torch import nn, no_grad
from torch.nn.functional import cross_entropy
from torch.optim import SGD

torch.manual_seed(0)
rng = np.random.default_rng(0)

data = load_wine()
order = rng.permutation(len(data.target))
x = torch.tensor((data.data - data.data.mean(0)) / data.data.std(0), dtype=torch.float32)[order]
y = torch.tensor(data.target)[order]
x_train, y_train, x_val, y_val = x[:130], y[:130], x[130:], y[130:]

net = nn.Sequential(nn.Linear(13, 24), nn.Tanh(), nn.Linear(24, 3))
opt = SGD(net.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4)

losses, val_losses, val_accs = [], [], []
for epoch in range(12):
    net.train()
    for idx in torch.randperm(len(x_train)).split(26):
        loss = cross_entropy(net(x_train[idx]), y_train[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())

    net.eval()
    with no_grad():
        logits = net(x_val)
        val_losses.append(cross_entropy(logits, y_val).item())
        val_accs.append((logits.argmax(1) == y_val).float().mean().item())
    print(f"epoch {epoch}: val loss {val_losses[-1]:.4f} acc {val_accs[-1]:.3f}")
