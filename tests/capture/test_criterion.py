"""The loss function's own mean, where backward is called now on it, now on something else."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytestmark = pytest.mark.usefixtures("warmth")


def validate(model, inputs, labels):
    with torch.no_grad():
        F.cross_entropy(model(inputs), labels)


@pytest.mark.parametrize("every", [2, 6])
def test_criterion_is_told_without_a_penalty_that_comes_now_and_then(watching, model, inputs, labels, every):
    optimizer, said = torch.optim.SGD(model.parameters(), lr=0.1), []
    with watching() as seen:
        for index in range(18):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            said.append(loss.item())
            if index % every == every - 1:
                loss = loss + model[0].weight.square().sum()
            loss.backward()
            optimizer.step()
        validate(model, inputs, labels)
    assert seen.epochs[0].train.criterion == pytest.approx(sum(said) / 18)


CHANGES = {
    "added in place": lambda loss, penalty: loss.add_(penalty),
    "divided in place": lambda loss, _: loss.div_(4),
    "added": lambda loss, penalty: loss + penalty,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_criterion_is_what_the_loss_function_returned_whatever_becomes_of_it(
    watching, model, inputs, labels, change, mode
):
    optimizer, said, objectives = torch.optim.SGD(model.parameters(), lr=0.1), [], []
    model.train(mode == "train")
    with watching() as seen:
        for _ in range(18):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            said.append(loss.item())
            loss = change(loss, model[0].weight.square().sum())
            objectives.append(loss.item())
            loss.backward()
            optimizer.step()
        validate(model, inputs, labels)
    assert seen.losses() == pytest.approx(objectives)
    train = seen.epochs[0].train
    assert (train.loss, train.criterion) == pytest.approx((sum(objectives) / 18, sum(said) / 18))
    assert train.samples == 18 * len(labels)


@pytest.mark.parametrize("change", [lambda loss: loss, lambda loss: loss / 4, lambda loss: loss.div_(4)])
def test_criterion_is_told_under_a_scaler_though_nobody_holds_it(watching, model, inputs, labels, change):
    optimizer, said = torch.optim.SGD(model.parameters(), lr=0.1), []
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with watching() as seen:
        for _ in range(8):
            optimizer.zero_grad()
            output = model(inputs)
            said.append(-output.log_softmax(1)[torch.arange(len(labels)), labels].mean().item())
            scaler.scale(change(F.cross_entropy(output, labels))).backward()
            scaler.step(optimizer)
            scaler.update()
        validate(model, inputs, labels)
    assert seen.epochs[0].train.criterion == pytest.approx(sum(said) / 8)


def test_criterion_is_told_without_a_penalty_that_is_added_in_place_now_and_then(watching, model, inputs, labels):
    optimizer, said, penalties = torch.optim.SGD(model.parameters(), lr=0.1), [], []
    with watching(gradients_every=1000) as seen:
        for index in range(420):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            said.append(loss.item())
            if index >= 200 and index % 20 == 0:
                penalties.append(model[0].weight.square().sum().item())
                loss += model[0].weight.square().sum()
            loss.backward()
            optimizer.step()
        validate(model, inputs, labels)
    found = seen.epochs[0].train.criterion
    assert found == pytest.approx(sum(said) / 420, abs=1.01 * max(penalties) / 420)  # the first one is not foreseen


@pytest.mark.parametrize("first_is_plain", [False, True])
def test_criterion_of_two_optimizers_that_take_turns_is_the_mean_of_their_own_calls(watching, first_is_plain):
    networks = [nn.Linear(4, 3), nn.Linear(4, 3)]
    optimizers, said = [torch.optim.SGD(network.parameters(), lr=0.1) for network in networks], []
    with watching() as seen:
        for index in range(12):
            is_plain = index % 2 != first_is_plain
            network, optimizer = networks[index % 2], optimizers[index % 2]
            optimizer.zero_grad()
            losses = [F.cross_entropy(network(torch.randn(6, 4)), torch.arange(6) % 3) for _ in range(2 - is_plain)]
            sum(losses[1:], losses[0]).backward()
            optimizer.step()
            said.append(sum(losses).item() / len(losses))
        validate(networks[0], torch.randn(6, 4), torch.arange(6) % 3)
    assert seen.epochs[0].train.criterion == pytest.approx(sum(said[::2]) / 6)


def test_loss_that_is_divided_in_place_before_its_backward_is_what_was_differentiated(watching, model, inputs, labels):
    optimizer, said = torch.optim.SGD(model.parameters(), lr=0.1), []
    with watching() as seen:
        for index in range(9):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            if index % 2:
                loss /= 4
            said.append(loss.item())
            loss.backward()
            optimizer.step()
    assert seen.losses() == said


def test_criterion_of_losses_that_are_summed_up_by_their_backwards_is_their_mean(watching, model):
    optimizer, said = torch.optim.SGD(model.parameters(), lr=0.1), []
    with watching() as seen:
        for index in range(12):
            loss = F.cross_entropy(model(torch.randn(6, 4)), torch.arange(6) % 3)
            loss.backward()
            said.append(loss.item())
            if index % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
        validate(model, torch.randn(6, 4), torch.arange(6) % 3)
    assert seen.losses() == [pytest.approx(sum(said[i : i + 3])) for i in range(0, 12, 3)]
    assert seen.epochs[0].train.criterion == pytest.approx(sum(said) / 12)


def test_sums_over_targets_of_which_some_are_ignored_weigh_as_many_as_count(watching, model, inputs, labels):
    """As of padded sentences: each epoch is the sum of all losses over all targets that are no padding."""
    optimizer, total, counted = torch.optim.SGD(model.parameters(), lr=0.1), 0.0, 0
    with watching() as seen:
        for index in range(18):
            targets = labels.clone()
            targets[: index % 6] = -100
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets, reduction="sum")
            total, counted = total + loss.item(), counted + (targets != -100).sum().item()
            loss.backward()
            optimizer.step()
        validate(model, inputs, labels)
    train = seen.epochs[0].train
    assert (train.loss, train.criterion) == pytest.approx((total / counted, total / counted))
    assert train.samples == 18 * len(labels)


def test_step_in_which_every_target_is_ignored_is_no_part_of_the_mean_of_sums(watching, model, inputs, labels):
    optimizer, total = torch.optim.SGD(model.parameters(), lr=0.0), 0.0
    with watching() as seen:
        for index in range(18):
            optimizer.zero_grad()
            targets = torch.full_like(labels, -100) if index % 3 == 1 else labels
            loss = F.cross_entropy(model(inputs), targets, reduction="sum")
            total += loss.item()
            loss.backward()
            optimizer.step()
        validate(model, inputs, labels)
    assert seen.epochs[0].train.loss == pytest.approx(total / 12 / len(labels))


def test_training_by_a_loss_written_by_hand_has_no_criterion(watching, model, inputs, labels):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        for _ in range(2):
            for _ in range(18):
                optimizer.zero_grad()
                (-model(inputs).log_softmax(1)[range(len(labels)), labels].sum()).backward()
                optimizer.step()
            validate(model, inputs, labels)
    assert [epoch.train.criterion for epoch in seen.epochs] == [None, None]
    assert all(epoch.train.loss and epoch.validation.criterion for epoch in seen.epochs)


def test_optimizer_of_which_no_step_brought_a_value_of_the_loss_function_has_no_criterion(watching, inputs, labels):
    """As in a VAE-GAN: one reconstruction error is a term of two objectives, and goes with the first step."""
    small, large = nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in (small, large)]
    with watching() as seen:
        for _ in range(18):
            for optimizer in optimizers:
                optimizer.zero_grad()
            error = F.cross_entropy(small(inputs) + large(inputs), labels)
            (error + small.weight.square().sum()).backward(retain_graph=True, inputs=list(small.parameters()))
            (error + large[0].weight.square().sum()).backward(inputs=list(large.parameters()))
            for optimizer in optimizers:
                optimizer.step()
        with torch.no_grad():
            F.cross_entropy(small(inputs) + large(inputs), labels)
    train = seen.epochs[0].train
    assert train.loss == pytest.approx(sum(seen.losses("1")) / 18)
    assert train.criterion is None
