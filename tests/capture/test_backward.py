"""The loss of a step is the scalar whose gradient backward was asked for, however it was asked."""

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def step_of(watching, model):
    """`step_of(backward)` takes one watched step, and returns the loss that was seen."""

    def step_of(backward):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watching() as seen:
            backward()
            optimizer.step()
        (loss,) = seen.losses()
        return loss

    return step_of


def test_losses_that_are_given_together_are_summed(step_of, model, inputs, labels):
    losses = [F.cross_entropy(model(inputs), labels), model(inputs).square().mean()]
    seen = step_of(lambda: torch.autograd.backward(losses))
    assert seen == pytest.approx(sum(loss.item() for loss in losses))


def test_loss_is_weighed_by_the_gradient_that_is_given(step_of, model, inputs, labels):
    loss = F.cross_entropy(model(inputs), labels)
    assert step_of(lambda: loss.backward(torch.tensor(0.25))) == pytest.approx(loss.item() / 4)


def test_losses_of_samples_are_weighed_by_the_gradients_that_are_given(step_of, model, inputs, labels):
    losses, weights = F.cross_entropy(model(inputs), labels, reduction="none"), torch.linspace(0, 1, 6)
    assert step_of(lambda: losses.backward(weights)) == pytest.approx((losses * weights).sum().item())


def test_one_of_several_losses_may_be_weighed(step_of, model, inputs, labels):
    losses = [F.cross_entropy(model(inputs), labels), model(inputs).square().mean()]
    seen = step_of(lambda: torch.autograd.backward(losses, [torch.tensor(3.0), None]))
    assert seen == pytest.approx(3 * losses[0].item() + losses[1].item())


def test_outputs_whose_gradient_comes_from_elsewhere_are_no_loss(step_of, model, inputs):
    outputs = model(inputs)
    assert step_of(lambda: outputs.backward(torch.ones_like(outputs))) is None


def test_gradient_under_its_old_name_reaches_torch(watching, model, inputs):
    with watching(), pytest.warns(FutureWarning, match="grad_variables"):
        torch.autograd.backward(model(inputs).sum(), grad_variables=torch.tensor(0.25))
    assert torch.equal(model[2].bias.grad, torch.full((3,), 0.25 * len(inputs)))


def test_a_function_may_call_anything_its_variable(step_of, model, inputs, labels):
    class Kept(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            ctx.variable = "a text"
            return loss * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2

    loss = Kept.apply(F.cross_entropy(model(inputs), labels))
    assert step_of(loss.backward) == pytest.approx(loss.item())
