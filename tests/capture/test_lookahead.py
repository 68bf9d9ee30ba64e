"""Loops that have a batch in hand beside the one that they train on."""

import accelerate
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

SAMPLES, BATCH = 22, 4  # five whole batches, and one of two
SIZES = [4, 4, 4, 4, 4, 2]


class Stream(IterableDataset):
    """The same samples, of a length that nobody tells."""

    def __iter__(self):
        return iter(list(data()))


def data():
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(SAMPLES, 5, generator=generator), torch.arange(SAMPLES) % 3)


def one_ahead(loader):
    """A generator around a loader, as many write it."""
    batches = iter(loader)
    following = next(batches)
    for batch in batches:
        yield following
        following = batch
    yield following


class Prefetcher:
    """The class that goes around with examples of mixed precision."""

    def __init__(self, loader):
        self.batches = iter(loader)
        self.following = next(self.batches)

    def __iter__(self):
        while self.following is not None:
            batch, self.following = self.following, next(self.batches, None)
            yield batch


def by_accelerate(loader):
    return accelerate.Accelerator(cpu=True).prepare(loader)


class Loop:
    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Linear(5, 3)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def step(self, *batches):
        self.optimizer.zero_grad()
        outputs = [self.model(inputs) for inputs, _ in batches]
        loss = self.loss(torch.cat(outputs), torch.cat([labels for _, labels in batches]))
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def loss(self, outputs, labels):
        return F.cross_entropy(outputs, labels)


class HandWritten(Loop):
    """Whose loss tells nobody of how many samples it is."""

    def loss(self, outputs, labels):
        return -outputs.log_softmax(1)[torch.arange(len(labels)), labels].mean()


def sizes(seen):
    return [step.samples for step in seen.steps()]


def weighted(losses):
    return sum(loss * size for loss, size in zip(losses, SIZES, strict=True)) / SAMPLES


@pytest.mark.parametrize("loop", [Loop, HandWritten])
@pytest.mark.parametrize("around", [one_ahead, Prefetcher, by_accelerate, lambda loader: loader])
@pytest.mark.parametrize("dataset", [data, Stream])
def test_each_step_counts_the_batch_that_it_trains_on(watching, loop, around, dataset):
    loop, loader = loop(), DataLoader(dataset(), batch_size=BATCH)
    with watching() as seen:
        means = [weighted([loop.step(batch) for batch in around(loader)]) for _ in range(3)]
    assert sizes(seen) == SIZES * 3
    assert [epoch.train.samples for epoch in seen.epochs] == [SAMPLES] * 3
    assert [epoch.train.loss for epoch in seen.epochs] == pytest.approx(means)


@pytest.mark.parametrize("around", [one_ahead, by_accelerate])
@pytest.mark.parametrize("gradients_every", [1, 64])
def test_long_loops_that_take_the_short_way_count_alike(watching, around, gradients_every):
    samples = torch.randn(1602, 5), torch.arange(1602) % 3
    loop, loader = Loop(), DataLoader(TensorDataset(*samples), batch_size=BATCH)
    with watching(gradients_every=gradients_every) as seen:
        losses = [loop.step(batch) for batch in around(loader)]
    (epoch,) = seen.epochs
    expected = [4] * 400 + [2]
    assert sum(step.samples for step in seen.steps()) == epoch.train.samples == 1602
    assert epoch.train.loss == pytest.approx(sum(a * b for a, b in zip(losses, expected, strict=True)) / 1602)


@pytest.mark.parametrize("after", [(2, 5), (4,)], ids=["and at the end", "before the last batch"])
@pytest.mark.parametrize("around", [one_ahead, by_accelerate])
@pytest.mark.parametrize("kind", [Loop, HandWritten])
def test_validation_in_the_middle_leaves_what_is_in_hand_alone(watching, kind, around, after):
    loop, loader = kind(), DataLoader(data(), batch_size=BATCH)
    held_out = DataLoader(TensorDataset(*data()[:9]), batch_size=3)
    validated = []
    with watching() as seen:
        for _ in range(3):
            for index, batch in enumerate(around(loader)):
                loop.step(batch)
                if index in after:
                    loop.model.eval()
                    with torch.no_grad():
                        losses = [loop.loss(loop.model(inputs), labels) for inputs, labels in around(held_out)]
                    validated.append(sum(losses).item() / len(losses))
                    loop.model.train()
    assert sizes(seen) == SIZES * 3
    assert [epoch.train.samples for epoch in seen.epochs] == [SAMPLES] * 3
    if kind is Loop:
        assert [step.loss for step in seen.validations] == pytest.approx(validated)
        assert [step.samples for step in seen.validations] == [9] * 3 * len(after)
        assert [epoch.validation.samples for epoch in seen.epochs] == [9] * 3


@pytest.mark.parametrize("validates", [False, True])
def test_loader_of_two_batches_has_one_in_hand_in_every_epoch(watching, validates):
    loop, loader = Loop(), DataLoader(data(), batch_size=12)
    held_out = DataLoader(TensorDataset(*data()[:6]), batch_size=3)
    with watching() as seen:
        for _ in range(3):
            for batch in one_ahead(loader):
                loop.step(batch)
                for inputs, labels in held_out if validates else ():
                    with torch.no_grad():
                        loop.loss(loop.model(inputs), labels)
    assert sizes(seen) == [12, 10] * 3
    assert [epoch.train.samples for epoch in seen.epochs] == [SAMPLES] * 3


def test_accumulation_from_batches_that_are_fetched_together(watching):
    """As Transformers does: the batches of a step, and the one that its loader has in hand."""
    loop, loader = Loop(), DataLoader(data(), batch_size=BATCH)
    with watching() as seen:
        for _ in range(2):
            batches = one_ahead(loader)
            while together := [batch for _, batch in zip(range(2), batches, strict=False)]:
                loop.optimizer.zero_grad()
                for inputs, labels in together:
                    F.cross_entropy(loop.model(inputs), labels).backward()
                loop.optimizer.step()
    assert sizes(seen) == [8, 8, 6] * 2


@pytest.mark.parametrize(("loop", "expected"), [(Loop, [8, 8, 6]), (HandWritten, [4, 12, 6])])
def test_two_batches_a_step_are_two(watching, loop, expected):
    """Where the loss does not tell of how many samples it is, the second step shows that the first had two."""
    loop, loader = loop(), DataLoader(data(), batch_size=BATCH)
    with watching() as seen:
        for batches in (iter(loader), iter(loader)):
            for first, second in zip(batches, batches, strict=True):
                loop.step(first, second)
    assert sizes(seen) == [*expected, 8, 8, 6]


def test_batch_that_is_only_looked_at_is_not_counted(watching):
    loop, loader = Loop(), DataLoader(data(), batch_size=BATCH)
    with watching() as seen:
        batches = iter(loader)
        next(batches)
        for batch in batches:
            loop.step(batch)
        for batch in loader:
            loop.step(batch)
    assert sizes(seen)[:4] == [4, 4, 4, 4]
    assert sizes(seen)[5:] == SIZES
