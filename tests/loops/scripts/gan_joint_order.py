"""A GAN that does both backward passes first and both steps after."""
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

torch.manual_seed(7)
real_data = torch.tensor(load_digits().data, dtype=torch.float32) / 16

G = nn.Sequential(nn.Linear(8, 32), nn.LeakyReLU(0.2), nn.Linear(32, 64), nn.Sigmoid())
D = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
opt_G = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.99))
opt_D = torch.optim.Adam(D.parameters(), lr=4e-4, betas=(0.5, 0.99))


def set_requires_grad(net, flag):
    for p in net.parameters():
        p.requires_grad_(flag)


g_losses, d_losses, g_norms, d_norms = [], [], [], []
for step in range(150):
    real = real_data[torch.randint(0, len(real_data), (32,))]
    fake = G(torch.randn(32, 8))
    opt_G.zero_grad(set_to_none=True)
    opt_D.zero_grad(set_to_none=True)

    set_requires_grad(D, False)
    g_loss = F.softplus(-D(fake)).mean()
    g_loss.backward()
    set_requires_grad(D, True)
    d_loss = F.softplus(D(fake.detach())).mean() + F.softplus(-D(real)).mean()
    d_loss.backward()

    g_norms.append(torch.stack([p.grad.norm() for p in G.parameters()]).norm().item())
    d_norms.append(torch.stack([p.grad.norm() for p in D.parameters()]).norm().item())
    opt_G.step()
    opt_D.step()
    g_losses.append(g_loss.item())
    d_losses.append(d_loss.item())

print("G", sum(g_losses[-20:]) / 20, "D", sum(d_losses[-20:]) / 20)
