"""torch.compile of the model; the loss and the step stay in plain Python."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--backend", default="aot_eager")
parser.add_argument("--steps", type=int, default=40)
args = parser.parse_args()

torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return x + torch.nn.functional.gelu(self.linear(self.norm(x)))


model = nn.Sequential(nn.Linear(64, 32), Residual(32), Residual(32), nn.Linear(32, 10))
compiled = torch.compile(model, backend=args.backend)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
criterion = nn.CrossEntropyLoss()

losses, norms, val_losses, val_accs = [], [], [], []
for step in range(args.steps):
    batch = torch.randint(0, 1400, (64,))
    optimizer.zero_grad()
    loss = criterion(compiled(x[batch]), y[batch])
    loss.backward()
    norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
    optimizer.step()
    losses.append(loss.item())
    if (step + 1) % 20 == 0:
        compiled.eval()
        with torch.no_grad():
            logits = compiled(x[1400:1464])
            val_losses.append(criterion(logits, y[1400:1464]).item())
            val_accs.append((logits.argmax(1) == y[1400:1464]).float().mean().item())
        compiled.train()
        print(f"step {step + 1} loss {losses[-1]:.4f} val {val_losses[-1]:.4f} acc {val_accs[-1]:.3f}")
