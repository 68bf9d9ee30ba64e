"""Whether a backward that may still come needs the weights as they are."""

import gc

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trimtab.actuators import pending
from trimtab.actuators.pending import is_pending


def is_pending_on(tensors):
    return is_pending(tensors, gc.get_objects())


def tensors_of(model):
    return [*model.parameters(), *model.buffers()]


def two_layers():
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))


def test_a_graph_is_pending_until_its_backward():
    model = two_layers()
    assert not is_pending_on(tensors_of(model))
    loss = model(torch.ones(2, 3)).sum()
    assert is_pending_on(tensors_of(model))
    loss.backward()
    assert not is_pending_on(tensors_of(model))


def test_a_retained_graph_is_pending():
    model = two_layers()
    loss = model(torch.ones(2, 3)).sum()
    loss.backward(retain_graph=True)
    assert is_pending_on(tensors_of(model))
    del loss
    assert not is_pending_on(tensors_of(model))


def test_a_graph_whose_weights_have_changed_is_no_longer_pending():
    model = two_layers()
    forgotten = model(torch.ones(2, 3)).sum()
    torch.optim.SGD(model.parameters(), lr=0.1).step()  # without a gradient
    assert is_pending_on(tensors_of(model))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not is_pending_on(tensors_of(model))
    del forgotten


def test_a_view_whose_graph_torch_refuses_does_not_count():
    model, whole = two_layers(), torch.zeros(4)
    with torch.no_grad():
        part = whole[:2]
    whole.add_(model(torch.ones(2, 3)).sum())
    with pytest.raises(RuntimeError, match="A view was created in no_grad mode"):
        _ = part.grad_fn
    assert is_pending_on(tensors_of(model))
    assert not is_pending_on(tensors_of(two_layers()))


def test_a_graph_of_another_model_does_not_count():
    model, other = two_layers(), two_layers()
    pending = other(torch.ones(2, 3))
    assert not is_pending_on(tensors_of(model))
    del pending


def test_a_generated_batch_is_pending_while_the_discriminator_trains():
    generator, discriminator = two_layers(), two_layers()
    fake = generator(torch.ones(2, 3))
    discriminator(fake.detach()).sum().backward()
    assert is_pending_on(tensors_of(generator))
    assert not is_pending_on(tensors_of(discriminator))
    discriminator(fake).sum().backward()
    assert not is_pending_on(tensors_of(generator))


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, weight):
        ctx.save_for_backward(values, weight)
        return values * weight

    @staticmethod
    def backward(ctx, gradient):
        values, weight = ctx.saved_tensors
        return gradient * weight, gradient * values


def test_a_function_of_the_users_is_looked_into():
    weight = nn.Parameter(torch.ones(3))
    output = Scaled.apply(torch.ones(3), weight)
    assert is_pending_on([weight])
    output.sum().backward()
    assert not is_pending_on([weight])


def test_a_compiled_model_is_looked_into():
    model = two_layers()
    output = torch.compile(model, backend="aot_eager")(torch.ones(2, 3))
    assert is_pending_on(tensors_of(model))
    output.sum().backward()
    assert not is_pending_on(tensors_of(model))


def test_a_checkpointed_graph_is_pending_and_not_computed_anew():
    model, calls = two_layers(), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    output = checkpoint(model, torch.ones(2, 3), use_reentrant=False)
    assert is_pending_on(tensors_of(model))
    assert len(calls) == 1
    output.sum().backward()
    assert not is_pending_on(tensors_of(model))


def test_a_graph_is_pending_that_leads_to_the_weights_beside_what_is_checkpointed():
    model, weight = two_layers(), nn.Parameter(torch.ones(3))
    output = checkpoint(model, torch.ones(2, 3), use_reentrant=False) + weight
    assert is_pending_on([weight])
    output.sum().backward()
    assert not is_pending_on([weight])


def test_a_checkpointed_graph_of_another_model_does_not_count():
    model, other = two_layers(), two_layers()
    output = checkpoint(other, torch.ones(2, 3), use_reentrant=False)
    assert not is_pending_on(tensors_of(model))
    output.sum().backward()


def test_a_graph_that_is_too_large_to_be_walked_is_taken_to_be_pending(monkeypatch):
    model, other = two_layers(), two_layers()
    output = other(torch.ones(2, 3))
    assert not is_pending_on(tensors_of(model))
    monkeypatch.setattr(pending, "LIMIT_NODES", 2)
    assert is_pending_on(tensors_of(model))
    output.sum().backward()


class Batch(nn.Module):
    """Its running statistics are saved by a graph, and no version tells that they were written to since."""

    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(3), nn.Linear(3, 3)

    def forward(self, inputs):
        return self.last(self.norm(inputs))


def test_what_only_a_dead_end_leads_to_is_not_pending():
    """A batch that the generator made before its last step, and that the loop still holds: it can never run."""
    generator = Batch()
    forgotten = generator(torch.ones(4, 3))
    generator(torch.randn(4, 3)).sum().backward()
    assert is_pending_on(tensors_of(generator))
    torch.optim.SGD(generator.parameters(), lr=0.1).step()
    assert not is_pending_on(tensors_of(generator))
    del forgotten


def test_what_another_way_leads_to_is_pending_beneath_a_dead_end():
    model = two_layers()
    middle = model[:2](torch.ones(2, 3, requires_grad=True))
    dead = model[2](middle)
    with torch.no_grad():
        model[2].weight.add_(1.0)
    assert is_pending_on([model[0].weight])
    assert not is_pending_on([model[2].weight])
    del dead, middle
