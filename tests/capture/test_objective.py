"""Which loss is plain, of which little is read."""

import weakref

import pytest
import torch

from trimtab.capture import objective
from trimtab.capture.losses import OwnLoss
from trimtab.capture.objective import DOUBTED_FOR, TRUSTED_AFTER, Objective

LOSS = OwnLoss("Own")


def returned(value=1.0):
    return torch.tensor(value, requires_grad=True) * 1


@pytest.fixture
def plain():
    """An objective of which the loss is plain."""
    found = Objective()
    train(found, TRUSTED_AFTER)
    assert found.plain is LOSS
    return found


def train(found, steps, more=0.0):
    for _ in range(steps):
        output = returned()
        found.called(LOSS, weakref.ref(output), output._version, is_mean=True)
        found.backward(output + more if more else output)
        found.learn(output + more if more else output)
        found.end_step()


def test_loss_is_plain_after_backwards_on_the_very_mean():
    found = Objective()
    train(found, TRUSTED_AFTER - 1)
    assert found.plain is None
    train(found, 1)
    assert found.plain is LOSS


def test_loss_is_doubted_for_long_after_a_backward_on_more(plain):
    train(plain, 1, more=1.0)
    assert plain.plain is None
    train(plain, DOUBTED_FOR - 1)
    assert plain.plain is None
    train(plain, 1)
    assert plain.plain is LOSS


def test_value_of_the_plain_loss_is_read_once(plain, monkeypatch):
    read = []
    monkeypatch.setattr(objective, "hold", lambda tensor: read.append(tensor) or tensor.item())
    output = returned(3.0)
    plain.called_plain(output, output._version)
    assert plain.value_of(output) == 3.0
    assert len(read) == 1


def test_value_that_was_changed_since_is_read_again(plain):
    output = returned(3.0)
    plain.called_plain(output, output._version)
    output *= 2
    assert plain.value_of(output) == 6.0


def test_value_of_anything_else_is_its_own(plain):
    output = returned(3.0)
    plain.called_plain(output, output._version)
    assert plain.value_of(output + 1) == 4.0


def test_the_mean_is_all_of_the_objective_in_the_first_backward_of_a_step_alone(plain):
    for is_all in (True, False):
        output = returned(2.0)
        plain.called_plain(output, output._version)
        assert plain.backward(output) is is_all
