"""Skip-gram with negative sampling: sparse embeddings under SparseAdam, the projection under Adam."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from pydoc_data import topics

torch.manual_seed(17)
words = topics.topics["function"].split()[:900]
vocabulary = {w: i for i, w in enumerate(dict.fromkeys(words))}
ids = torch.tensor([vocabulary[w] for w in words])


class SkipGram(nn.Module):
    def __init__(self, size, dim):
        super().__init__()
        self.input = nn.Embedding(size, dim, sparse=True)
        self.output = nn.Embedding(size, dim, sparse=True)
        self.projection = nn.Linear(dim, dim, bias=False)

    def forward(self, center, positive, negative):
        v = self.projection(self.input(center))
        positive_score = (v * self.output(positive)).sum(-1)
        negative_score = torch.bmm(self.output(negative), v.unsqueeze(2)).squeeze(2)
        return -(F.logsigmoid(positive_score) + F.logsigmoid(-negative_score).sum(1)).mean()


model = SkipGram(len(vocabulary), 16)
sparse_optimizer = torch.optim.SparseAdam([*model.input.parameters(), *model.output.parameters()], lr=1e-2)
dense_optimizer = torch.optim.Adam(model.projection.parameters(), lr=1e-3)
losses, sparse_norms, dense_norms = [], [], []
for step in range(80):
    center = torch.randint(1, len(ids) - 1, (48,))
    positive = ids[center + torch.randint(0, 2, (48,)) * 2 - 1]
    negative = torch.randint(0, len(vocabulary), (48, 4))
    loss = model(ids[center], positive, negative)
    sparse_optimizer.zero_grad()
    dense_optimizer.zero_grad()
    loss.backward()
    sparse_norms.append(sum(e.weight.grad.coalesce().values().pow(2).sum() for e in (model.input, model.output)).sqrt().item())
    dense_norms.append(model.projection.weight.grad.norm().item())
    sparse_optimizer.step()
    dense_optimizer.step()
    losses.append(loss.item())
    if step % 20 == 0:
        print(f"{step} {loss.item():.4f}")
