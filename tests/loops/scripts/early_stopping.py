"""Early stopping with a copy of the best weights, checkpoints on the way, an EMA copy and SWA at the end."""
import copy
import pickle

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, TensorDataset


class EarlyStopping:
    def __init__(self, patience=2, delta=0.0):
        self.patience, self.delta, self.counter, self.best, self.early_stop = patience, delta, 0, None, False

    def __call__(self, val_loss, model, path):
        if self.best is None or val_loss < self.best - self.delta:
            self.best, self.counter = val_loss, 0
            torch.save(model.state_dict(), path)
        else:
            self.counter += 1
            self.early_stop = self.counter >= self.patience


def main():
    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    train_loader = DataLoader(TensorDataset(x[:1300], y[:1300]), batch_size=65, shuffle=True)
    valid_loader = DataLoader(TensorDataset(x[1300:], y[1300:]), batch_size=71)
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-3)
    scheduler = SWALR(optimizer, swa_lr=0.05, anneal_epochs=3)
    ema_model = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    swa_model = AveragedModel(model)
    stopper = EarlyStopping()
    best_weights = None
    record = {"loss": [], "train_loss": [], "valid_loss": [], "valid_acc": [], "lr": []}

    for epoch in range(12):
        model.train()
        train_losses = []
        for inputs, targets in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            ema_model.update_parameters(model)
            train_losses.append(loss.item())
            record["lr"].append(optimizer.param_groups[0]["lr"])
        model.eval()
        valid_loss, correct = 0.0, 0
        with torch.no_grad():
            for inputs, targets in valid_loader:
                outputs = model(inputs)
                valid_loss += criterion(outputs, targets).item() * inputs.size(0)
                correct += (outputs.argmax(1) == targets).sum().item()
        record["loss"] += train_losses
        record["train_loss"].append(sum(train_losses) / len(train_losses))
        record["valid_loss"].append(valid_loss / len(valid_loader.dataset))
        record["valid_acc"].append(correct / len(valid_loader.dataset))
        swa_model.update_parameters(model)
        scheduler.step()
        stopper(record["valid_loss"][-1], model, "checkpoint.pt")
        if stopper.counter == 0:
            best_weights = copy.deepcopy(model.state_dict())
        torch.save({"model": model, "optimizer": optimizer, "scheduler": scheduler.state_dict()}, "last.pt")
        print(f"[{epoch:>2}] train {record['train_loss'][-1]:.5f} valid {record['valid_loss'][-1]:.5f}")
        if stopper.early_stop:
            print("Early stopping")
            break

    model.load_state_dict(best_weights)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    update_bn(train_loader, swa_model)
    return model, twin, ema_model, swa_model, optimizer, record


if __name__ == "__main__":
    model, twin, ema_model, swa_model, optimizer, record = main()
    print(list(model.state_dict()))
