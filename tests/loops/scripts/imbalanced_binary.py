"""Binary classification with logits, a positive class that counts more, and accuracy at a half."""
import torch
import torch.nn as nn
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, BATCH_SIZE, LEARNING_RATE = 6, 32, 1e-3
torch.manual_seed(21)

data = load_breast_cancer()
X_train, X_test, y_train, y_test = train_test_split(data.data, data.target, test_size=0.3, random_state=69)
mean, std = X_train.mean(0), X_train.std(0)
train_data = TensorDataset(torch.FloatTensor((X_train - mean) / std), torch.FloatTensor(y_train))
test_data = TensorDataset(torch.FloatTensor((X_test - mean) / std), torch.FloatTensor(y_test))
train_loader = DataLoader(dataset=train_data, batch_size=BATCH_SIZE, shuffle=True)
test_loader = DataLoader(dataset=test_data, batch_size=50)


class BinaryClassification(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer_1 = nn.Linear(30, 24)
        self.layer_out = nn.Linear(24, 1)
        self.dropout = nn.Dropout(p=0.1)
        self.batchnorm = nn.BatchNorm1d(24)

    def forward(self, inputs):
        x = self.batchnorm(torch.relu(self.layer_1(inputs)))
        return self.layer_out(self.dropout(x))


def binary_acc(y_pred, y_test):
    y_pred_tag = torch.round(torch.sigmoid(y_pred))
    return (y_pred_tag == y_test).sum().float() / y_test.shape[0]


model = BinaryClassification()
pos_weight = torch.tensor([(y_train == 0).sum() / (y_train == 1).sum()], dtype=torch.float32)
criterion = nn.BCEWithLogitsLoss(pos_weight=pos_weight)
optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

losses, val_losses, val_accuracies = [], [], []
for e in range(1, EPOCHS + 1):
    model.train()
    epoch_loss = epoch_acc = 0
    for X_batch, y_batch in train_loader:
        optimizer.zero_grad()
        y_pred = model(X_batch)
        loss = criterion(y_pred, y_batch.unsqueeze(1))
        acc = binary_acc(y_pred, y_batch.unsqueeze(1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        epoch_loss += loss.item()
        epoch_acc += acc.item()

    model.eval()
    total, right = 0.0, 0
    with torch.no_grad():
        for X_batch, y_batch in test_loader:
            y_pred = model(X_batch)
            total += criterion(y_pred, y_batch.unsqueeze(1)).item() * len(y_batch)
            right += ((y_pred > 0).squeeze(1) == y_batch.bool()).sum().item()
    val_losses.append(total / len(test_data))
    val_accuracies.append(right / len(test_data))
    print(f"Epoch {e + 0:03}: | Loss: {epoch_loss / len(train_loader):.5f} | Acc: {epoch_acc / len(train_loader):.3f}"
          f" | Val: {val_losses[-1]:.5f} {val_accuracies[-1]:.4f}")
