"""A learning rate that is far too high: the loss explodes, becomes Inf, then NaN, and the script goes on."""
import torch
from sklearn.datasets import load_diabetes
from torch import nn

torch.manual_seed(0)
diabetes = load_diabetes()
x = torch.tensor(diabetes.data, dtype=torch.float32) * 100
y = torch.tensor(diabetes.target, dtype=torch.float32)
model = nn.Sequential(nn.Linear(10, 16), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
losses = []
for step in range(20):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x).squeeze(1), y)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    print(step, loss.item())
