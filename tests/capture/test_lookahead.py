"""Loops that have a batch in hand beside the one that they train on."""

import itertools

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


def from_(start, loader):
    """The batches from that one on, of the first pass alone, as where a run resumes amid an epoch."""
    yield from itertools.islice(loader, start, None)
    while True:
        yield from loader


@pytest.mark.parametrize("dataset", [data, Stream])
@pytest.mark.parametrize(("loop", "start"), [(Loop, 1), (Loop, 2), (Loop, 4), (Loop, 5), (HandWritten, 1)])
def test_batches_that_are_left_out_before_the_first_step_are_not_in_hand(watching, loop, dataset, start):
    loop, loader, losses = loop(), DataLoader(dataset(), batch_size=BATCH), []
    batches = from_(start, loader)
    with watching() as seen:
        losses += [loop.step(batch) for batch in itertools.islice(batches, 3 * len(SIZES) - start)]
    expected = [*SIZES[start:], *SIZES, *SIZES]
    assert sizes(seen) == expected
    assert [epoch.step for epoch in seen.epochs] == [6 - start, 12 - start, 18 - start][: len(seen.epochs)]
    assert [epoch.train.samples for epoch in seen.epochs] == [SAMPLES - 4 * start, SAMPLES, SAMPLES][: len(seen.epochs)]
    first = sum(a * b for a, b in zip(losses, SIZES[start:], strict=False)) / (SAMPLES - 4 * start)
    assert seen.epochs[0].train.loss == pytest.approx(first)
    assert len(seen.epochs) >= 2


@pytest.mark.parametrize("kind", [Loop, HandWritten])
@pytest.mark.parametrize("keeps", [False, True], ids=["loop", "iterator that is kept"])
def test_validation_stands_behind_the_pass_of_which_batches_were_left_out(watching, kind, keeps):
    loop, loader = kind(), DataLoader(data(), batch_size=BATCH)
    held_out, kept = DataLoader(TensorDataset(*data()[:9]), batch_size=3), None
    with watching() as seen:
        for epoch in range(3):
            batches = iter(loader)
            if keeps:
                kept = batches
            for index, batch in enumerate(batches):
                if epoch or index:
                    loop.step(batch)
            del batches
            loop.model.eval()
            with torch.no_grad():
                for inputs, labels in held_out:
                    F.cross_entropy(loop.model(inputs), labels)
            loop.model.train()
    assert kept is not None or not keeps
    assert sizes(seen) == [*SIZES[1:], *SIZES, *SIZES]
    assert [epoch.step for epoch in seen.epochs] == [5, 11, 17]
    assert [epoch.train.samples for epoch in seen.epochs] == [18, 22, 22]
    assert [epoch.validation.samples for epoch in seen.epochs] == [9, 9, 9]


@pytest.mark.parametrize("anew", [False, True])
def test_batch_that_the_first_model_is_made_by_is_not_in_hand(watching, anew):
    """By a generator that goes on for ever, as of a loader that it makes for each pass."""

    def batches():
        loader = DataLoader(held, batch_size=BATCH, shuffle=True)
        following = iter(loader)
        while True:
            try:
                yield next(following)
            except StopIteration:
                loader = DataLoader(held, batch_size=BATCH, shuffle=True) if anew else loader
                following = iter(loader)
                yield next(following)

    loop, held, endless = HandWritten(), data(), batches()
    with watching() as seen:
        with torch.no_grad():
            loop.model(next(endless)[0])
        for _ in range(18):
            loop.step(next(endless))
    assert [epoch.step for epoch in seen.epochs] == [5, 11, 17]
    assert [epoch.train.samples for epoch in seen.epochs] == [18, 22, 22]


def test_accumulation_that_begins_amid_a_pass(watching):
    """The last two batches of the first pass are of one step, and the newest backward has no step of its own."""
    loop, batches = HandWritten(), from_(1, DataLoader(data(), batch_size=BATCH))
    with watching() as seen:
        for index in range(16):
            inputs, labels = next(batches)
            loop.loss(loop.model(inputs), labels).backward()
            if index % 2:
                loop.optimizer.step()
                loop.optimizer.zero_grad()
    assert [step.samples for step in seen.steps()][:4] == [8, 8, 6, 8]
    assert sum(sizes(seen)) == 18 + 22 + 20


def test_look_ahead_is_believed_in_though_its_rest_was_left(watching):
    loop, loader = Loop(), DataLoader(data(), batch_size=BATCH)
    with watching() as seen:
        for limit in (5, 5, 9):
            for batch in itertools.islice(one_ahead(loader), limit):
                loop.step(batch)
    assert sizes(seen) == [*SIZES[:5], *SIZES[:5], *SIZES]
    assert [epoch.step for epoch in seen.epochs] == [5, 10, 16]


def test_batch_that_is_only_looked_at_is_not_counted(watching):
    loop, loader = Loop(), DataLoader(data(), batch_size=BATCH)
    with watching() as seen:
        batches = iter(loader)
        next(batches)
        for batch in batches:
            loop.step(batch)
        for batch in loader:
            loop.step(batch)
    assert sizes(seen) == SIZES[1:] + SIZES
