"""A loss without grad of the very batch that is trained on: a look at it, and no validation."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.usefixtures("warmth")


@pytest.fixture
def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.fixture
def loader():
    """Of five batches, the last one of two samples."""
    return DataLoader(TensorDataset(torch.randn(18, 4), torch.randint(3, (18,))), 4, shuffle=True)


def _step(model, optimizer, inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()


def _look(model, inputs, labels):
    with torch.no_grad():
        F.cross_entropy(model(inputs), labels)


BEFORE = {"before": True, "after": False}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_look_at_the_batch_is_no_validation(watching, model, optimizer, loader, before, every):
    with watching() as seen:
        for _ in range(4):
            for number, batch in enumerate(loader):
                if before and number % every == 0:
                    _look(model, *batch)
                _step(model, optimizer, *batch)
                if not before and number % every == 0:
                    _look(model, *batch)
    assert not seen.validations
    assert [epoch.step for epoch in seen.epochs] == [5, 10, 15, 20]
    assert [epoch.train.samples for epoch in seen.epochs] == [18] * 4
    assert all(epoch.validation is None for epoch in seen.epochs)
    assert [step.samples for step in seen.steps()] == [4, 4, 4, 4, 2] * 4
    told = [notice for notice in seen.notices if "a look at that batch" in notice]
    assert len(told) == (not before)


def test_a_look_from_two_lines_is_none_either(watching, model, optimizer, loader):
    with watching() as seen:
        for _ in range(3):
            for batch in loader:
                _look(model, *batch)
                _look(model, *batch)
                _step(model, optimizer, *batch)
                _look(model, *batch)
                _look(model, *batch)
    assert not seen.validations


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_beside_looks_the_validation_is_seen(watching, model, optimizer, loader, before):
    other, expected = DataLoader(TensorDataset(torch.randn(6, 4), torch.randint(3, (6,))), 4), []
    with watching() as seen:
        for _ in range(3):
            for batch in loader:
                if before:
                    _look(model, *batch)
                _step(model, optimizer, *batch)
                if not before:
                    _look(model, *batch)
            with torch.no_grad():
                losses = [F.cross_entropy(model(inputs), labels, reduction="sum").item() for inputs, labels in other]
            expected.append(sum(losses) / 6)
    assert [validation.loss for validation in seen.validations] == pytest.approx(expected)
    assert [epoch.validation.samples for epoch in seen.epochs] == [6] * 3


def test_fixed_data_of_as_many_samples_is_a_validation_from_the_second_time_on(watching, model, optimizer, loader):
    inputs, labels = torch.randn(4, 4), torch.randint(3, (4,))
    with watching() as seen:
        for _ in range(3):
            for number, batch in enumerate(loader):
                _step(model, optimizer, *batch)
                if number == 2:
                    _look(model, inputs, labels)
    assert len(seen.validations) == 2


@pytest.mark.parametrize("samples", [3, 6])
def test_data_of_another_number_of_samples_is_a_validation(watching, model, optimizer, loader, samples):
    with watching() as seen:
        for _ in range(2):
            for number, batch in enumerate(loader):
                _step(model, optimizer, *batch)
                if number == 2:
                    _look(model, torch.randn(samples, 4), torch.randint(3, (samples,)))
    assert [validation.samples for validation in seen.validations] == [samples] * 2


def test_several_batches_amid_a_pass_are_a_validation(watching, model, optimizer, loader):
    with watching() as seen:
        for _ in range(2):
            for number, batch in enumerate(loader):
                _step(model, optimizer, *batch)
                if number == 2:
                    validated = [(torch.randn(4, 4), torch.randint(3, (4,))) for _ in range(3)]
                    for each in validated:
                        _look(model, *each)
    assert [validation.samples for validation in seen.validations] == [12] * 2


def test_tensors_of_a_batchs_size_after_the_loop_are_a_validation(watching, model, optimizer, loader):
    with watching() as seen:
        for _ in range(2):
            for batch in loader:
                _step(model, optimizer, *batch)
            _look(model, torch.randn(2, 4), torch.randint(3, (2,)))
    assert len(seen.validations) == 2
    assert [epoch.step for epoch in seen.epochs] == [5, 10]


@pytest.mark.parametrize("amid", [True, False])
def test_nothing_is_copied_for_the_sake_of_a_look(watching, model, optimizer, loader, amid):
    """As where a validation begins, after which the best state may be kept."""
    other, begun, epochs = DataLoader(TensorDataset(torch.randn(6, 4), torch.randint(3, (6,))), 4), [], []
    with watching() as seen:
        seen.run._capture._passes.on_validating = lambda: begun.append(len(epochs))
        for epoch in range(3):
            epochs.append(epoch)
            for number, batch in enumerate(loader):
                if amid and number > 0:
                    _look(model, *batch)
                _step(model, optimizer, *batch)
                if not amid:
                    _look(model, *batch)
            for batch in other:
                _look(model, *batch)
    assert begun == [1, 2, 3]
    assert len(seen.validations) == 3
