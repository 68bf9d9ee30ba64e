"""torch.compile of the whole train step: forward, loss, backward, clipping and update in one function."""
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

backend = sys.argv[1] if len(sys.argv) > 1 else "aot_eager"
torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@torch.compile(backend=backend)
def train_step(inputs, targets):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


losses = []
for step in range(36):
    batch = torch.randint(0, len(y), (64,))
    losses.append(train_step(x[batch], y[batch]).item())
print("first", losses[0], "last", losses[-1])
