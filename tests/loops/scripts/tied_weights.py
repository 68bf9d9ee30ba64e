"""An autoencoder whose decoder uses the encoder's weights, and a module that occurs twice in the model."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

torch.manual_seed(31)
x = torch.tensor(load_digits().data, dtype=torch.float32) / 16


class TiedAutoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(64, 16)
        self.decoder = nn.Linear(16, 64)
        self.decoder.weight = nn.Parameter(torch.empty(64, 16))
        self.mix = nn.Linear(16, 16)
        self.again = self.mix
        self.register_parameter("code_bias", self.encoder.bias)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        code = torch.tanh(self.again(torch.tanh(self.mix(self.encoder(x)))) + self.code_bias)
        return F.linear(code, self.encoder.weight.t(), self.decoder.bias)


model = TiedAutoencoder()
del model.decoder.weight
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
losses, grad_norms = [], []
for epoch in range(4):
    for batch in torch.randperm(1500).split(100):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x[batch]), x[batch])
        loss.backward()
        grad_norms.append(sum(p.grad.norm() ** 2 for p in model.parameters() if p.grad is not None).sqrt().item())
        optimizer.step()
        losses.append(loss.item())
    print(epoch, f"{losses[-1]:.5f}")
