"""Runs into a bad batch after a while and dies."""
import torch
from sklearn.datasets import load_diabetes
from torch import nn

torch.manual_seed(0)
diabetes = load_diabetes()
x = torch.tensor(diabetes.data, dtype=torch.float32) * 20
y = torch.tensor(diabetes.target, dtype=torch.float32) / 100
model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
batches = [(x[i:i + 34], y[i:i + 34]) for i in range(0, 442, 34)]
batches[9] = (x[:34, :9], y[:34])

losses = []
for epoch in range(2):
    for inputs, targets in batches:
        loss = nn.functional.smooth_l1_loss(model(inputs).squeeze(1), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(len(losses), f"{loss.item():.5f}")
