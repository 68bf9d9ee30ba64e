"""Learning rates that move: one cycle for each batch, a plateau for each epoch, a rate kept in a tensor, or none at all."""
import argparse

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.optim import lr_scheduler as sched
from torch.utils.data import DataLoader, TensorDataset, random_split

parser = argparse.ArgumentParser()
parser.add_argument("schedule", nargs="?", default="onecycle",
                    choices=["onecycle", "plateau", "tensor", "warm-restarts", "sequential", "none"])
args = parser.parse_args()

torch.manual_seed(10)
diabetes = load_diabetes()
x = torch.tensor(diabetes.data, dtype=torch.float32) * 20
y = torch.tensor(diabetes.target, dtype=torch.float32).sub(152).div(77).unsqueeze(1)
train_set, val_set = random_split(TensorDataset(x, y), [360, 82])
train_loader = DataLoader(train_set, batch_size=36, shuffle=True)
val_loader = DataLoader(val_set, batch_size=len(val_set))
model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1))
epochs, per_epoch = 6, len(train_loader)

per_batch = None
if args.schedule == "tensor":
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.01))
    per_batch = sched.ExponentialLR(optimizer, gamma=0.98)
elif args.schedule == "none":
    from transformers import Adafactor

    optimizer = Adafactor(model.parameters(), lr=None, relative_step=True, scale_parameter=True, warmup_init=False)
else:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
if args.schedule == "onecycle":
    per_batch = sched.OneCycleLR(optimizer, max_lr=0.05, epochs=epochs, steps_per_epoch=per_epoch)
elif args.schedule == "warm-restarts":
    per_batch = sched.CosineAnnealingWarmRestarts(optimizer, T_0=15, T_mult=2)
elif args.schedule == "sequential":
    per_batch = sched.SequentialLR(optimizer, [
        sched.LinearLR(optimizer, start_factor=0.1, total_iters=10),
        sched.CosineAnnealingLR(optimizer, T_max=50)], milestones=[10])
plateau = sched.ReduceLROnPlateau(optimizer, factor=0.3, patience=0, threshold=0.05) if args.schedule == "plateau" else None

criterion = nn.L1Loss()
losses, lrs, train_losses, val_losses = [], [], [], []
for epoch in range(epochs):
    epoch_losses = []
    for xb, yb in train_loader:
        loss = criterion(model(xb), yb)
        loss.backward()
        lr = optimizer.param_groups[0]["lr"]
        lrs.append(None if lr is None else float(lr))
        optimizer.step()
        optimizer.zero_grad()
        if per_batch is not None:
            per_batch.step()
        epoch_losses.append(loss.item())
    losses += epoch_losses
    train_losses.append(sum(epoch_losses) / len(epoch_losses))
    with torch.no_grad():
        val_losses.append(sum(criterion(model(xb), yb).item() for xb, yb in val_loader) / len(val_loader))
    if plateau is not None:
        plateau.step(val_losses[-1])
    print(f"epoch {epoch} train {train_losses[-1]:.4f} val {val_losses[-1]:.4f} lr {lrs[-1]}")
