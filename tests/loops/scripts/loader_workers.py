"""A map-style dataset read by worker processes, forked or spawned."""
import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset


class DigitsDataset(Dataset):
    def __init__(self, train=True):
        digits = load_digits()
        part = slice(0, 1400) if train else slice(1400, None)
        self.images, self.targets, self.train = digits.images[part], digits.target[part], train

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = self.images[index] / 16
        if self.train and torch.rand(()) < 0.5:
            image = image + np.random.normal(0, 0.05, image.shape)
        return torch.as_tensor(image, dtype=torch.float32).flatten(), int(self.targets[index])


def seed_worker(worker_id):
    np.random.seed(torch.initial_seed() % 2 ** 32)


def run(context, workers):
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(5)
    kwargs = dict(num_workers=workers, multiprocessing_context=context, worker_init_fn=seed_worker, generator=g,
                  persistent_workers=True)
    train_loader = DataLoader(DigitsDataset(), batch_size=100, shuffle=True, **kwargs)
    val_loader = DataLoader(DigitsDataset(train=False), batch_size=100)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    criterion = nn.CrossEntropyLoss()
    history = {"loss": [], "train_loss": [], "val_loss": [], "val_acc": []}
    for epoch in range(3):
        model.train()
        running_loss, n = 0.0, 0
        for inputs, targets in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
            history["loss"].append(loss.item())
            running_loss += loss.item() * len(targets)
            n += len(targets)
        model.eval()
        val_loss, correct = 0.0, 0
        with torch.no_grad():
            for inputs, targets in val_loader:
                outputs = model(inputs)
                val_loss += criterion(outputs, targets).item() * len(targets)
                correct += (outputs.argmax(1) == targets).sum().item()
        history["train_loss"].append(running_loss / n)
        history["val_loss"].append(val_loss / len(val_loader.dataset))
        history["val_acc"].append(correct / len(val_loader.dataset))
        print(epoch, history["train_loss"][-1], history["val_loss"][-1], history["val_acc"][-1])
    return model, optimizer, history


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--context", default="fork")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    model, optimizer, history = run(args.context, args.workers)
