"""Losses that have no classes to be right about: triplet, siamese cosine, margin ranking, CTC."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser()
parser.add_argument("loss", nargs="?", default="triplet", choices=["triplet", "cosine", "ranking", "ctc", "contrastive"])
args = parser.parse_args()
torch.manual_seed(9)
digits = load_digits()
x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
by_class = [torch.nonzero(y == c).flatten() for c in range(10)]


def sample(n, same):
    first = torch.randint(0, len(y), (n,))
    label = y[first] if same else (y[first] + torch.randint(1, 10, (n,))) % 10
    second = torch.stack([by_class[c][torch.randint(0, len(by_class[c]), ())] for c in label])
    return x[first], x[second]


embed = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 12))
recogniser = nn.GRU(8, 24, batch_first=True)
head = nn.Linear(24, 11)
scorer = nn.Linear(12, 1)
params = [*embed.parameters(), *recogniser.parameters(), *head.parameters(), *scorer.parameters()]
optimizer = torch.optim.Adam(params, lr=2e-3)
triplet = nn.TripletMarginLoss(margin=1.0, p=2)
ctc = nn.CTCLoss(blank=10, zero_infinity=True)


def compute_loss():
    if args.loss == "triplet":
        (anchor, positive), (_, negative) = sample(32, True), sample(32, False)
        return triplet(embed(anchor), embed(positive), embed(negative))
    if args.loss == "cosine":
        (a, b), (c, d) = sample(16, True), sample(16, False)
        target = torch.cat([torch.ones(16), -torch.ones(16)])
        return F.cosine_embedding_loss(embed(torch.cat([a, c])), embed(torch.cat([b, d])), target, margin=0.2)
    if args.loss == "ranking":
        a, b = sample(32, False)
        return F.margin_ranking_loss(scorer(embed(a)), scorer(embed(b)), torch.randint(0, 2, (32, 1)) * 2.0 - 1, margin=0.1)
    if args.loss == "contrastive":
        a, b = sample(32, True)
        similarity = F.normalize(embed(a)) @ F.normalize(embed(b)).t() / 0.1
        return F.cross_entropy(similarity, torch.arange(32))
    idx = torch.randint(0, len(y), (16, 3))
    sequences = x[idx].view(16, 24, 8)
    log_probs = head(recogniser(sequences)[0]).log_softmax(2).transpose(0, 1)
    return ctc(log_probs, y[idx], torch.full((16,), 24), torch.full((16,), 3))


losses, grad_norms = [], []
for step in range(50):
    optimizer.zero_grad()
    loss = compute_loss()
    loss.backward()
    grads = [p.grad for p in params if p.grad is not None]
    grad_norms.append(torch.nn.utils.get_total_norm(grads).item())
    optimizer.step()
    losses.append(loss.item())
print(args.loss, losses[0], losses[-1])
