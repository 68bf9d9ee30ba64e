"""A validation that forgets `model.eval()` and `torch.no_grad()` is told from losses that training has a use for."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.types import Notice

EPOCHS = 5


def loader_of(samples, size=4):
    return DataLoader(TensorDataset(torch.randn(samples, 4), torch.arange(samples) % 3), size)


class Loop:
    """A model, its optimizer, and the loaders of the loops below."""

    def __init__(self):
        self.model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.training = loader_of(12)
        self.validation = loader_of(8)

    def loss(self, batch):
        inputs, labels = batch
        return F.cross_entropy(self.model(inputs), labels)

    def step(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def train(self, loader=None):
        for batch in loader or self.training:
            self.step(self.loss(batch))


@pytest.fixture
def loop():
    return Loop()


def told(seen):
    texts = [notice.text for notice in seen.backend.of(Notice) if notice.kind == "validation_unseen"]
    assert all("model.eval() and torch.no_grad() are missing" in text for text in texts)
    return len(texts)


def by_value(loop):
    return sum(loop.loss(batch).item() for batch in loop.validation)


def by_sum_of_tensors(loop):
    loop.total = 0
    for batch in loop.validation:
        loop.total += loop.loss(batch)


def by_newest_kept(loop):
    for batch in loop.validation:
        loop.newest = loop.loss(batch)


def over_a_loader_of_its_own(loop):
    for batch in loader_of(8, 8):
        loop.loss(batch)


@pytest.mark.parametrize("validate", [by_value, by_sum_of_tensors, by_newest_kept, over_a_loader_of_its_own])
@pytest.mark.parametrize(("epochs", "times"), [(EPOCHS, 1), (2, 1), (1, 0)])
def test_validation_as_in_training_is_said_to_be_unseen(watching, loop, validate, epochs, times):
    with watching() as seen:
        for _ in range(epochs):
            loop.train()
            validate(loop)
    assert told(seen) == times
    assert [epoch.train.samples for epoch in seen.epochs] == [12] * epochs


def test_validation_as_in_training_is_said_to_be_unseen_as_soon_as_its_losses_are_gone(watching, loop):
    with watching() as seen:
        for _ in range(EPOCHS):
            loop.train()
            by_value(loop)
    assert [notice.step for notice in seen.backend.of(Notice)] == [6]


def test_validation_as_in_training_is_said_to_be_unseen_within_epochs(watching, loop):
    with watching() as seen:
        for _ in range(EPOCHS):
            for batch in loop.training:
                loop.step(loop.loss(batch))
                by_value(loop)
    assert told(seen) == 1
    assert [epoch.train.samples for epoch in seen.epochs] == [12] * EPOCHS


@pytest.mark.parametrize("mode", ["eval", "no grad"])
def test_validation_that_forgets_one_of_both_is_seen(watching, loop, mode):
    with watching() as seen:
        for _ in range(EPOCHS):
            loop.train()
            with torch.set_grad_enabled(mode == "eval"):
                loop.model.train(mode != "eval")
                by_value(loop)
                loop.model.train()
    assert len(seen.validations) == EPOCHS
    assert seen.backend.of(Notice) == []


def test_validation_as_in_training_that_is_logged_is_not_said_to_be_unseen(watching, loop):
    with watching() as seen:
        for _ in range(EPOCHS):
            loop.train()
            seen.run.log(loss=by_value(loop), phase="validation")
    assert told(seen) == 0


def before_the_first_step_and_after_the_last(loop):
    by_value(loop)
    for _ in range(EPOCHS):
        loop.train()
    by_value(loop)


def partly(loop):
    for _ in range(EPOCHS):
        loop.train()
        loop.loss(next(iter(loop.validation)))


def statistics(loop):
    for _ in range(EPOCHS):
        loop.train()
        for number, (inputs, labels) in enumerate(loop.validation):
            output = loop.model(inputs)
            if number == 0:
                F.cross_entropy(output, labels)


def side_by_side(loop):
    for _ in range(EPOCHS):
        for one, other in zip(loop.training, itertools.cycle(loop.validation), strict=False):
            loop.loss(one).item()
            loop.step(loop.loss(one) + loop.loss(other))


def one_drawn_beside(loop):
    beside = loader_of(4)
    for _ in range(EPOCHS):
        for batch in loop.training:
            loop.step(loop.loss(batch) + loop.loss(next(iter(beside))))


def generator_and_discriminator(loop):
    real = loader_of(12)
    for _ in range(EPOCHS):
        for one, other in zip(loop.training, real, strict=True):
            loop.step(loop.loss(other))
            loop.loss(other).item()
            loop.step(loop.loss(one))


def skipped_batches(loop):
    for epoch in range(EPOCHS):
        for batch in loop.training:
            loss = loop.loss(batch)
            if epoch in (1, 2, 3):
                continue
            loop.step(loss)


def a_look_at_the_batch(loop):
    """Of data that is made anew for each epoch, as in a buffer, trained on by a loss of one's own."""
    for _ in range(EPOCHS):
        for inputs, labels in loader_of(12, 12):
            loop.loss((inputs, labels)).item()
            loop.step((loop.model(inputs) - F.one_hot(labels, 3)).square().mean())


def a_pass_before_training_on_the_same(loop):
    for _ in range(EPOCHS):
        buffer = loader_of(12)
        for batch in buffer:
            loop.loss(batch)
        loop.train(buffer)


def losses_of_queries(loop):
    """Of four tasks each, with loaders of their own: a learner trains on each, and its teacher on all together."""
    teacher = Loop()
    for _ in range(EPOCHS):
        queries = []
        for _ in range(4):
            loop.train(loader_of(8))
            queries += [teacher.loss(batch) for batch in loader_of(4)]
        teacher.step(sum(queries))


def parts_accumulated(loop):
    total = 0
    for part in range(1, 4 * EPOCHS + 1):
        total += sum(loop.loss(batch) for batch in loader_of(8))
        if part % 4 == 0:
            loop.step(total)
            total = 0


def gradients_asked_for(loop):
    for _ in range(EPOCHS):
        loop.train()
        for batch in loop.validation:
            torch.autograd.grad(loop.loss(batch), list(loop.model.parameters()))


@pytest.mark.parametrize(
    "run",
    [
        before_the_first_step_and_after_the_last, partly, statistics, side_by_side, one_drawn_beside,
        generator_and_discriminator, skipped_batches, a_look_at_the_batch, a_pass_before_training_on_the_same,
        losses_of_queries, parts_accumulated, gradients_asked_for,
    ],
)  # fmt: skip
def test_losses_that_are_no_validation_are_not_said_to_be_one(watching, loop, run):
    with watching() as seen:
        run(loop)
    assert told(seen) == 0
