"""Encoder and decoder have an optimizer each and share one loss."""
import torch
from sklearn.datasets import load_diabetes
from torch import nn, optim

torch.manual_seed(3)
data = load_diabetes()
x = torch.tensor(data.data, dtype=torch.float32) * 20
y = torch.tensor(data.target, dtype=torch.float32).unsqueeze(1)
y = (y - y.mean()) / y.std()
train = torch.utils.data.TensorDataset(x[:360], y[:360])
valid = torch.utils.data.TensorDataset(x[360:], y[360:])


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 16), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


encoder = Encoder()
decoder = nn.Linear(16, 1)
encoder_optimizer = optim.Adam(encoder.parameters(), lr=1e-3)
decoder_optimizer = optim.SGD(decoder.parameters(), lr=1e-2, momentum=0.9)
criterion = nn.MSELoss()


def train_step(x, y):
    encoder_optimizer.zero_grad()
    decoder_optimizer.zero_grad()
    loss = criterion(decoder(encoder(x)), y)
    loss.backward()
    encoder_optimizer.step()
    decoder_optimizer.step()
    return loss.item()


def validate(loader):
    encoder.eval(), decoder.eval()
    total = 0.0
    with torch.inference_mode():
        for x, y in loader:
            total += criterion(decoder(encoder(x)), y).item() * len(x)
    encoder.train(), decoder.train()
    return total / len(loader.dataset)


train_loader = torch.utils.data.DataLoader(train, batch_size=40, shuffle=True)
valid_loader = torch.utils.data.DataLoader(valid, batch_size=41)
losses, val_losses = [], []
for epoch in range(10):
    for batch in train_loader:
        losses.append(train_step(*batch))
    val_losses.append(validate(valid_loader))
    print(f"{epoch + 1:3d} {val_losses[-1]:.4f}")
