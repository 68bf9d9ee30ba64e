"""Training that goes on in eval mode after an evaluation is told."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab.types import Notice


def kinds(seen):
    return [notice.kind for notice in seen.backend.of(Notice)]


def net(*modules):
    return nn.Sequential(nn.Linear(4, 8), *modules, nn.ReLU(), nn.Linear(8, 3))


def train(model, inputs, labels, modes, steps=60):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for is_training in modes:
        model.train(is_training)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()


@pytest.mark.parametrize("modules", [[nn.BatchNorm1d(8)], [nn.Dropout(0.1)]], ids=["BatchNorm", "Dropout"])
@pytest.mark.parametrize("steps", [60, 200])
def test_train_that_is_forgotten_after_an_evaluation_is_told_once(watching, inputs, labels, modules, steps):
    with watching(gradients_every=1000) as seen:
        train(net(*modules), inputs, labels, [True, False], steps)
    assert kinds(seen) == ["eval_mode"]


@pytest.mark.parametrize(
    ("modes", "modules"),
    [
        ([False], [nn.BatchNorm1d(8)]),
        ([True, False], []),
        ([True, False], [nn.Dropout(0.0), nn.BatchNorm1d(8, track_running_stats=False)]),
        ([True] * 3, [nn.BatchNorm1d(8)]),
    ],
    ids=["chosen from the beginning", "the same in both", "nothing to do in them", "never"],
)
def test_eval_mode_that_is_meant_or_changes_nothing_is_not_told(watching, inputs, labels, modes, modules):
    with watching(gradients_every=1000) as seen:
        train(net(*modules), inputs, labels, modes)
    assert kinds(seen) == []


def test_eval_mode_between_steps_in_training_mode_is_not_told(watching, inputs, labels):
    """As where every other step is taken so."""
    with watching(gradients_every=1000) as seen:
        train(net(nn.BatchNorm1d(8)), inputs, labels, [True, False] * 20, steps=10)
    assert kinds(seen) == []
