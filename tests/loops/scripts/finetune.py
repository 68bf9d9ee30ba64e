"""Transfer learning: the trunk is frozen at first, then thawed into a parameter group of its own."""
import copy

import torch
import torch.nn as nn
import torch.optim as optim
from sklearn.datasets import load_digits
from torch.optim import lr_scheduler

torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
datasets = {
    "train": torch.utils.data.TensorDataset(images[:1200], labels[:1200]),
    "val": torch.utils.data.TensorDataset(images[1200:], labels[1200:]),
}
dataloaders = {p: torch.utils.data.DataLoader(d, batch_size=60, shuffle=True) for p, d in datasets.items()}
dataset_sizes = {p: len(d) for p, d in datasets.items()}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        return self.fc(self.backbone(x))


def train_model(model, criterion, optimizer, scheduler, num_epochs=6):
    best_model_wts, best_acc = copy.deepcopy(model.state_dict()), 0.0
    history = {"train_loss": [], "train_acc": [], "val_loss": [], "val_acc": [], "step_loss": [], "lr": []}
    for epoch in range(num_epochs):
        print(f"Epoch {epoch}/{num_epochs - 1}")
        if epoch == 2:
            for param in model.backbone.parameters():
                param.requires_grad = True
            optimizer.add_param_group({"params": model.backbone.parameters(), "lr": 0.01})
        for phase in ["train", "val"]:
            model.train() if phase == "train" else model.eval()
            running_loss, running_corrects = 0.0, 0
            for inputs, targets in dataloaders[phase]:
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    _, preds = torch.max(outputs, 1)
                    loss = criterion(outputs, targets)
                    if phase == "train":
                        loss.backward()
                        optimizer.step()
                        history["step_loss"].append(loss.item())
                        history["lr"].append([g["lr"] for g in optimizer.param_groups])
                running_loss += loss.item() * inputs.size(0)
                running_corrects += torch.sum(preds == targets.data)
            if phase == "train" and epoch < 2:
                scheduler.step()
            epoch_loss = running_loss / dataset_sizes[phase]
            epoch_acc = running_corrects.double() / dataset_sizes[phase]
            history[f"{phase}_loss"].append(epoch_loss)
            history[f"{phase}_acc"].append(epoch_acc.item())
            print(f"{phase} Loss: {epoch_loss:.4f} Acc: {epoch_acc:.4f}")
            if phase == "val" and epoch_acc > best_acc:
                best_acc, best_model_wts = epoch_acc, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_model_wts)
    return model, history


model_ft = Net()
for param in model_ft.backbone.parameters():
    param.requires_grad = False
optimizer_ft = optim.SGD(model_ft.fc.parameters(), lr=0.1, momentum=0.9)
exp_lr_scheduler = lr_scheduler.StepLR(optimizer_ft, step_size=1, gamma=0.5)
model_ft, history = train_model(model_ft, nn.CrossEntropyLoss(), optimizer_ft, exp_lr_scheduler)
