"""The loss at chance, in loops of different style: it is known only of what backward is called on."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trimtab.sample import chance as chances

SAMPLES, CLASSES = 64, 4
EVEN = pytest.approx(math.log(CLASSES), abs=0.02)


@pytest.fixture
def batch():
    return torch.randn(SAMPLES, 4), torch.arange(SAMPLES) % CLASSES


@pytest.fixture
def chance(watching, batch):
    """`chance(step)`: what is known after some steps, each of which calls `step(model, inputs, labels)`."""

    def chance(step, steps=16, optimizers=1):
        model = nn.Linear(4, CLASSES)
        made = [torch.optim.SGD([p], lr=0.01) for p in model.parameters()][:optimizers]
        with watching() as seen:
            for _ in range(steps):
                for optimizer in made:
                    optimizer.zero_grad()
                step(model, *batch)
                for optimizer in made:
                    optimizer.step()
            return seen.run._books.ledgers[0].chance.read()

    return chance


def plain(model, inputs, labels):
    F.cross_entropy(model(inputs), labels).backward()


def by_module(model, inputs, labels):
    nn.CrossEntropyLoss()(model(inputs), labels).backward()


def as_likelihood(model, inputs, labels):
    F.nll_loss(model(inputs).log_softmax(1), labels).backward()


def accumulated(model, inputs, labels):
    for x, y in zip(inputs.chunk(2), labels.chunk(2), strict=True):
        (F.cross_entropy(model(x), y) / 2).backward()


def scaled_by_amp(model, inputs, labels):
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(F.cross_entropy(model(inputs), labels)).backward()


def summed_by_the_batch(model, inputs, labels):
    (F.cross_entropy(model(inputs), labels, reduction="sum") / len(labels)).backward()


@pytest.mark.parametrize("step", [plain, by_module, as_likelihood, accumulated, scaled_by_amp, summed_by_the_batch])
def test_it_is_known_where_the_objective_is_the_mean(chance, step):
    assert chance(step) == EVEN


def penalised(model, inputs, labels):
    (F.cross_entropy(model(inputs), labels) + 0.5 * sum(p.abs().sum() for p in model.parameters())).backward()


def not_divided(model, inputs, labels):
    for x, y in zip(inputs.chunk(2), labels.chunk(2), strict=True):
        F.cross_entropy(model(x), y).backward()


def summed(model, inputs, labels):
    F.cross_entropy(model(inputs), labels, reduction="sum").backward()


def two_heads(model, inputs, labels):
    (F.cross_entropy(model(inputs), labels) + F.cross_entropy(model(-inputs), labels)).backward()


def weighted(model, inputs, labels):
    F.cross_entropy(model(inputs), labels, torch.tensor([1.0, 2.0, 1.0, 1.0])).backward()


def by_hand(model, inputs, labels):
    (-model(inputs).log_softmax(1)[range(len(labels)), labels]).mean().backward()


@pytest.mark.parametrize("step", [penalised, not_divided, summed, two_heads, weighted, by_hand])
def test_it_is_not_known_where_the_objective_is_another(chance, step):
    assert chance(step) is None


def squares(model, inputs, labels):
    F.mse_loss(model(inputs), inputs).backward()


def squares_by_module(model, inputs, labels):
    nn.MSELoss()(model(inputs), inputs).backward()


def summed_squares(model, inputs, labels):
    (F.mse_loss(model(inputs), inputs, reduction="sum") / inputs.numel()).backward()


@pytest.mark.parametrize("step", [squares, squares_by_module, summed_squares])
def test_of_a_regression_it_is_the_variance_of_its_targets(chance, batch, step):
    inputs, _ = batch
    assert chance(step) == pytest.approx(inputs.var(0, correction=0).mean().item(), rel=1e-5)


def absolute(model, inputs, labels):
    F.l1_loss(model(inputs), inputs).backward()


def half_the_squares(model, inputs, labels):
    (F.mse_loss(model(inputs), inputs) / 2).backward()


def each_other(model, inputs, labels):
    F.mse_loss(model(inputs), model(-inputs)).backward()


@pytest.mark.parametrize("step", [absolute, half_the_squares, each_other])
def test_it_is_not_known_of_another_regression(chance, step):
    assert chance(step) is None


def test_it_is_known_of_one_of_two_optimizers_under_one_loss(chance):
    assert chance(plain, optimizers=2) == EVEN


def test_records_say_it_from_when_it_is_known(watching, batch):
    inputs, labels = batch
    model = nn.Linear(4, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watching(act="process", policies=[]) as seen:  # so that every step is judged
        for _ in range(16):
            optimizer.zero_grad()
            plain(model, inputs, labels)
            optimizer.step()
    said = [step.loss_at_chance for step in seen.steps()]
    assert said[0] is None
    assert said[-1] == EVEN


def test_it_is_that_of_another_loss_function_from_when_there_is_one(watching, batch):
    inputs, labels = batch
    model = nn.Linear(4, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watching() as seen:
        for step in range(32):
            optimizer.zero_grad()
            if step < 16:
                F.l1_loss(model(inputs), inputs).backward()
            else:
                F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            if step == 15:
                assert seen.run._books.ledgers[0].chance.read() is None
        assert seen.run._books.ledgers[0].chance.read() == EVEN


def test_it_is_the_entropy_once_training_has_classes(watching, batch):
    inputs, labels = batch
    model = nn.Linear(4, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    known = []
    with watching() as seen:
        for step in range(64):
            optimizer.zero_grad()
            if step < 32:
                F.mse_loss(model(inputs), inputs).backward()
            else:
                F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            known.append(seen.run._books.ledgers[0].chance.read())
    assert known[31] == pytest.approx(inputs.var(0, correction=0).mean().item(), rel=1e-5)
    assert known[-1] == EVEN


def test_labels_of_the_beginning_are_what_counts(watching, batch, monkeypatch):
    monkeypatch.setattr(chances, "TALLIES", 16)
    inputs, labels = batch
    model = nn.Linear(4, CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    counted = 9 * chances.THEN_EVERY
    with watching() as seen:
        for step in range(2 * counted):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels if step < counted else torch.zeros_like(labels)).backward()
            optimizer.step()
        assert seen.run._books.ledgers[0].chance.read() == EVEN


def test_a_second_model_by_the_same_loss_function_has_labels_of_its_own(watching, batch, monkeypatch):
    monkeypatch.setattr(chances, "TALLIES", 8)
    inputs, labels = batch
    with watching() as seen:
        for answers in (labels, labels % 2):
            model = nn.Linear(4, CLASSES)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            for _ in range(32):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), answers).backward()
                optimizer.step()
        assert seen.run._books.ledgers[0].chance.read() == pytest.approx(math.log(2), abs=0.02)
