"""Backwards that no step follows: attacks, Langevin's steps, and other looks at the gradient of inputs."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.types import Notice

TRAINED, VALIDATED, BATCH = 12, 8, 4


def loader(samples, seed):
    generator = torch.Generator().manual_seed(seed)
    data = TensorDataset(torch.randn(samples, 4, generator=generator), torch.arange(samples) % 3)
    return DataLoader(data, batch_size=BATCH)


def attack(model, inputs, labels, *, in_eval_mode=True):
    """Projected gradient descent on the inputs, which leaves gradients of the weights behind."""
    was_training = model.training
    model.train(not in_eval_mode)
    change = torch.zeros_like(inputs, requires_grad=True)
    for _ in range(4):
        F.cross_entropy(model(inputs + change), labels).backward()
        change.data += 0.1 * change.grad.sign()
        change.grad.zero_()
    model.train(was_training)
    return inputs + change.detach()


class Robust:
    """Trains on attacked inputs."""

    def __init__(self):
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.losses, self.hits = [], []

    def step(self, inputs, labels, *, in_eval_mode):
        attacked = attack(self.model, inputs, labels, in_eval_mode=in_eval_mode)
        self.optimizer.zero_grad()
        logits = self.model(attacked)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())
        self.hits.append((logits.argmax(1) == labels).float().mean().item())

    def epoch(self, *, in_eval_mode):
        """One over the training data, and ready to be evaluated."""
        self.model.train()
        for inputs, labels in loader(TRAINED, seed=1):
            self.step(inputs, labels, in_eval_mode=in_eval_mode)
        self.model.eval()


@pytest.fixture
def robust():
    return Robust()


@pytest.mark.parametrize("in_eval_mode", [True, False])
def test_attack_is_in_no_number_of_the_training_that_follows_it(watching, robust, in_eval_mode):
    inputs, labels = torch.randn(BATCH, 4), torch.tensor([0, 1, 2, 0])
    with watching() as seen:
        for _ in range(8):
            robust.step(inputs, labels, in_eval_mode=in_eval_mode)
    assert seen.losses() == pytest.approx(robust.losses)
    assert [step.samples for step in seen.steps()][1:] == [BATCH] * 7  # nobody knows of the first what came before it
    assert [step.accuracy for step in seen.steps()][1:] == pytest.approx(robust.hits[1:])


@pytest.mark.parametrize("loses_grad", [True, False])
def test_evaluation_under_attack_is_no_training(watching, robust, loses_grad):
    validation, losses = loader(VALIDATED, seed=2), []
    with watching() as seen:
        for _ in range(3):
            robust.epoch(in_eval_mode=True)
            total = 0.0
            for inputs, labels in validation:
                attacked = attack(robust.model, inputs, labels)
                with torch.set_grad_enabled(not loses_grad):
                    total += F.cross_entropy(robust.model(attacked), labels).item()
            losses.append(total / 2)
    assert [epoch.epoch for epoch in seen.epochs] == [1, 2, 3]
    assert seen.end.totals["samples"] == 3 * TRAINED
    if loses_grad:
        assert [epoch.validation.loss for epoch in seen.epochs] == pytest.approx(losses)


def test_look_at_gradients_after_an_epoch_leaves_the_validation_to_it(watching, robust):
    with watching() as seen:
        for _ in range(3):
            robust.epoch(in_eval_mode=False)
            image = torch.randn(1, 4, requires_grad=True)  # of what is wanted of it, for a picture
            robust.model(image)[0, 1].backward()
            with torch.no_grad():
                for inputs, labels in loader(VALIDATED, seed=2):
                    F.cross_entropy(robust.model(inputs), labels)
    assert [epoch.epoch for epoch in seen.epochs] == [1, 2, 3]
    assert all(epoch.validation is not None for epoch in seen.epochs)


def test_training_in_eval_mode_is_training(watching, robust):
    robust.model.eval()
    with watching() as seen:
        for _ in range(2):
            for inputs, labels in loader(TRAINED, seed=1):
                robust.optimizer.zero_grad()
                F.cross_entropy(robust.model(inputs), labels).backward()
                robust.optimizer.step()
            with torch.no_grad():
                for inputs, labels in loader(VALIDATED, seed=2):
                    F.cross_entropy(robust.model(inputs), labels)
    assert [step.samples for step in seen.steps()] == [BATCH] * 6
    assert [epoch.train.samples for epoch in seen.epochs] == [TRAINED] * 2
    assert all(epoch.validation.samples == VALIDATED for epoch in seen.epochs)


def test_inputs_that_are_moved_before_the_first_step_are_no_parameters_updated_by_hand(watching, robust):
    batches = loader(TRAINED, seed=1)
    with watching() as seen:
        for inputs, _ in batches:
            robust.model.requires_grad_(False)
            sample = torch.randn(BATCH, 4, requires_grad=True)
            for _ in range(10):  # Langevin's steps
                robust.model(sample).logsumexp(1).sum().backward()
                sample.data -= 0.1 * sample.grad
                sample.grad.zero_()
            robust.model.requires_grad_(True)
            robust.optimizer.zero_grad()
            energies = robust.model(torch.cat([inputs, sample.detach()])).logsumexp(1)
            loss = energies[:BATCH].mean() - energies[BATCH:].mean()
            loss.backward()
            robust.optimizer.step()
            robust.losses.append(loss.item())
    assert seen.losses() == pytest.approx(robust.losses)
    assert [step.samples for step in seen.steps()] == [BATCH] * 3
    assert "unseen_optimizer" not in [notice.kind for notice in seen.backend.of(Notice)]


def test_parameters_updated_by_hand_are_seen_though_an_optimizer_of_others_lives(watching, robust):
    weights = torch.randn(4, 3, requires_grad=True)
    with watching() as seen:
        for _ in range(300):
            F.cross_entropy(torch.ones(2, 4) @ weights, torch.tensor([0, 1])).backward()
            weights.data -= 0.1 * weights.grad
            weights.grad = None
    assert seen.end.totals["steps"] == {"0": 300}


def warm_up(robust, rounds=10):
    for inputs, labels in loader(rounds * BATCH, seed=3):
        robust.optimizer.zero_grad()
        F.cross_entropy(robust.model(inputs), labels).backward()


def train_by_hand(robust, rounds):
    """The optimizer clears gradients, and does nothing else."""
    for _ in range(rounds):
        robust.optimizer.zero_grad()
        F.cross_entropy(robust.model(torch.ones(2, 4)), torch.tensor([0, 1])).backward()
        for parameter in robust.model.parameters():
            parameter.data -= 0.1 * parameter.grad


def test_rounds_before_the_first_step_of_a_living_optimizer_are_no_steps(watching, robust):
    with watching() as seen:
        warm_up(robust)
        for inputs, labels in loader(TRAINED, seed=1):
            robust.step(inputs, labels, in_eval_mode=False)
    assert seen.end.totals["steps"] == {"0": 3}
    assert seen.losses() == pytest.approx(robust.losses)
    assert "unseen_optimizer" not in [notice.kind for notice in seen.backend.of(Notice)]


@pytest.mark.parametrize("rounds", [2, 5, 10])
def test_warm_up_on_the_batches_of_the_training_is_in_no_epoch(watching, robust, rounds):
    """It is left before the end of its pass, or reaches that."""
    batches = loader(10 * BATCH, seed=1)
    with watching() as seen:
        for inputs, labels in itertools.islice(batches, rounds):
            robust.optimizer.zero_grad()
            F.cross_entropy(robust.model(inputs), labels).backward()
        robust.optimizer.zero_grad()  # before an attack adds to them
        for _ in range(2):
            for inputs, labels in batches:
                robust.step(inputs, labels, in_eval_mode=False)
    assert [epoch.epoch for epoch in seen.epochs] == [1, 2]
    assert [epoch.train.samples for epoch in seen.epochs] == [10 * BATCH] * 2
    assert [epoch.train.loss * 10 for epoch in seen.epochs] == pytest.approx(
        [sum(robust.losses[:10]), sum(robust.losses[10:])]
    )


def test_gradients_that_are_added_up_aside_before_each_step_are_one_step(watching, robust):
    with watching() as seen:
        for _ in range(6):
            aside = [torch.zeros_like(parameter) for parameter in robust.model.parameters()]
            for inputs, labels in loader(5 * BATCH, seed=1):
                robust.optimizer.zero_grad()
                F.cross_entropy(robust.model(inputs), labels).backward()
                aside = [total + p.grad for total, p in zip(aside, robust.model.parameters(), strict=True)]
            for parameter, total in zip(robust.model.parameters(), aside, strict=True):
                parameter.grad = total
            robust.optimizer.step()
    assert seen.end.totals["steps"] == {"0": 6}
    assert seen.end.totals["samples"] == 6 * 5 * BATCH
    assert "unseen_optimizer" not in [notice.kind for notice in seen.backend.of(Notice)]


def test_parameters_updated_by_hand_are_seen_in_the_end_though_their_optimizer_lives(watching, robust):
    with watching() as seen:
        train_by_hand(robust, 300)
    assert seen.end.totals["steps"] == {"0": 300}


def test_optimizer_that_is_gone_is_waited_for_no_longer(watching, robust):
    with watching() as seen:
        train_by_hand(robust, 4)
        robust.optimizer = robust.model  # which clears gradients as well
        train_by_hand(robust, 2)
    assert seen.end.totals["steps"] == {"0": 6}
