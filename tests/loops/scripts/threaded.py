"""Training runs in a thread, as under a desktop or web interface; the main thread waits for its messages."""
import queue
import threading

import torch
from sklearn.datasets import load_wine
from torch import nn


class TrainerThread(threading.Thread):
    def __init__(self, messages):
        super().__init__(name="trainer")
        self.messages = messages
        torch.manual_seed(4)
        data = load_wine()
        x = torch.tensor((data.data - data.data.mean(0)) / data.data.std(0), dtype=torch.float32)
        self.dataset = torch.utils.data.TensorDataset(x, torch.tensor(data.target))
        self.model = nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 3))
        self.optimizer = torch.optim.NAdam(self.model.parameters(), lr=5e-3)
        self.losses = []

    def run(self):
        criterion = nn.CrossEntropyLoss()
        loader = torch.utils.data.DataLoader(self.dataset, batch_size=32, shuffle=True, drop_last=True)
        for epoch in range(15):
            for x, y in loader:
                self.optimizer.zero_grad()
                loss = criterion(self.model(x), y)
                loss.backward()
                self.optimizer.step()
                self.losses.append(loss.item())
            self.messages.put(("epoch", epoch, sum(self.losses[-len(loader):]) / len(loader)))
        self.messages.put(("done", None, None))


messages = queue.Queue()
trainer = TrainerThread(messages)
trainer.start()
losses, epoch_losses = trainer.losses, []
while True:
    kind, epoch, value = messages.get()
    if kind == "done":
        break
    epoch_losses.append(value)
    print(kind, epoch, f"{value:.5f}")
trainer.join()
