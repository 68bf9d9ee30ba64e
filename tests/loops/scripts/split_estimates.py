"""A tiny character model on random windows of text, with no loader: both splits are estimated before and between."""
import random

random.seed(7)  # before torch is there, as whoever sorts imports and seeds does not

import numpy as np
import torch
import torch.nn as nn
from torch.nn import functional as F
from pydoc_data import topics

torch.manual_seed(7)
context, width, every, estimates = 16, 32, 25, 4
text = topics.topics["assignment"] + topics.topics["try"]
letters = sorted(set(text))
codes = np.array([letters.index(c) for c in text], dtype=np.uint16)
cut = int(0.9 * len(codes))
np.save("train.npy", codes[:cut])
np.save("val.npy", codes[cut:])


def windows(split, count=8):
    ids = np.load(f"{split}.npy", mmap_mode="r")
    starts = [random.randrange(len(ids) - context - 1) for _ in range(count)]
    x = torch.stack([torch.from_numpy(ids[s : s + context].astype(np.int64)) for s in starts])
    y = torch.stack([torch.from_numpy(ids[s + 1 : s + 1 + context].astype(np.int64)) for s in starts])
    return x, y


class CharModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(len(letters), width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, len(letters))

    def forward(self, idx, targets=None):
        out, _ = self.rnn(self.embed(idx))
        logits = self.head(out)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


model = CharModel()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
train_losses, train_estimates, val_estimates = [], [], []


@torch.no_grad()
def estimate():
    out = {}
    model.eval()
    for split in ["train", "val"]:
        losses = torch.zeros(estimates)
        for k in range(estimates):
            _, loss = model(*windows(split))
            losses[k] = loss.item()
        out[split] = losses.mean().item()
    model.train()
    return out


for it in range(101):
    if it % every == 0:
        losses = estimate()
        print(f"step {it}: train {losses['train']:.4f}, val {losses['val']:.4f}")
        if it > 0:
            train_estimates.append(losses["train"])
            val_estimates.append(losses["val"])
    _, loss = model(*windows("train"))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    train_losses.append(loss.item())

draw = random.random()
