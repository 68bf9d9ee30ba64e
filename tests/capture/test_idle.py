"""Steps that find no gradient change nothing, and are none."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, SparseAdam
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from trimtab import facts
from trimtab.types import Notice


@pytest.fixture
def loader():
    return DataLoader(TensorDataset(torch.randn(60, 4), torch.randint(3, (60,))), batch_size=6)


def train(model, optimizer, loader, epochs=2):
    for _ in range(epochs):
        for inputs, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()


def kinds(seen):
    return [notice.kind for notice in seen.backend.of(Notice)]


@pytest.mark.parametrize("act", [None, True])
@pytest.mark.parametrize("is_same", [True, False])
def test_schedule_that_is_wound_forward_takes_no_steps(watching, model, loader, is_same, act):
    first = optimizer = SGD(model.parameters(), lr=0.1)
    schedule = LambdaLR(first, lambda step: 1 / (1 + step))
    with watching(act=act) as seen:
        for _ in range(30):
            first.step()
            schedule.step()
        if not is_same:
            optimizer = SGD(model.parameters(), lr=0.1)
        train(model, optimizer, loader)
    assert (seen.end.totals["steps"], seen.end.totals["samples"]) == ({"0": 20}, 120)
    assert [epoch.train.loss is not None for epoch in seen.epochs] == [True, True]
    assert kinds(seen) == []
    assert schedule.last_epoch == 30
    assert seen.steps()[0].learning_rate == [pytest.approx(0.1 / 31 if is_same else 0.1)]


@pytest.mark.parametrize("act", [None, True])
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_step_without_a_gradient_is_as_if_it_was_not_called(watching, model, kind, act):
    """Among those of the lane, too."""
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    told = []
    for is_called in (True, False):
        torch.manual_seed(1)
        model.load_state_dict(initial)
        optimizer = kind(model.parameters(), lr=0.01)
        loader = DataLoader(TensorDataset(torch.randn(600, 4), torch.randint(3, (600,))), batch_size=6)
        with watching(act=act, gradients_every=10, run=f"run-{is_called}") as seen:
            for i, (inputs, labels) in enumerate(loader):
                optimizer.zero_grad()
                if i % 17 == 3 or i in (60, 61, 62):
                    F.cross_entropy(model(inputs), labels).backward()
                    optimizer.zero_grad()
                if i % 17 != 3 and i not in (60, 61, 62):
                    F.cross_entropy(model(inputs), labels).backward()
                elif not is_called:
                    continue
                optimizer.step()
        rows = [(step.step, step.samples, step.loss, step.epoch) for step in seen.steps()]
        told.append((rows, seen.end.totals, seen.epochs[0].train.loss, kinds(seen)))
    assert told[0] == told[1]
    assert told[0][1]["steps"] == {"0": 91}


def test_optimizer_that_has_no_gradient_for_a_while_is_met_when_it_has(watching, model, inputs):
    """As a discriminator that is trained from the fourth step on."""
    critic = nn.Linear(3, 1)
    optimizers = {"g": SGD(model.parameters(), lr=0.1), "d": SGD(critic.parameters(), lr=0.1)}
    with watching(act=True) as seen:
        seen.run.attach(optimizer=optimizers)
        for i, (batch,) in enumerate(DataLoader(TensorDataset(inputs), batch_size=1)):
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            critic.requires_grad_(i >= 3)
            critic(model(batch)).mean().backward()
            optimizers["d"].step()
            optimizers["g"].step()
    assert seen.end.totals["steps"] == {"g": 6, "d": 3}
    assert (seen.end.totals["samples"], kinds(seen)) == (6, [])


class WithoutGradients(SGD):
    """As those that hold their gradients elsewhere."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(0.9)


def test_optimizers_of_other_classes_are_counted_as_they_may_change_weights(watching, model):
    optimizer = WithoutGradients(model.parameters(), lr=0.1)
    with watching() as seen:
        for _ in range(3):
            optimizer.step()
    assert seen.end.totals["steps"] == {"0": 3}


