"""Losses with a value for each element, of which training makes its own figure."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.usefixtures("warmth")

MASK = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])


def _focal(each):
    return ((1 - torch.exp(-each)) ** 2 * each).mean()


class View(torch.autograd.Function):
    """An operation of the user's own, under the name that one of torch's has."""

    @staticmethod
    def forward(ctx, each):
        return each * MASK

    @staticmethod
    def backward(ctx, gradient):
        return gradient * MASK


WEIGHED = {
    "a mask": lambda each: (each * MASK).sum() / MASK.sum(),
    "a mask of ones": lambda each: (each * torch.ones(6)).mean(),  # which may be another one in validation
    "a mask on the left": lambda each: (MASK * each).sum(),
    "a weight of samples": lambda each: (each / torch.arange(1.0, 7.0)).mean(),
    "in place": lambda each: each.mul_(MASK).mean(),
    "a choice": lambda each: each[MASK > 0].mean(),
    "the hardest": lambda each: each.topk(3).values.mean(),
    "where": lambda each: torch.where(MASK > 0, each, 0.0).sum(),
    "filled": lambda each: each.masked_fill(MASK == 0, 0.0).mean(),
    "a product": lambda each: each @ MASK,
    "focal": _focal,
    "an operation": lambda each: View.apply(each).mean(),
    "by groups": lambda each: (each.view(2, 3).mean(1) * torch.tensor([1.0, 2.0])).sum(),
    "with a penalty": lambda each: (each * MASK).sum() + each.mean() * 0.1,
}
EVEN = {
    "the mean": lambda each: each.mean(),
    "the sum": lambda each: each.sum() / 6,
    "scaled": lambda each: (each * 2.0 / 3).sum(),
    "by a tensor": lambda each: (each * torch.tensor(2.0)).mean(),
    "in groups": lambda each: each.view(2, 3).sum(1).mean(),
    "with a penalty": lambda each: each.mean() + torch.tensor([1.0, 2.0], requires_grad=True).mul(MASK[:2]).sum(),
    "two of them": lambda each: (each + each.flip(0).detach()).mean(),
    "halved afterwards": lambda each: each.mean() * MASK.sum(),
}


def _train_and_validate(model, inputs, labels, reduce):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        for _ in range(3):
            optimizer.zero_grad()
            reduce(F.cross_entropy(model(inputs), labels, reduction="none")).backward()
            optimizer.step()
        with torch.no_grad():
            loss = F.cross_entropy(model(inputs * 2), labels.clone(), reduction="none").mean()
    return loss.item()


@pytest.mark.parametrize("reduce", WEIGHED.values(), ids=WEIGHED)
def test_a_loss_that_training_weighs_by_element_is_no_validation(watching, model, inputs, labels, reduce):
    with watching() as seen:
        _train_and_validate(model, inputs, labels, reduce)
    assert not seen.validations
    assert all(step.accuracy is None for step in seen.steps())
    assert all(epoch.train is None or epoch.train.accuracy is None for epoch in seen.epochs)
    assert len(seen.losses()) == 9
    (notice,) = [each for each in seen.notices if "for each element" in each]
    assert "cross_entropy_loss" in notice
    assert "may be other ones" in notice  # by a mask of ones they are not


@pytest.mark.parametrize("reduce", EVEN.values(), ids=EVEN)
def test_a_loss_of_which_training_takes_every_element_alike_is_validation(watching, model, inputs, labels, reduce):
    with watching() as seen:
        loss = _train_and_validate(model, inputs, labels, reduce)
    assert seen.validations[-1].loss == pytest.approx(loss)
    assert any(step.accuracy is not None for step in seen.steps())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("mode", ["no_grad", "eval mode"])
def test_a_validation_by_a_mean_is_one_whatever_training_makes_of_each_element(
    watching, model, inputs, labels, mode, reduction
):
    """As of labels that a model has guessed, of which the sure ones count, beside labels that are known."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    supervised = []
    with watching() as seen:
        for _ in range(6):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            guessed = F.cross_entropy(model(inputs + 1), labels, reduction="none")
            (loss + (guessed * MASK).mean()).backward()
            optimizer.step()
            supervised.append(loss.item())
        model.train(mode == "no_grad")
        with torch.set_grad_enabled(mode != "no_grad"):
            loss = F.cross_entropy(model(inputs * 2), labels.clone(), reduction=reduction).item()
        model.train()
    assert seen.validations[-1].loss == pytest.approx(loss / (len(labels) if reduction == "sum" else 1))
    assert seen.validations[-1].accuracy is not None
    assert seen.epochs[-1].train.criterion == pytest.approx(sum(supervised) / 6)
    assert seen.epochs[-1].train.accuracy is not None
    assert not [each for each in seen.notices if "for each element" in each]


def test_a_mean_in_validation_is_shown_though_training_masks_every_call(watching, model, inputs, labels):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        for _ in range(3):
            optimizer.zero_grad()
            (F.cross_entropy(model(inputs), labels, reduction="none") * MASK).mean().backward()
            optimizer.step()
        with torch.no_grad():
            loss = F.cross_entropy(model(inputs * 2), labels.clone()).item()
    assert seen.validations[-1].loss == pytest.approx(loss)
    assert (seen.epochs[-1].train.criterion, seen.epochs[-1].train.accuracy) == (None, None)


def test_a_loss_that_is_not_part_of_the_objective_tells_nothing(watching, model, inputs, labels):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        for _ in range(8):
            optimizer.zero_grad()
            outputs = model(inputs)
            (F.cross_entropy(outputs, labels, reduction="none") * MASK).sum()
            F.cross_entropy(outputs, labels).backward()
            optimizer.step()
        with torch.no_grad():
            loss = F.cross_entropy(model(inputs), labels).item()
    assert seen.validations[-1].loss == pytest.approx(loss)


def test_a_graph_is_held_at_the_first_trainings_alone(watching, model, inputs, labels):
    from trimtab.capture.weighing import LOOKS, Weighing

    asked = Weighing()
    for _ in range(LOOKS):
        each = F.cross_entropy(model(inputs), labels, reduction="none")
        asked.called("loss", each)
        assert asked._called
        asked.backward(each.mean())
        assert not asked._called
    asked.called("loss", each)
    assert not asked._called


def test_graph_of_a_validation_as_in_training_is_let_go_when_its_loader_ends(watching, model, inputs, labels):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching():
        for batch, target in DataLoader(TensorDataset(inputs, labels), 3):
            optimizer.zero_grad()
            F.cross_entropy(model(batch), target, reduction="none").mean().backward()
            optimizer.step()
        for batch, target in DataLoader(TensorDataset(inputs.clone(), labels.clone()), 3):
            hidden = model(batch)  # which the graph saves
            F.cross_entropy(hidden * hidden, target, reduction="none")
        kept = weakref.ref(hidden)
        del hidden
        gc.collect()
        assert kept() is None


@pytest.mark.parametrize("reduce", [WEIGHED["a mask"], EVEN["by a tensor"]])
def test_loss_in_a_checkpoint_is_computed_again_by_backward_alone(watching, model, inputs, labels, reduce):
    in_backward = []

    def objective(inputs):
        in_backward.append(torch._C._current_graph_task_id() >= 0)
        return reduce(F.cross_entropy(model(inputs), labels, reduction="none"))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        for _ in range(6):
            optimizer.zero_grad()
            checkpoint(objective, inputs, use_reentrant=False).backward()
            optimizer.step()
        with torch.no_grad():
            F.cross_entropy(model(inputs * 2), labels.clone(), reduction="none")
    assert in_backward == [False, True] * 6
    assert not seen.validations
