import itertools

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import TrainerControl

from trimtab.actuators.halting import PATIENCE_BACKWARDS, Halting
from trimtab.errors import HaltTraining


@pytest.fixture
def said():
    return {}


def halting(on_halt, said, *, steps=lambda: 0, prepares=lambda: False):
    return Halting(on_halt, said.__setitem__, lambda call: None, steps, lambda: prepares)


def test_a_loop_that_asks_is_told_to_stop(said):
    halt = halting("ask", said)
    assert not halt.asked()
    halt.request("loss_diverged")
    assert halt.asked()
    assert not said


def test_a_halt_that_nobody_hears_is_advice_and_says_so(said):
    halt = halting("ask", said)
    halt.request("loss_diverged")
    assert "nobody asks" in said["halt is advice"]


def test_unwinding_raises_at_the_next_backward_where_nobody_asks(said):
    halt = halting("unwind", said)
    halt.request("loss_diverged")
    with pytest.raises(HaltTraining, match="loss_diverged"):
        halt.before_backward()


def test_unwinding_waits_for_a_loop_that_asks(said):
    halt = halting("unwind", said)
    halt.asked()
    halt.request("loss_diverged")
    for _ in range(PATIENCE_BACKWARDS):
        halt.before_backward()
    with pytest.raises(HaltTraining):
        halt.before_backward()


def test_next_training_may_ask_before_its_first_step(said):
    is_prepared = []
    halt = halting("ask", said, prepares=lambda: bool(is_prepared))
    halt.request("loss_diverged")
    assert halt.asked()
    assert halt.asked()
    is_prepared.append(True)
    assert not halt.asked()
    assert not halt.heeded


def test_loop_that_asks_at_each_step_and_goes_on_costs_no_search(said):
    steps, searches = itertools.count(), []
    halt = halting("ask", said, steps=lambda: next(steps), prepares=lambda: searches.append(1))
    halt.request("loss_diverged")
    assert [halt.asked() for _ in range(5)] == 5 * [True]
    assert searches == []


def test_unwinding_that_was_caught_unwinds_again_but_not_the_next_training(said):
    is_prepared = []
    halt = halting("unwind", said, prepares=lambda: bool(is_prepared))
    halt.request("loss_diverged")
    for _ in range(2):
        with pytest.raises(HaltTraining):
            halt.before_backward()
    is_prepared.append(True)
    halt.before_backward()
    is_prepared.clear()
    halt.before_backward()
    assert not halt.heeded


class Module(lightning.LightningModule):
    """Four batches an epoch. Calls `at_batch` with the number of each."""

    def __init__(self, at_batch):
        super().__init__()
        self.layer, self.at_batch = nn.Linear(2, 1), at_batch

    def train_dataloader(self):
        return DataLoader(torch.ones(4, 2))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, index):
        self.at_batch(index)
        return self.layer(batch).mean()


def fit(at_batch):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(Module(at_batch))
    return trainer


class Model(nn.Module):
    """Calls `at_batch` with the number of each."""

    def __init__(self, at_batch):
        super().__init__()
        self.layer, self.at_batch, self.batches = nn.Linear(2, 1), at_batch, itertools.count()

    def forward(self, x, labels=None):
        self.at_batch(next(self.batches))
        return {"loss": self.layer(x).mean()}


def train(at_batch, place):
    arguments = TrainingArguments(
        place, max_steps=6, per_device_train_batch_size=1, report_to=[], disable_tqdm=True, use_cpu=True,
        save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(Model(at_batch), arguments, train_dataset=[{"x": torch.ones(2), "labels": 1.0}] * 6)
    trainer.train()
    return trainer


def at_second(halt):
    """Request a halt in the second batch."""
    return lambda number: halt.request("loss_diverged") if number == 1 else None


@pytest.mark.filterwarnings("ignore")  # which are Lightning's own
def test_lightning_is_stopped_by_its_own_flag(said):
    halt = halting("ask", said)
    assert fit(at_second(halt)).global_step == 2
    assert halt.heeded
    assert not said


@pytest.mark.usefixtures("capsys")
def test_transformers_is_stopped_by_its_own_flag(said, tmp_path):
    halt = halting("unwind", said)
    assert train(at_second(halt), tmp_path).state.global_step == 2
    assert halt.heeded


def test_control_that_nobody_is_known_to_hold_is_told(said):
    control = TrainerControl()
    halting("ask", said).request("loss_diverged")
    assert control.should_training_stop


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("capsys")
@pytest.mark.parametrize("framework", ["lightning", "transformers"])
def test_trainer_that_has_ended_hears_nothing(said, tmp_path, framework):
    trainer = fit(lambda number: None) if framework == "lightning" else train(lambda number: None, tmp_path)
    halt = halting("ask", said)
    assert not halt.is_heard()
    halt.request("loss_diverged")
    assert "nobody asks" in said["halt is advice"]
    assert not halt.heeded
    assert not getattr(trainer, "should_stop", False)


def test_halting_is_no_exception_that_a_loop_would_swallow():
    assert not issubclass(HaltTraining, Exception)
