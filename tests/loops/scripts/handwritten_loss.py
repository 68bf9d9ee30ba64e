"""No loss function of torch anywhere: negative log-likelihood by hand, a margin penalty beside it."""
import torch
from sklearn.datasets import load_digits


def softmax_nll(logits, targets):
    shifted = logits - logits.max(dim=1, keepdim=True).values
    log_probs = shifted - shifted.exp().sum(dim=1, keepdim=True).log()
    return -log_probs[torch.arange(len(targets)), targets].mean()


class MLP:
    """Not even a Module."""

    def __init__(self, sizes):
        self.weights = [torch.randn(a, b) * (2 / a) ** 0.5 for a, b in zip(sizes, sizes[1:])]
        self.biases = [torch.zeros(b) for b in sizes[1:]]
        for p in self.parameters():
            p.requires_grad_()

    def parameters(self):
        return self.weights + self.biases

    def __call__(self, x):
        for w, b in zip(self.weights[:-1], self.biases[:-1]):
            x = (x @ w + b).clamp(min=0)
        return x @ self.weights[-1] + self.biases[-1]


def main():
    torch.manual_seed(1337)
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)

    model = MLP([64, 48, 10])
    optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3)
    losses, grad_norms = [], []
    for step in range(200):
        batch = torch.randint(0, 1500, (64,))
        logits = model(x[batch])
        loss = softmax_nll(logits, y[batch]) + 1e-3 * sum((w ** 2).sum() for w in model.weights)
        optimizer.zero_grad()
        loss.backward()
        grad_norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())
        optimizer.step()
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step:4d} loss {loss.item():.4f}")

    with torch.no_grad():
        accuracy = (model(x[1500:]).argmax(1) == y[1500:]).float().mean()
    print("test accuracy", accuracy.item())
    return losses, grad_norms, model, optimizer


if __name__ == "__main__":
    losses, grad_norms, model, optimizer = main()
