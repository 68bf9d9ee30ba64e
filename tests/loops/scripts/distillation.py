"""A teacher first, then a student that learns from its soft answers; two runs of training in one script."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[:1400], y[:1400]), batch_size=70, shuffle=True)
teacher = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
student = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def accuracy(model):
    model.eval()
    with torch.no_grad():
        right = (model(x[1400:]).argmax(1) == y[1400:]).sum().item()
    return right / len(y[1400:])


def train_teacher(epochs):
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    losses = []
    for _ in range(epochs):
        teacher.train()
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(teacher(inputs), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def distill(epochs, T=2.0, soft_weight=0.5):
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
    kld = nn.KLDivLoss(reduction="batchmean")
    losses = []
    teacher.eval()
    for _ in range(epochs):
        student.train()
        for inputs, labels in loader:
            with torch.no_grad():
                teacher_logits = teacher(inputs)
            student_logits = student(inputs)
            soft = kld(F.log_softmax(student_logits / T, dim=-1), F.softmax(teacher_logits / T, dim=-1)) * T * T
            loss = soft_weight * soft + (1 - soft_weight) * F.cross_entropy(student_logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


teacher_losses = train_teacher(3)
print("teacher", accuracy(teacher))
student_losses = distill(3)
print("student", accuracy(student))
