"""First a model in float32 under bfloat16 autocast, then the same one wholly in bfloat16."""
import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
criterion = nn.CrossEntropyLoss()


def fit(model, steps, autocast, lr):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    losses, norms = [], []
    for step in range(steps):
        batch = torch.randint(0, 1500, (64,))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            inputs = x[batch] if autocast else x[batch].bfloat16()
            loss = criterion(model(inputs), y[batch])
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.cat([p.grad.flatten().double() for p in model.parameters()]).norm().item())
        optimizer.step()
        losses.append(loss.item())
    return optimizer, losses, norms


autocast_optimizer, autocast_losses, autocast_norms = fit(model, 80, True, 1e-3)
print("autocast", autocast_losses[-1])
model = model.bfloat16()
bf16_optimizer, bf16_losses, bf16_norms = fit(model, 80, False, 4e-3)
print("bf16", bf16_losses[-1])
