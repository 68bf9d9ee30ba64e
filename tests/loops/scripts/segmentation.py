"""Every pixel gets a class: logits of (N, C, H, W), targets of (N, H, W), the border of the digit ignored."""
import torch
from sklearn.datasets import load_digits
from torch import nn

IGNORE = 255
torch.manual_seed(8)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
masks = torch.zeros(images.shape[0], 8, 8, dtype=torch.long)
masks[images[:, 0] > 0.6] = 1
masks[(images[:, 0] > 0.6) & (torch.tensor(digits.target) >= 5)[:, None, None]] = 2
masks[(images[:, 0] > 0.2) & (images[:, 0] <= 0.6)] = IGNORE


class UNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.mid = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Conv2d(9, classes, 1)

    def forward(self, x):
        return self.head(torch.cat([self.up(self.mid(self.down(x))), x], dim=1))


net = UNet(3)
criterion = nn.CrossEntropyLoss(ignore_index=IGNORE, weight=torch.tensor([1.0, 2.0, 2.0]))
optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-8)
train_set = torch.utils.data.TensorDataset(images[:640], masks[:640])
val_images, val_masks = images[640:900], masks[640:900]
loader = torch.utils.data.DataLoader(train_set, batch_size=32, shuffle=True, drop_last=True)


@torch.inference_mode()
def evaluate():
    net.eval()
    logits = net(val_images)
    valid = val_masks != IGNORE
    loss = criterion(logits, val_masks).item()
    accuracy = (logits.argmax(1) == val_masks)[valid].float().mean().item()
    net.train()
    return loss, accuracy


step_losses, val_losses, pixel_accuracies = [], [], []
for epoch in range(3):
    for true_images, true_masks in loader:
        loss = criterion(net(true_images), true_masks)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step_losses.append(loss.item())
    loss, accuracy = evaluate()
    val_losses.append(loss)
    pixel_accuracies.append(accuracy)
    print(f"epoch {epoch}: loss {loss:.4f} pixel accuracy {accuracy:.4f}")
