"""Steps whose loss nobody calls `backward` on."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

from trimtab.types import Notice


def by_func(model, inputs, labels):
    """The mean of each sample's own gradient."""

    def loss_of(weights, sample, label):
        return F.cross_entropy(functional_call(model, weights, (sample[None],)), label[None])

    weights = {name: p.detach() for name, p in model.named_parameters()}
    each = vmap(grad(loss_of), (None, 0, 0))(weights, inputs, labels)
    for name, p in model.named_parameters():
        p.grad = each[name].mean(0)


def by_autograd_grad(model, inputs, labels):
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(model(inputs), labels), parameters)
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient


def by_backward(model, inputs, labels):
    model.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()


CASES = [
    ([by_func] * 20, False, 1),
    ([by_autograd_grad] * 50, False, 1),
    ([by_func] * 19, False, 0),
    ([by_func] * 20, True, 0),
    ([by_backward] + [by_func] * 30, False, 0),
    ([by_backward] * 20, False, 0),
]


@pytest.mark.parametrize(("ways", "logs", "told"), CASES)
def test_steps_without_a_loss_are_said_to_be_so_once(watching, model, ways, logs, told):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        if logs:
            seen.run.log(loss=1.0)
        for way in ways:
            way(model, torch.randn(8, 4), torch.randint(3, (8,)))
            optimizer.step()
    assert [notice.kind for notice in seen.backend.of(Notice)].count("loss_unseen") == told
    assert sum(step.steps for step in seen.steps()) == len(ways)
