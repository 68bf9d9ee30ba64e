"""Parameters that get gradients and are in no optimizer are told."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab.types import Notice


def told(seen):
    return [notice.text for notice in seen.backend.of(Notice) if notice.kind == "unowned"]


def train(model, inputs, labels, *optimizers, steps=60):
    for _ in range(steps):
        model.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        for optimizer in optimizers:
            optimizer.step()


@pytest.fixture
def deep():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def test_parameters_that_no_optimizer_has_are_told_once(watching, deep, inputs, labels):
    with watching() as seen:
        train(deep, inputs, labels, torch.optim.SGD(deep[4].parameters(), lr=0.01), steps=200)
    (text,) = told(seen)
    assert text.startswith("4 of 6 parameters get gradients and are in no optimizer, so that they are not trained: ")
    assert "not trained: 0.weight, 0.bias, 2.weight and 1 more. If" in text


def test_frozen_parameters_are_meant(watching, deep, inputs, labels):
    deep[0].requires_grad_(False)
    with watching() as seen:
        train(deep, inputs, labels, torch.optim.SGD([*deep[2].parameters(), *deep[4].parameters()], lr=0.01))
    assert told(seen) == []


@pytest.mark.parametrize("stepping", [1, 2])
def test_parameters_of_another_optimizer_are_not_told_though_it_has_not_stepped(
    watching, deep, inputs, labels, stepping
):
    optimizers = [torch.optim.SGD(layers.parameters(), lr=0.01) for layers in (deep[2:], deep[:2])]
    with watching() as seen:
        train(deep, inputs, labels, *optimizers[:stepping])
    assert told(seen) == []


def test_master_weights_are_copies_of_what_gets_the_gradients(watching, deep, inputs, labels):
    copies = [nn.Parameter(p.detach().clone()) for p in deep.parameters()]
    optimizer = torch.optim.SGD(copies, lr=0.01)
    with watching() as seen:
        for _ in range(60):
            deep.zero_grad()
            F.cross_entropy(deep(inputs), labels).backward()
            for copy, own in zip(copies, deep.parameters(), strict=True):
                copy.grad = own.grad.clone()
            optimizer.step()
            with torch.no_grad():
                for copy, own in zip(copies, deep.parameters(), strict=True):
                    own.copy_(copy)
    assert told(seen) == []
