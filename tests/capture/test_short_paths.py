"""Most steps take short paths through the hooks. They say what the long ones say, which are taken on sampled steps."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from trimtab.capture import attribution
from trimtab.types import Epoch, Step

STEPS = 40
SAID = ("loss", "micro_steps", "samples", "learning_rate", "epoch", "batch", "batches", "steps", "step", "skipped")


class Loop:
    """What the loops below are made of: a model, data, and the same numbers every time."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.data = TensorDataset(torch.randn(22, 4), torch.randint(3, (22,)))
        self.loader = DataLoader(self.data, batch_size=4, shuffle=True)
        self.inputs, self.labels = self.data.tensors

    def loss(self, inputs=None, labels=None):
        inputs, labels = (self.inputs, self.labels) if inputs is None else (inputs, labels)
        return F.cross_entropy(self.model(inputs), labels)

    def step(self, loss):
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def epochs_with_validation(loop):
    for _ in range(6):
        for batch in loop.loader:
            loop.step(loop.loss(*batch))
        loop.model.eval()
        for batch in loop.loader:
            with torch.no_grad():
                loop.loss(*batch)
        loop.model.train()


def validation_with_grad(loop):
    for _ in range(STEPS):
        loop.step(loop.loss())
        loop.model.eval()
        loop.loss()
        loop.model.train()


def validation_in_the_middle(loop):
    for _ in range(6):
        for index, batch in enumerate(loop.loader):
            loop.step(loop.loss(*batch))
            if index == 2:
                with torch.no_grad():
                    loop.loss()


def passes_that_are_left(loop):
    for length in (2, 3, 6, 4, 1, 6, 5, 6):
        for index, batch in enumerate(loop.loader):
            loop.step(loop.loss(*batch))
            if index == length - 1:
                break


def accumulation(loop):
    for _ in range(STEPS):
        for batch in list(loop.loader)[:3]:
            (loop.loss(*batch) / 3).backward()
        loop.optimizer.step()
        loop.optimizer.zero_grad()


def gradients_cleared_in_place(loop):
    for index in range(STEPS):
        loop.loss().backward()
        if index % 2:
            loop.optimizer.step()
            loop.optimizer.zero_grad(set_to_none=False)


def now_and_then_nothing(loop):
    for index in range(STEPS):
        if index % 5 == 3:
            loop.optimizer.step()
        elif index % 5 == 4:
            loop.loss().backward()
            loop.optimizer.zero_grad()
        else:
            loop.step(loop.loss())


def several_losses(loop):
    for index in range(STEPS):
        loss = loop.loss()
        if index % 2:
            loss = loss + 0.1 * F.mse_loss(loop.model(loop.inputs), torch.zeros(22, 3))
        loop.step(loss)
        if index % 7 == 0:
            F.l1_loss(loop.model(loop.inputs), torch.zeros(22, 3))


def scaled(loop):
    scaler = torch.amp.GradScaler("cpu", growth_interval=7)
    for index in range(STEPS):
        scaler.scale(loop.loss() * (torch.inf if index % 9 == 8 else 1.0)).backward()
        scaler.step(loop.optimizer)
        scaler.update()
        loop.optimizer.zero_grad()


def checkpointed(loop):
    for _ in range(STEPS):
        loop.step(F.cross_entropy(checkpoint(loop.model, loop.inputs, use_reentrant=False), loop.labels))


def weights(loop):
    for index in range(STEPS):
        losses = F.cross_entropy(loop.model(loop.inputs), loop.labels, reduction="none")
        losses.backward(gradient=torch.full_like(losses, 1 / (1 + index % 3)))
        loop.optimizer.step()
        loop.optimizer.zero_grad()


def another_optimizer_in_the_middle(loop):
    for index in range(STEPS):
        if index == STEPS // 2:
            loop.optimizer = torch.optim.Adam(loop.model.parameters())
        loop.step(loop.loss())


LOOPS = [
    epochs_with_validation,
    validation_with_grad,
    validation_in_the_middle,
    passes_that_are_left,
    accumulation,
    gradients_cleared_in_place,
    now_and_then_nothing,
    several_losses,
    scaled,
    checkpointed,
    weights,
    another_optimizer_in_the_middle,
]


def said(seen):
    """Everything but times, gradients, and accuracies in training, which are sampled."""
    for event in seen.backend.events:
        if isinstance(event, Step):
            accuracy = event.accuracy if event.phase == "validation" else None
            yield event.phase, event.optimizer, accuracy, *(getattr(event, name) for name in SAID)
        elif isinstance(event, Epoch):
            train = dataclasses.replace(event.train, accuracy=None, accuracy_samples=None)
            yield event.epoch, event.step, train, event.validation


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_short_paths_say_what_the_long_ones_say(watching, monkeypatch, loop):
    monkeypatch.setattr(attribution, "WARM_UP_WALKS", 10_000)
    with watching(run="long", gradients_every=1) as long:
        loop(Loop())
    monkeypatch.setattr(attribution, "WARM_UP_WALKS", 2)
    with watching(run="short", gradients_every=1000) as short:
        loop(Loop())
    assert list(map(repr, said(short))) == list(map(repr, said(long)))
    assert len(short.steps()) >= STEPS // 2
