"""Half precision with a GradScaler that starts too high: the first steps overflow and are skipped, one later too."""
import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--optimizer", choices=["sgd", "adam", "adamw"], default="sgd")
parser.add_argument("--fused", action="store_true")
parser.add_argument("--clip", type=float, default=0.0)
parser.add_argument("--bad-batch", type=int, default=30, help="a batch whose loss overflows")
args = parser.parse_args()

torch.manual_seed(0)
digits = load_digits()
dataset = torch.utils.data.TensorDataset(
    torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
loader = torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True)

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
how = {"fused": True} if args.fused else {"foreach": True}
optimizer = kinds[args.optimizer](model.parameters(), lr=1e-2, **how)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 24, growth_interval=20, backoff_factor=2.0 ** -3)

losses, scales, norms, skipped, seen = [], [], [], [], 0
for epoch in range(2):
    for inputs, targets in loader:
        seen += 1
        if seen == args.bad_batch:
            inputs = inputs * 1e5
        with torch.autocast("cpu", dtype=torch.float16):
            loss = nn.functional.cross_entropy(model(inputs), targets)
        scaler.scale(loss).backward()
        if args.clip:
            scaler.unscale_(optimizer)
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), args.clip).item())
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
        scales.append(before)
        skipped.append(scaler.get_scale() < before)
    print(f"epoch {epoch}: loss {losses[-1]:.4f}, scale {scales[-1]:.3g}, skipped {sum(skipped)}")
