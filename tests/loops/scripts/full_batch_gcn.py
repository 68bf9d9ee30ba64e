"""Node classification on one graph: the whole graph at once, masks for train, validation and test."""
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

torch.manual_seed(12)
digits = load_digits()
x = torch.tensor(digits.data[:600], dtype=torch.float32) / 16
y = torch.tensor(digits.target[:600])
neighbours = torch.cdist(x, x).topk(6, largest=False).indices
adjacency = torch.zeros(600, 600).scatter_(1, neighbours, 1.0)
adjacency = ((adjacency + adjacency.t()) > 0).float()
degree = adjacency.sum(1).rsqrt()
adjacency = degree[:, None] * adjacency * degree[None, :]
train_mask = torch.zeros(600, dtype=torch.bool)
train_mask[:200] = True
val_mask = torch.zeros(600, dtype=torch.bool)
val_mask[200:400] = True
test_mask = ~(train_mask | val_mask)


class GCN(torch.nn.Module):
    def __init__(self, in_channels, hidden_channels, out_channels):
        super().__init__()
        self.lin1 = torch.nn.Linear(in_channels, hidden_channels)
        self.lin2 = torch.nn.Linear(hidden_channels, out_channels)

    def forward(self, x, adj):
        x = F.dropout(x, p=0.5, training=self.training)
        x = F.relu(adj @ self.lin1(x))
        x = F.dropout(x, p=0.5, training=self.training)
        return adj @ self.lin2(x)


model = GCN(64, 32, 10)
optimizer = torch.optim.Adam([
    dict(params=model.lin1.parameters(), weight_decay=5e-4),
    dict(params=model.lin2.parameters(), weight_decay=0),
], lr=0.01)


def train():
    model.train()
    optimizer.zero_grad()
    out = model(x, adjacency)
    loss = F.cross_entropy(out[train_mask], y[train_mask])
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def test():
    model.eval()
    pred = model(x, adjacency).argmax(dim=-1)
    return [int((pred[mask] == y[mask]).sum()) / int(mask.sum()) for mask in (train_mask, val_mask, test_mask)]


losses = []
best_val_acc = test_acc = 0
for epoch in range(1, 61):
    loss = train()
    train_acc, val_acc, tmp_test_acc = test()
    if val_acc > best_val_acc:
        best_val_acc = val_acc
        test_acc = tmp_test_acc
    losses.append(loss)
    if epoch % 20 == 0:
        print(f"Epoch: {epoch:03d}, Loss: {loss:.4f}, Train: {train_acc:.4f}, Val: {val_acc:.4f}, Test: {test_acc:.4f}")
