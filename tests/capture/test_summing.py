"""An epoch tells a sum over samples for each of them, and a mean as it is: the graph says which of them the loss is."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from trimtab.capture.summing import LOOKS, Summing

pytestmark = pytest.mark.usefixtures("warmth")

SAMPLES, BATCH, PIXELS = 22, 4, 12  # more pixels than samples in a batch, of which the last is smaller


def squares(output, target, reduction="sum"):
    return F.mse_loss(output, target, reduction=reduction)


def classes(output, target, **more):
    return F.cross_entropy(output[:, :3], target[:, 0].long() % 3, **more)


class Scaled(torch.autograd.Function):
    """An operation of the user's own."""

    @staticmethod
    def forward(ctx, loss):
        return loss / BATCH

    @staticmethod
    def backward(ctx, gradient):
        return gradient / BATCH


class Mean(Scaled):
    """Likewise, under the name that one of torch's has."""


SUMS = {
    "averaged once more": lambda y, t: squares(y, t).mean(0) + y.sum(),
    "a penalty": lambda y, t: squares(y, t) + y.square().sum(),
    "a term that outweighs it": lambda y, t: squares(y, t) - 0.999 * (y - t).square().sum().detach(),
    "weighed": lambda y, t: 0.5 * squares(y, t) + 2 * F.l1_loss(y, t, reduction="sum"),
    "in parts": lambda y, t: squares(y, t) / 2 + torch.add(y.sum(), squares(y, t), alpha=0.5),
    "stacked": lambda y, t: torch.stack([squares(y, t), y.sum()]).sum(),
    "two calls": lambda y, t: squares(y[:, :5], t[:, :5]) + squares(y[:, 5:], t[:, 5:]),
    "element by element": lambda y, t: squares(y, t, "none").sum(),
    "means of rows": lambda y, t: squares(y, t, "none").mean(-1).sum(),
    "with a mean of another function": lambda y, t: squares(y, t) + F.l1_loss(y, t),
    "in half precision": lambda y, t: squares(y, t).double() + y.sum(),
    "with a mean that is no part of it": lambda y, t: squares(y, t) + 0 * y.sum() * squares(y, t, "mean").item(),
}
MEANS = {
    "by the batch": lambda y, t: squares(y, t) / len(y),
    "by the batch, with a penalty": lambda y, t: squares(y, t) / len(y) + y.square().sum(1).mean(),
    "multiplied": lambda y, t: squares(y, t) * (1 / len(y)),
    "by elements": lambda y, t: squares(y, t).div(y.numel()) + y.mean(),
    "by a tensor": lambda y, t: squares(y, t) / (t > 0).sum(),
    "sums of rows": lambda y, t: squares(y, t, "none").sum(1).mean(),
    "means of columns": lambda y, t: squares(y, t, "none").mean(0).sum(),
    "the mean": lambda y, t: squares(y, t, "mean") + y.mean(),
    "with a sum of another function": lambda y, t: classes(y, t) + squares(y, t) / len(y),
    "with a sum that nobody divides": lambda y, t: classes(y, t) + squares(y, t),
    "a sum and a mean": lambda y, t: squares(y, t) + squares(y, t, "mean"),
    "boxes": lambda y, t: classes(y, t) + F.smooth_l1_loss(y[:, 3:5], t[:, 3:5], reduction="sum") / len(y),
    "by a power": lambda y, t: squares(y, t).sqrt(),
    "by an operation of its own": lambda y, t: Scaled.apply(squares(y, t)),
    "by an operation of its own that is called as one of torch": lambda y, t: Mean.apply(squares(y, t)),
}


@pytest.fixture
def train(watching):
    """Train by a loss of an output and its target. Returns what an epoch tells, and what was trained on, by batch."""

    def train(loss, scaler=None):
        torch.manual_seed(0)
        model = nn.Linear(6, PIXELS)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        data = TensorDataset(torch.randn(SAMPLES, 6), torch.randn(SAMPLES, PIXELS))
        said = []
        with watching() as seen:
            for _ in range(3):
                said.append([])
                for inputs, target in DataLoader(data, BATCH):
                    optimizer.zero_grad()
                    objective = loss(model(inputs), target)
                    said[-1].append((objective.item(), len(inputs)))
                    (objective if scaler is None else scaler.scale(objective)).backward()
                    optimizer.step() if scaler is None else scaler.step(optimizer)
                    if scaler is not None:
                        scaler.update()
        return [epoch.train.loss for epoch in seen.epochs], said

    return train


def per_sample(said):
    return [pytest.approx(sum(loss for loss, _ in epoch) / SAMPLES) for epoch in said]


def weighted(said):
    return [pytest.approx(sum(loss * samples for loss, samples in epoch) / SAMPLES) for epoch in said]


@pytest.mark.parametrize("loss", SUMS.values(), ids=SUMS)
def test_sum_over_samples_is_told_for_each_of_them(train, loss):
    told, said = train(loss)
    assert told == per_sample(said)


@pytest.mark.parametrize("loss", MEANS.values(), ids=MEANS)
def test_loss_that_was_divided_is_told_as_it_is(train, loss):
    told, said = train(loss)
    assert told == weighted(said)


@pytest.mark.parametrize(("loss", "expected"), [(SUMS["a penalty"], per_sample), (MEANS["by the batch"], weighted)])
def test_scale_of_a_scaler_is_no_part_of_it(train, loss, expected):
    told, said = train(loss, torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert told == expected(said)


def test_loss_by_the_mean_after_sums_is_not_divided(train):
    steps = iter(range(100))
    told, said = train(lambda y, t: squares(y, t, "sum" if next(steps) < 6 else "mean") + y.mean())
    assert told[1:] == weighted(said)[1:]


def test_sums_of_which_one_is_divided_are_all_of_one_reading(train):
    """As where the first image has one box, and others have many."""
    boxes = iter([1, 3, 4, 2] * 20)
    told, said = train(lambda y, t: squares(y, t) / next(boxes) + y.mean())
    assert told == weighted(said)


def test_loss_in_a_checkpoint_is_computed_again_by_backward_alone(train):
    calls = []

    def objective(y, t):
        calls.append(torch._C._current_graph_task_id())
        return squares(y, t) / (t > 0).sum() + y.mean()

    told, said = train(lambda y, t: checkpoint(objective, y, t, use_reentrant=False))
    assert told == weighted(said)
    assert [call >= 0 for call in calls] == [False, True] * (len(calls) // 2)


def test_graph_is_held_at_the_first_backwards_alone(model, inputs):
    asked = Summing()
    for _ in range(LOOKS):
        loss = F.mse_loss(model(inputs), torch.zeros(6, 3), reduction="sum")
        asked.called(loss, 6, is_mean=False)
        assert asked._called[False][0] is loss.grad_fn
        asked.backward((loss + 1).grad_fn)
        assert not asked._called
    asked.called(loss, 6, is_mean=False)
    assert asked._called[False][0] is None
    assert asked.is_sum