def test_gradients_that_come_with_the_step_are_waited_for(watching, model, inputs, labels):
    """By a closure, or by a hook of the optimizer."""
    optimizer = SGD(model.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    with watching() as seen:
        for _ in range(3):
            model.zero_grad()
            optimizer.step(closure)
        optimizer.register_step_pre_hook(lambda *_: closure() and None)
        for _ in range(3):
            model.zero_grad()
            optimizer.step()
    assert seen.end.totals["steps"] == {"0": 6}


def test_one_gradient_is_enough_be_it_sparse(watching):
    model = nn.Sequential(nn.Linear(4, 4), nn.Embedding(5, 3, sparse=True))
    optimizer = SparseAdam(list(model.parameters()), lr=0.1)
    with watching() as seen:
        for _ in range(3):
            optimizer.zero_grad()
            model[1](torch.tensor([1, 2])).sum().backward()
            optimizer.step()
    assert seen.end.totals["steps"] == {"0": 3}


@pytest.mark.parametrize("first", [True, False])
def test_scaler_that_steps_on_no_gradient_has_skipped_nothing(watching, model, inputs, labels, first):
    """A fused optimizer, which the scaler calls in any case."""
    head = nn.Linear(3, 3)
    optimizers = {
        "body": torch.optim.AdamW(model.parameters(), fused=True),
        "head": torch.optim.AdamW(head.parameters(), fused=True),
    }
    scaler = torch.amp.GradScaler("cpu")
    with watching() as seen:
        seen.run.attach(optimizer=optimizers)
        for trains_head in (first, False, True, False):
            head.requires_grad_(trains_head)
            scaler.scale(F.cross_entropy(head(model(inputs)), labels)).backward()
            for optimizer in optimizers.values():
                scaler.step(optimizer)
                optimizer.zero_grad()
            scaler.update()
    assert (seen.end.totals["steps"], seen.end.totals["skipped"]) == ({"body": 4, "head": 1 + first}, {})


def test_ranks_count_the_same_steps_whoever_has_gradients(watching, model, monkeypatch):
    optimizer = SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        monkeypatch.setattr(facts, "group", lambda: (0, 2))
        optimizer.step()
    assert seen.end.totals["steps"] == {"0": 1}


@pytest.fixture(params=["cleared", "copied"])
def mistaken(request, model, inputs, labels):
    """Calls backward, and an optimizer that has no gradient."""
    optimizer = SGD(model.parameters(), lr=0.1)
    trained = model if request.param == "cleared" else copy.deepcopy(model)

    def mistaken():
        F.cross_entropy(trained(inputs), labels).backward()
        trained.zero_grad()
        optimizer.step()

    return mistaken


def test_training_of_which_nothing_comes_is_told_so(watching, mistaken):
    with watching() as seen:
        for _ in range(4):
            mistaken()
    (notice,) = seen.notices
    assert notice.startswith("Optimizers step, and no parameter of theirs has a gradient")
    assert seen.end.totals["steps"] == {}


@pytest.mark.parametrize(("times", "told"), [(19, []), (300, ["no_training"])])
def test_training_of_which_nothing_comes_for_long_is_told_so_before_its_end(watching, mistaken, times, told):
    other = nn.Linear(4, 1)
    optimizer = SGD(other.parameters(), lr=0.1)
    with watching() as seen:
        for _ in range(times):
            mistaken()
        other(torch.ones(2, 4)).mean().backward()
        optimizer.step()
    assert (kinds(seen), seen.end.totals["steps"]) == (told, {"0": 1})


def test_schedule_alone_is_no_training(watching, model):
    optimizer = SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        for _ in range(100):
            optimizer.step()
    (notice,) = seen.notices
    assert notice.startswith("Optimizers step, and no parameter of theirs has a gradient")
