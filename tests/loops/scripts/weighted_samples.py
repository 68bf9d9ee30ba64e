"""Unreduced losses with a weight for each sample; gradients handed to backward; one graph walked twice."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_wine

torch.manual_seed(2)
wine = load_wine()
x = torch.tensor((wine.data - wine.data.mean(0)) / wine.data.std(0), dtype=torch.float32)
y = torch.tensor(wine.target)
sample_weights = torch.rand(len(y)) + 0.5

trunk = nn.Sequential(nn.Linear(13, 16), nn.ReLU())
classifier, regressor = nn.Linear(16, 3), nn.Linear(16, 1)
params = [*trunk.parameters(), *classifier.parameters(), *regressor.parameters()]
optimizer = torch.optim.Adamax(params, lr=1e-2)
per_sample = nn.CrossEntropyLoss(reduction="none")

losses = []
for step in range(120):
    idx = torch.randint(0, len(y), (32,))
    features = trunk(x[idx])
    optimizer.zero_grad()
    if step % 3 == 0:
        loss = (per_sample(classifier(features), y[idx]) * sample_weights[idx]).mean()
        loss.backward()
        losses.append(loss.item())
    elif step % 3 == 1:
        values = per_sample(classifier(features), y[idx])
        weights = sample_weights[idx] / sample_weights[idx].sum()
        values.backward(gradient=weights)
        losses.append((values.detach() * weights).sum().item())
    else:
        class_loss = F.cross_entropy(classifier(features), y[idx])
        class_loss.backward(retain_graph=True)
        alcohol_loss = F.mse_loss(regressor(features).squeeze(1), x[idx, 0])
        alcohol_loss.backward()
        losses.append(class_loss.item() + alcohol_loss.item())
    optimizer.step()
    if step % 40 == 0:
        print(f"{step:4d} {losses[-1]:.5f}")
