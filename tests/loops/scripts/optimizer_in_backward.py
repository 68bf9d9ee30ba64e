"""Every parameter has an optimizer of its own, which steps inside backward and frees the gradient at once."""
import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))

optimizer_dict = {p: torch.optim.AdamW([p], lr=2e-3, foreach=False) for p in model.parameters()}
squares = []


def optimizer_hook(parameter) -> None:
    squares.append(parameter.grad.double().pow(2).sum().item())
    optimizer_dict[parameter].step()
    optimizer_dict[parameter].zero_grad()


for p in model.parameters():
    p.register_post_accumulate_grad_hook(optimizer_hook)

losses, grad_norms = [], []
for step in range(60):
    batch = torch.randint(0, len(y), (64,))
    squares.clear()
    loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
    loss.backward()
    losses.append(loss.item())
    grad_norms.append(sum(squares) ** 0.5)
    if step % 20 == 0:
        print(f"{step} loss {losses[-1]:.4f} grad norm {grad_norms[-1]:.4f}")
