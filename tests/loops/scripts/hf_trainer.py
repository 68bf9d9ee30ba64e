"""The Transformers Trainer on a tiny BERT with random weights: three topics told apart by their bytes."""
import numpy as np
import torch
from pydoc_data import topics
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments, set_seed

set_seed(42)
torch.use_deterministic_algorithms(False)


class TopicDataset(torch.utils.data.Dataset):
    def __init__(self, part, length=24):
        self.samples = []
        for label, name in enumerate(["compound", "typesseq", "strings"]):
            raw = topics.topics[name].encode("ascii", "ignore")
            chunks = [list(raw[i:i + length]) for i in range(0, 64 * length, length)]
            self.samples += [(c, label) for i, c in enumerate(chunks) if (i % 4 == 0) == (part == "test")]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        chunk, label = self.samples[index]
        return {"input_ids": torch.tensor(chunk), "attention_mask": torch.ones(len(chunk), dtype=torch.long),
                "labels": torch.tensor(label)}


def compute_metrics(eval_pred):
    logits, labels = eval_pred
    return {"accuracy": float((np.argmax(logits, axis=-1) == labels).mean())}


class History(TrainerCallback):
    def __init__(self):
        self.train_loss, self.grad_norm, self.learning_rate, self.eval_loss, self.eval_accuracy = [], [], [], [], []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.learning_rate.append(kwargs["optimizer"].param_groups[0]["lr"])

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.train_loss.append(float(logs["loss"]))
            self.grad_norm.append(float(logs["grad_norm"]))
        if "eval_loss" in logs:
            self.eval_loss.append(logs["eval_loss"])
            self.eval_accuracy.append(logs["eval_accuracy"])


config = BertConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                    max_position_embeddings=32, num_labels=3)
model = BertForSequenceClassification(config)
args = TrainingArguments(
    output_dir="out",
    num_train_epochs=3,
    per_device_train_batch_size=8,
    per_device_eval_batch_size=16,
    gradient_accumulation_steps=2,
    learning_rate=3e-3,
    warmup_steps=4,
    eval_strategy="epoch",
    logging_strategy="steps",
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
    disable_tqdm=True,
)
history = History()
trainer = Trainer(model=model, args=args, train_dataset=TopicDataset("train"), eval_dataset=TopicDataset("test"),
                  compute_metrics=compute_metrics, callbacks=[history])
trainer.pop_callback(__import__("transformers").PrinterCallback)
trainer.train()
train_loss, grad_norm, learning_rate = history.train_loss, history.grad_norm, history.learning_rate
eval_loss, eval_accuracy = history.eval_loss, history.eval_accuracy
for epoch, (loss, accuracy) in enumerate(zip(eval_loss, eval_accuracy)):
    print(f"epoch {epoch}: eval loss {loss:.4f} accuracy {accuracy:.4f}")
