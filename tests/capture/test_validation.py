import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.usefixtures("warmth")


def train_step(model, optimizer, inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()


@pytest.fixture
def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("without_grad", [torch.no_grad, torch.inference_mode])
def test_loss_without_grad_is_validation(watching, model, inputs, labels, without_grad):
    with watching() as seen, without_grad():
        loss = F.cross_entropy(model(inputs), labels).item()
    (validation,) = seen.validations
    assert validation.loss == pytest.approx(loss)
    assert validation.samples == 6


def test_loss_of_a_model_in_eval_mode_is_validation_though_grad_is_on(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        train_step(model, optimizer, inputs, labels)
        model.eval()
        loss = F.cross_entropy(model(inputs), labels).item()
    (validation,) = seen.validations
    assert validation.loss == pytest.approx(loss)
    assert len(seen.steps()) == 1


def test_validation_before_training_is_no_part_of_it_though_grad_is_on(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        model.eval()
        validated = [F.cross_entropy(model(part), labels[:3]).item() for part in inputs.split(3)]
        model.train()
        trained = F.cross_entropy(model(inputs), labels)
        (trained / 2).backward()
        optimizer.step()
        with torch.no_grad():
            F.cross_entropy(model(inputs), labels)
    assert seen.validations[0].loss == pytest.approx(sum(validated) / 2)
    (step,) = seen.steps()
    assert step.loss == pytest.approx(trained.item() / 2)
    assert step.samples == 6
    assert seen.epochs[0].train.criterion == pytest.approx(trained.item())


def test_model_that_is_evaluated_before_training_and_not_trained_is_not_asked(
    watching, model, optimizer, inputs, labels
):
    other = nn.Linear(4, 3).eval()
    with watching() as seen:
        F.cross_entropy(other(inputs), labels)
        for _ in range(6):
            train_step(model, optimizer, inputs, labels)
    assert len(seen.losses()) == 6
    assert all(step.samples == 6 for step in seen.steps())


class WithLoss(nn.Module):
    """A model and its loss in one module, as it is given to the optimizer."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs, labels):
        return F.cross_entropy(self.model(inputs), labels)


def test_loss_of_a_model_in_eval_mode_is_validation_though_what_wraps_it_is_not(watching, model, inputs, labels):
    wrapped = WithLoss(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    with watching() as seen:
        wrapped(inputs, labels).backward()
        optimizer.step()
        model.eval()
        loss = wrapped(inputs, labels).item()
    (validation,) = seen.validations
    assert validation.loss == pytest.approx(loss)


def test_training_in_eval_mode_is_training(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        model.eval()
        for _ in range(6):
            train_step(model, optimizer, inputs, labels)
    assert seen.validations == []
    assert len(seen.losses()) == 6
    assert seen.steps()[-1].samples == 6
    assert seen.steps()[-1].accuracy is not None


@pytest.mark.parametrize("validates", [False, True])
@pytest.mark.parametrize("calls", [2, 3])
@pytest.mark.parametrize("is_late", [False, True])
def test_training_in_eval_mode_by_several_calls_of_one_loss_is_training(watching, model, calls, validates, is_late):
    """Heads, or samples of a network: where batch norms are frozen, or nobody calls `train()` after validating."""
    inputs, labels = torch.randn(24, 4), torch.randint(3, (24,))
    optimizer, trained, validated = torch.optim.SGD(model.parameters(), lr=0.1), [], []
    model.train(is_late)
    with watching() as seen:
        for _ in range(3):
            losses = []
            for part, targets in DataLoader(TensorDataset(inputs, labels), 4):
                optimizer.zero_grad()
                loss = sum(F.cross_entropy(model(part) * scale, targets) for scale in range(1, calls + 1))
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            trained.append(sum(losses) / len(losses))
            model.eval()
            if validates:
                with torch.no_grad():
                    parts = DataLoader(TensorDataset(inputs[:6], labels[:6]), 3)
                    each = [F.cross_entropy(model(part), targets).item() for part, targets in parts]
                validated.append(sum(each) / len(each))
    assert [epoch.train.loss for epoch in seen.epochs] == pytest.approx(trained)
    assert [epoch.train.samples for epoch in seen.epochs] == [24] * 3
    assert [each.loss for each in seen.validations] == pytest.approx(validated)


def test_careless_validation_by_several_calls_for_each_batch_is_validation(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        for part, targets in DataLoader(TensorDataset(inputs, labels), 3):
            train_step(model, optimizer, part, targets)
        model.eval()
        found = []
        for part, targets in DataLoader(TensorDataset(inputs + 1, labels), 2):
            found += [F.cross_entropy(model(part) * scale, targets).item() for scale in (1, 2)]
        model.train()
        train_step(model, optimizer, inputs, labels)
    assert seen.validations[0].loss == pytest.approx(sum(found) / len(found))
    assert len(seen.steps()) == 3


def test_attack_in_eval_mode_is_no_validation(watching, model, optimizer, inputs, labels):
    """As in TRADES, which asks `torch.autograd.grad` for the gradient of the inputs."""
    with watching() as seen:
        for _ in range(3):
            model.eval()
            moved = inputs.clone()
            for _ in range(2):
                moved.requires_grad_()
                (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), labels), moved)
                moved = (moved + 0.1 * gradient.sign()).detach()
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(moved), labels).backward()
            optimizer.step()
    assert [step.samples for step in seen.steps()[1:]] == [len(inputs)] * 2  # the model is met at the first step
    assert seen.validations == []
    assert seen.epochs == []


def test_validation_loss_is_weighted_by_samples(watching, model, inputs, labels):
    with watching() as seen, torch.no_grad():
        whole = F.cross_entropy(model(inputs), labels).item()
    with watching() as seen, torch.no_grad():
        for part in (slice(0, 4), slice(4, 6)):
            F.cross_entropy(model(inputs[part]), labels[part])
    assert seen.validations[0].loss == pytest.approx(whole)
    assert seen.validations[0].steps == 2


def test_validation_with_reduction_sum_shows_the_mean(watching, model, inputs, labels):
    with watching() as seen, torch.no_grad():
        total = F.cross_entropy(model(inputs), labels, reduction="sum").item()
    assert seen.validations[0].loss == pytest.approx(total / 6)


def test_validation_accuracy_is_the_share_of_right_predictions(watching, inputs):
    labels = inputs.argmax(1)
    labels[0] = (labels[0] + 1) % 4
    with watching() as seen, torch.no_grad():
        nn.CrossEntropyLoss()(inputs, labels)
    assert seen.validations[0].accuracy == pytest.approx(5 / 6)


def test_loss_inside_of_a_reentrant_checkpoint_is_training(watching, model, optimizer, inputs, labels):
    def loss_of(inputs):
        return F.cross_entropy(model(inputs), labels)

    with watching() as seen:
        for _ in range(3):
            optimizer.zero_grad()
            loss = checkpoint(loss_of, inputs.clone().requires_grad_(), use_reentrant=True)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            validation = checkpoint(lambda x: F.cross_entropy(model(x), labels), inputs, use_reentrant=False).item()
    assert [step.loss for step in seen.validations] == [pytest.approx(validation)]
    assert seen.losses()[-1] == pytest.approx(loss.item())


def test_loss_function_that_training_does_not_use_is_no_validation(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        train_step(model, optimizer, inputs, labels)
        with torch.no_grad():
            F.l1_loss(model(inputs), torch.zeros(6, 3))
    assert seen.validations == []


def test_loss_function_that_training_does_not_use_is_none_of_its_own_though_validation_has_grad_on(
    watching, model, optimizer, inputs, labels
):
    with watching() as seen:
        for _ in range(2):
            model.train()
            for _ in range(2):
                optimizer.zero_grad()
                F.mse_loss(model(inputs), F.one_hot(labels, 3).float()).backward()
                optimizer.step()
            model.eval()
            F.cross_entropy(model(inputs), labels)
    assert seen.validations == []


def test_validation_with_grad_on_is_seen_beside_a_training_loss_that_is_written_by_hand(
    watching, model, optimizer, inputs, labels
):
    losses = []
    with watching() as seen:
        for _ in range(5):
            model.train()
            optimizer.zero_grad()
            (-model(inputs).log_softmax(1)[range(6), labels].mean()).backward()
            optimizer.step()
            model.eval()
            losses.append(F.cross_entropy(model(inputs), labels).item())
    assert [step.loss for step in seen.validations] == pytest.approx(losses)


def test_nan_in_validation_is_shown_and_counted(watching, model, inputs, labels):
    with watching() as seen, torch.no_grad():
        F.cross_entropy(model(inputs) * torch.nan, labels)
    assert seen.validations[0].loss != seen.validations[0].loss
    assert seen.end.totals["nonfinite"] == {"loss": 1}


def test_training_with_reduction_sum_compares_with_validation_as_means(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels, reduction="sum")
            loss.backward()
        optimizer.step()
        with torch.no_grad():
            F.cross_entropy(model(inputs), labels, reduction="sum")
    assert seen.losses() == [pytest.approx(loss.item())]
    assert seen.epochs[0].train.criterion == pytest.approx(loss.item() / 6)


def test_regularised_objective_keeps_the_criterion_comparable(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        for _ in range(3):
            criterion = F.cross_entropy(model(inputs), labels)
            objective = criterion + 0.1 * sum(p.square().sum() for p in model.parameters())
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
        with torch.no_grad():
            validation = F.cross_entropy(model(inputs), labels).item()
    (epoch,) = seen.epochs
    assert seen.losses()[-1] == pytest.approx(objective.item())
    assert epoch.train.criterion < epoch.train.loss
    assert epoch.validation.criterion == pytest.approx(validation)


def test_training_accuracy_is_taken_on_sampled_steps(watching, model, optimizer, inputs):
    with watching() as seen:
        optimizer.zero_grad()
        logits = model(inputs)
        labels = logits.argmax(1)
        labels[:3] = (labels[:3] + 1) % 3
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    assert seen.steps()[0].accuracy == 0.5


def test_training_accuracy_is_known_beside_an_attack_of_several_steps(watching, model, optimizer, inputs, labels):
    accuracies = []
    with watching(gradients_every=None) as seen:
        for _ in range(3):
            moved = inputs.clone()
            for _ in range(7):  # each eighth call is the first of an attack
                moved.requires_grad_()
                F.cross_entropy(model(moved), labels).backward()
                moved = (moved + 0.5 * moved.grad.sign()).detach()
            optimizer.zero_grad()
            logits = model(moved)
            F.cross_entropy(logits, labels).backward()
            optimizer.step()
            accuracies.append((logits.argmax(1) == labels).float().mean().item())
    assert [step.accuracy for step in seen.steps()] == pytest.approx(accuracies)


@pytest.mark.parametrize("by_name", [False, True])
def test_own_criterion_is_taken_when_it_is_named(watching, model, inputs, by_name):
    class Own(nn.Module):
        def forward(self, output, target):
            return (output - target).abs().pow(1.5).mean()

    criterion = Own()
    with watching() as seen:
        seen.run.attach(criterion=criterion)
        with torch.no_grad():
            output, target = model(inputs), torch.zeros(6, 3)
            loss = criterion(output=output, target=target) if by_name else criterion(output, target)
    assert seen.validations[0].loss == pytest.approx(loss.item())
    assert not {**criterion._forward_hooks, **criterion._forward_hooks_with_kwargs}


class Several(nn.Module):
    """A loss of which more is asked than the mean."""

    def __init__(self, several):
        super().__init__()
        self.several = several

    def forward(self, output, target):
        return self.several((output - target).abs().pow(1.5).mean(1))


SEVERAL = {
    "mean and count": (lambda each: (each.mean(), len(each)), True),
    "mean and each": (lambda each: [each.mean(), each], True),
    "count and mean": (lambda each: (torch.tensor(len(each)), each.mean(), {}), True),
    "two means": (lambda each: (each.mean(), each.sum()), False),
    "each": (lambda each: each, False),
    "names": (lambda each: {"loss": each.mean()}, False),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_own_criterion_is_taken_or_said_to_be_none_where_it_returns_more_than_a_mean(watching, model, inputs, case):
    several, is_taken = SEVERAL[case]
    criterion, optimizer = Several(several), torch.optim.SGD(model.parameters(), lr=0.1)
    batches, targets, means = DataLoader(TensorDataset(inputs), batch_size=4), torch.zeros(4, 3), []
    with watching() as seen:
        seen.run.attach(criterion=criterion)
        for _ in range(3):
            for (batch,) in batches:
                optimizer.zero_grad()
                criterion(model(batch), targets[: len(batch)])
                (model(batch) - targets[: len(batch)]).abs().pow(1.5).mean().backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                for (batch,) in DataLoader(TensorDataset(inputs.clone()), batch_size=4):
                    criterion(model(batch), targets[: len(batch)])
                means.append((model(inputs) - torch.zeros(6, 3)).abs().pow(1.5).mean().item())
            model.train()
    assert [validation.loss for validation in seen.validations] == (pytest.approx(means) if is_taken else [])
    assert [notice[:44] for notice in seen.notices] == ["Calls of the criterion Several, which was at"] * (not is_taken)


def test_validation_batch_in_which_nothing_counts_adds_nothing(watching, model, inputs, labels):
    with watching() as seen, torch.no_grad():
        losses = [F.cross_entropy(model(inputs), targets).item() for targets in (labels, torch.full((6,), -100))]
    assert seen.validations[0].loss == pytest.approx(losses[0])


def test_training_batch_in_which_nothing_counts_does_not_spoil_the_epoch(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        for targets in (labels, torch.full((6,), -100), labels):
            for _ in range(2):
                F.cross_entropy(model(inputs), targets, reduction="sum").backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            F.cross_entropy(model(inputs), labels)
    assert seen.epochs[0].train.criterion > 0


def regularised(model, inputs, labels):
    outputs = model(inputs)
    distilled = F.kl_div(outputs.log_softmax(1), torch.full_like(outputs, 1 / 3), reduction="batchmean")
    return distilled + F.cross_entropy(outputs, labels)


def test_loss_that_training_calls_second_is_the_validation_where_it_alone_is_called(
    watching, model, optimizer, inputs, labels
):
    with watching() as seen:
        optimizer.zero_grad()
        regularised(model, inputs, labels).backward()
        optimizer.step()
        with torch.no_grad():
            loss = F.cross_entropy(model(inputs), labels).item()
    (validation,) = seen.validations
    assert validation.loss == pytest.approx(loss)
    assert validation.accuracy is not None


def test_training_is_compared_by_the_loss_that_knows_classes(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        expected = F.cross_entropy(model(inputs), labels).item()
        optimizer.zero_grad()
        regularised(model, inputs, labels).backward()
        optimizer.step()
        with torch.no_grad():
            regularised(model, inputs, labels)
    loss = -model(inputs).log_softmax(1)[range(6), labels].mean().item()
    (epoch,) = seen.epochs
    assert epoch.train.criterion == pytest.approx(expected)
    assert epoch.validation.loss == pytest.approx(loss)


def test_second_stage_is_validated_by_its_own_loss(watching, model, optimizer, inputs, labels):
    losses = [
        lambda: F.cross_entropy(model(inputs), labels),
        lambda: F.mse_loss(model(inputs), torch.zeros(6, 3)),
    ]
    expected = []
    with watching() as seen:
        for loss in losses:
            for _ in range(2):
                optimizer.zero_grad()
                loss().backward()
                optimizer.step()
                with torch.no_grad():
                    expected.append(loss().item())
    assert [step.loss for step in seen.validations] == pytest.approx(expected)


def test_samples_of_validation_are_counted_whichever_loss_is_called_first(watching, model, optimizer, inputs, labels):
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=4)
    with watching() as seen:
        optimizer.zero_grad()
        regularised(model, inputs, labels).backward()
        optimizer.step()
        with torch.no_grad():
            for x, y in loader:
                regularised(model, x, y)
    (epoch,) = seen.epochs
    assert epoch.validation.samples == 6


def test_second_stage_has_its_accuracy_from_its_first_step(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        for loss in (
            lambda: F.mse_loss(model(inputs), torch.zeros(6, 3)),
            lambda: F.cross_entropy(model(inputs), labels),
        ):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
            with torch.no_grad():
                loss()
    assert [step.accuracy is None for step in seen.steps()] == [True, False]


def test_built_in_called_with_named_arguments_is_nobodys_fault(watching, model, inputs):
    targets = torch.zeros(6, 3)
    with watching() as seen, torch.no_grad():
        torch.kl_div(model(inputs), targets, reduction=2)
        torch.binary_cross_entropy_with_logits(input=model(inputs), target=targets)
    assert seen.validations == []
