"""Losses that jump, and come down by themselves before anybody could have helped: 64 steps are judged together."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trimtab.types import Adjustment

TOGETHER = 64  # steps


def drifting(seed, steps=750, lasts=150):
    """Online regression of a target that is another one every 150 steps."""
    drawn = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer, targets = torch.optim.SGD(model.parameters(), lr=0.05), torch.randn(steps // lasts, 10, generator=drawn)
    for step in range(steps):
        inputs = torch.randn(16, 10, generator=drawn)
        optimizer.zero_grad()
        F.mse_loss(model(inputs)[:, 0], torch.tanh(inputs @ targets[step // lasts])).backward()
        optimizer.step()


def rare(seed, steps=750):
    """One label in two hundred is of the other class, which most batches have none of."""
    drawn = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    nn.init.constant_(model[2].bias, -5.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        inputs = torch.randn(32, 10, generator=drawn)
        labels = (inputs[:, 0] + inputs[:, 1] > 3.6).float()
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(inputs)[:, 0], labels).backward()
        optimizer.step()


def poisoned(at, wrongly=1000.0, steps=400):
    """Regression in which the inputs of one batch are so many times too large. The error that is left."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def error(inputs, scale=1.0):
        targets = inputs[:, 0].exp() / 2 + torch.sin(3 * inputs[:, 1]) + inputs[:, 2] * inputs[:, 3]
        return F.l1_loss(model(scale * inputs)[:, 0], targets.clamp(max=5.0))

    for step in range(steps):
        loss = error(torch.randn(32, 8), wrongly if step == at else 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return error(torch.randn(2000, 8)).item()


@pytest.mark.parametrize("at", [3 * TOGETHER - steps for steps in (3, 4)])
def test_loss_that_rises_again_by_what_one_batch_did_to_the_optimizer_is_answered(watching, at):
    unharmed, unwatched = poisoned(None), poisoned(at, 300.0)
    with watching(act="process", gradients_every=TOGETHER) as seen:
        left = poisoned(at, 300.0)
    answers = [(a.outcome, a.episode) for a in seen.backend.of(Adjustment) if a.rule == "loss_spike"]
    assert answers == [("refused", 1), ("applied", 1)]
    assert left - unharmed < (unwatched - unharmed) / 2


def test_batch_that_the_optimizer_remembers_for_thousands_of_steps_is_answered_however_low_the_loss_is(watching):
    at = 3 * TOGETHER - 4
    with watching(act="process", gradients_every=TOGETHER) as seen:
        left = poisoned(at)
    answers = [(a.outcome, a.step) for a in seen.backend.of(Adjustment) if a.rule == "loss_spike"]
    assert answers == [("applied", 3 * TOGETHER + 1)]
    assert left < poisoned(None) + 0.1


@pytest.mark.parametrize("train", [drifting, rare])
def test_loss_that_has_come_down_again_is_told_and_not_answered(watching, train):
    with watching(act="process", gradients_every=TOGETHER) as seen:
        for seed in range(4):
            train(seed)
    answers = [a for a in seen.backend.of(Adjustment) if a.rule == "loss_spike"]
    assert len(answers) >= 4
    assert {(a.outcome, a.reason) for a in answers} == {("refused", "by now the loss has come down again by itself")}
