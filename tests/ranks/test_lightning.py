"""Lightning starts the other ranks itself, while the run of the first one goes on."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from trimtab import logs

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

PROGRAM = """
import warnings
import lightning, torch, trimtab
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
torch.set_num_threads(1)

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def training_step(self, batch, index):
        inputs, labels = batch
        return nn.functional.cross_entropy(self.layer(inputs), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

@trimtab.watch(run="a", backends=["jsonl"], act="process")
def train():
    inputs = torch.randn(64, 8)
    loader = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=8)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    lightning.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", **quiet).fit(Module(), loader)

train()
"""


def test_ranks_that_lightning_starts_go_on_under_the_name_of_the_run(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py"]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        errors = first.communicate(timeout=240)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)  # also what it has started
    assert first.returncode == 0, errors
    found = [logs.read(tmp_path / "runs" / "a" / f"rank-{rank}.jsonl") for rank in (0, 1)]
    assert [sum(step.steps for step in log.steps) for log in found] == [8, 8]
