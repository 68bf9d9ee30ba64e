"""Accelerate with gradient accumulation, clipping and a scheduler."""
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def training_function(config):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=config["accumulation"])
    set_seed(config["seed"])
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    train_dataloader = DataLoader(TensorDataset(x[:1440], y[:1440]), shuffle=True, batch_size=40)
    eval_dataloader = DataLoader(TensorDataset(x[1440:], y[1440:]), batch_size=119)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.GELU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    lr_scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.1, total_iters=30)
    model, optimizer, train_dataloader, eval_dataloader, lr_scheduler = accelerator.prepare(
        model, optimizer, train_dataloader, eval_dataloader, lr_scheduler)
    loss_function = torch.nn.CrossEntropyLoss()

    record = {"loss": [], "lr": [], "norm": [], "eval_loss": [], "eval_accuracy": []}
    for epoch in range(config["num_epochs"]):
        model.train()
        window = []
        for inputs, targets in train_dataloader:
            with accelerator.accumulate(model):
                loss = loss_function(model(inputs), targets)
                window.append(loss.item())
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    record["norm"].append(accelerator.clip_grad_norm_(model.parameters(), 1.0).item())
                    record["lr"].append(optimizer.param_groups[0]["lr"])
                    record["loss"].append(sum(window) / config["accumulation"])
                    window = []
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()

        model.eval()
        total, correct = 0.0, 0
        for inputs, targets in eval_dataloader:
            with torch.no_grad():
                outputs = model(inputs)
            predictions, references = accelerator.gather_for_metrics((outputs.argmax(dim=-1), targets))
            correct += (predictions == references).sum().item()
            total += loss_function(outputs, targets).item() * len(targets)
        record["eval_loss"].append(total / len(eval_dataloader.dataset))
        record["eval_accuracy"].append(correct / len(eval_dataloader.dataset))
        accelerator.print(f"epoch {epoch}:", record["eval_loss"][-1], record["eval_accuracy"][-1])
    return accelerator.unwrap_model(model), optimizer, record


if __name__ == "__main__":
    model, optimizer, record = training_function({"lr": 1e-2, "num_epochs": 3, "seed": 42, "accumulation": 4})
