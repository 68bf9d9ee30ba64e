"""The training loss of a step: the sum of what was given to `backward` since the gradients were last cleared."""

import contextlib
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from trimtab.capture import share
from trimtab.capture.attribution import STRAY_WALKS, WARM_UP_WALKS
from trimtab.capture.unannounced import ROUNDS_WITHOUT_STEP

pytestmark = pytest.mark.usefixtures("warmth")

STEPS = 4


@pytest.fixture
def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def losses_of(model, inputs, labels, parts=1):
    """One loss for each part of the batch."""
    return [F.cross_entropy(model(x), y) for x, y in zip(inputs.chunk(parts), labels.chunk(parts), strict=True)]


def norm_of(model):
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()


@pytest.fixture
def loop(watching, model, optimizer, inputs, labels):
    """Runs a few steps; `backwards(losses)` calls backward. Returns what was seen, and the sums of the losses."""

    def loop(backwards, *, parts=1, clear=lambda: optimizer.zero_grad()):
        expected = []
        with watching() as seen:
            for _ in range(STEPS):
                clear()
                losses = losses_of(model, inputs, labels, parts)
                expected.append(sum(loss.item() for loss in losses))
                backwards(losses)
                optimizer.step()
        return seen, pytest.approx(expected)

    return loop


def each(losses):
    for loss in losses:
        loss.backward()


def test_hand_written_loss_is_what_backward_is_called_on(watching, model, optimizer, inputs):
    with watching() as seen:
        loss = (model(inputs) ** 2).mean().sqrt()
        loss.backward()
        optimizer.step()
    assert seen.losses() == [pytest.approx(loss.item())]


def test_several_backwards_add_up(loop):
    seen, sums = loop(each, parts=3)
    assert seen.losses() == sums
    assert [step.micro_steps for step in seen.steps()] == [3] * STEPS


def test_accumulation_shows_the_objective_whose_gradient_is_applied(loop):
    seen, sums = loop(lambda losses: each([loss / 3 for loss in losses]), parts=3)
    assert [3 * loss for loss in seen.losses()] == sums


def test_list_given_to_autograd_backward_is_one_objective(loop):
    seen, sums = loop(lambda losses: torch.autograd.backward(losses), parts=2)
    assert seen.losses() == sums
    assert [step.micro_steps for step in seen.steps()] == [1] * STEPS


def test_retained_graph_counts_every_backward(loop):
    def twice(losses):
        losses[0].backward(retain_graph=True)
        losses[0].backward()

    seen, sums = loop(twice)
    assert [loss / 2 for loss in seen.losses()] == sums


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_graph_of_the_gradient_does_not_matter(loop):
    seen, sums = loop(lambda losses: losses[0].backward(create_graph=True))
    assert seen.losses() == sums


def test_gradient_argument_weighs_the_loss(loop):
    seen, sums = loop(lambda losses: losses[0].backward(gradient=torch.tensor(0.25)))
    assert [4 * loss for loss in seen.losses()] == sums


def test_vector_loss_is_weighed_by_its_gradient_argument(watching, model, optimizer, inputs, labels):
    weights = torch.linspace(0, 1, 6)
    with watching() as seen:
        losses = F.cross_entropy(model(inputs), labels, reduction="none")
        losses.backward(gradient=weights)
        optimizer.step()
    assert seen.losses() == [pytest.approx((losses * weights).sum().item())]


def test_loss_of_every_pixel_is_weighed_by_its_gradient_argument(watching, model, optimizer, inputs):
    with watching() as seen:
        losses = F.mse_loss(model(inputs), torch.zeros(6, 3), reduction="none")
        losses.backward(gradient=torch.ones_like(losses))
        optimizer.step()
    assert seen.losses() == [pytest.approx(losses.sum().item())]


def test_output_whose_gradient_comes_from_elsewhere_is_no_loss(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        for _ in range(STEPS):
            outputs = model(inputs)
            received = outputs.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(received, labels), received)
            outputs.backward(gradient)
            optimizer.step()
            optimizer.zero_grad()
    assert seen.losses() == [None] * STEPS
    assert all(step.gradient_norm for step in seen.steps())


@pytest.mark.parametrize("scale", [None, 0.5])
def test_loss_whose_hook_runs_the_backward_of_the_model_is_seen_at_once(watching, model, optimizer, inputs, scale):
    """As losses over large batches do, that hold few of its activations at once."""
    expected = []
    with watching() as seen:
        for _ in range(STEPS):
            with torch.no_grad():
                parts = [model(part) for part in inputs.chunk(2)]
            parts = [part.requires_grad_() for part in parts]
            embedded = torch.cat(parts)
            whole = F.cross_entropy(embedded @ embedded.T, torch.arange(6))
            whole.backward()
            loss = whole.detach().requires_grad_()

            def run(_, parts=parts):
                with torch.enable_grad():
                    for part, held in zip(inputs.chunk(2), parts, strict=True):
                        (model(part) * held.grad).sum().backward()

            loss.register_hook(run)
            loss = loss if scale is None else scale * loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            expected.append(loss.item())
    assert seen.losses() == pytest.approx(expected)


def test_backward_restricted_to_the_parameters_is_a_loss_of_their_optimizer(loop, model):
    seen, sums = loop(lambda losses: losses[0].backward(inputs=list(model.parameters())))
    assert seen.losses() == sums


TAKES_DICTIONARIES = "Mapping" in torch.autograd.backward.__code__.co_names  # PyTorch 2.13 and newer


@pytest.mark.parametrize("restricted", [lambda m: m.parameters(), lambda m: set(m.parameters())])
def test_parameters_that_backward_is_restricted_to_may_come_in_any_way(loop, model, restricted):
    seen, sums = loop(lambda losses: torch.autograd.backward(losses, inputs=restricted(model)))
    assert seen.losses() == sums


def test_losses_and_their_weights_that_can_be_gone_through_once_reach_backward_whole(loop, model):
    gradients = []

    def backwards(losses):
        torch.autograd.backward(iter(losses), (torch.tensor(1.0) for _ in losses))
        gradients.append(norm_of(model))

    seen, sums = loop(backwards, parts=2)
    assert seen.losses() == sums
    assert [step.gradient_norm for step in seen.steps()] == pytest.approx(gradients)


class Tagged(torch.Tensor):
    """A subclass, which torch asks what backward is to do."""


WAYS = [lambda loss: torch.autograd.backward(loss), lambda loss: loss.backward()]


@pytest.mark.parametrize("backward", WAYS)
def test_loss_of_a_subclass_counts_once(loop, backward):
    seen, sums = loop(lambda losses: backward(losses[0].as_subclass(Tagged)))
    assert seen.losses() == sums
    assert [step.micro_steps for step in seen.steps()] == [1] * STEPS


@pytest.mark.parametrize("backward", WAYS)
def test_loss_under_a_mode_counts_once(loop, backward):
    with torch.device("cpu"):
        seen, sums = loop(lambda losses: backward(losses[0]))
    assert seen.losses() == sums
    assert [step.micro_steps for step in seen.steps()] == [1] * STEPS


@pytest.mark.parametrize("weights", [[torch.tensor(1.0)], [torch.ones(2), torch.ones(2)]])
def test_call_of_backward_that_torch_refuses_is_no_fault_of_ours(watching, model, inputs, labels, weights):
    with watching() as seen, pytest.raises(RuntimeError):
        torch.autograd.backward(losses_of(model, inputs, labels, parts=3), weights)
    assert seen.end.totals["faults"] == {}


@pytest.mark.parametrize("kind", [list, iter, lambda given: dict(enumerate(given))])
def test_backward_restricted_to_something_else_is_no_loss(watching, model, optimizer, inputs, labels, kind):
    if not TAKES_DICTIONARIES and isinstance(kind([]), dict):
        pytest.skip("needs PyTorch 2.13, whose backward takes a dictionary of inputs")
    inputs.requires_grad_()
    losses = []
    with watching() as seen:
        for _ in range(STEPS):
            optimizer.zero_grad()
            (loss,) = losses_of(model, inputs, labels)
            loss.backward(inputs=kind([inputs]), retain_graph=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert seen.losses() == pytest.approx(losses)


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_clears_either_way(loop, optimizer, to_none):
    seen, sums = loop(each, parts=2, clear=lambda: optimizer.zero_grad(set_to_none=to_none))
    assert seen.losses() == sums


@pytest.mark.parametrize("through_data", [True, False])
def test_zeroing_gradients_by_hand_clears(loop, model, through_data):
    def clear():
        for p in model.parameters():
            if p.grad is not None:
                (p.grad.data if through_data else p.grad).zero_()

    seen, sums = loop(each, parts=2, clear=clear)
    assert seen.losses() == sums


def test_gradients_that_are_not_cleared_carry_their_losses_on(loop):
    seen, sums = loop(each, clear=lambda: None)
    totals = seen.losses()
    assert [b - a for a, b in zip([0, *totals], totals)] == sums  # noqa: B905


def test_losses_of_gradients_that_are_never_cleared_take_no_more_room(monkeypatch, watching, model, optimizer, inputs):
    monkeypatch.setattr(share, "UNCLEARED_LOSSES", 2)
    losses = []
    with watching() as seen:
        for _ in range(6):
            loss = model(inputs).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert len(seen.run._capture._attribution.shares[0].losses) <= 2
    assert seen.losses()[-1] == pytest.approx(sum(losses))


class Decaying(torch.optim.SGD):
    """Writes its weight decay into the gradients, as optimizers of old do."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.grad.add_(p, alpha=0.01)
        return super().step(closure)


def test_optimizer_that_writes_to_gradients_does_not_clear_them(watching, model, inputs, labels):
    optimizer, losses = Decaying(model.parameters(), lr=0.01), []
    with watching() as seen:
        for _ in range(STEPS):
            (loss,) = losses_of(model, inputs, labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert seen.losses() == pytest.approx([sum(losses[: index + 1]) for index in range(STEPS)])


def test_clearing_after_the_step_is_clearing(watching, model, optimizer, inputs, labels):
    expected = []
    with watching() as seen:
        for _ in range(STEPS):
            (loss,) = losses_of(model, inputs, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            expected.append(loss.item())
    assert seen.losses() == pytest.approx(expected)


def test_loss_changed_in_place_after_backward_is_shown_as_it_was(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        (loss,) = losses_of(model, inputs, labels)
        expected = loss.item()
        loss.backward()
        loss.detach().zero_()
        optimizer.step()
    assert seen.losses() == [pytest.approx(expected)]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_backward_counts_once(watching, model, optimizer, inputs, labels, reentrant):
    inputs.requires_grad_()
    expected = []
    with watching() as seen:
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = F.cross_entropy(checkpoint(model, inputs, use_reentrant=reentrant), labels)
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    assert seen.losses() == pytest.approx(expected)
    assert [step.micro_steps for step in seen.steps()] == [1] * STEPS


def test_backward_that_raises_is_no_loss(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        for _ in range(2):
            optimizer.zero_grad()
            (loss,) = losses_of(model, inputs, labels)
            loss.backward()
            with pytest.raises(RuntimeError, match="second time"):
                loss.backward()
            optimizer.step()
    assert [step.micro_steps for step in seen.steps()] == [1, 1]


def test_nan_is_shown_and_counted(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        (F.cross_entropy(model(inputs), labels) * torch.nan).backward()
        optimizer.step()
    (step,) = seen.steps()
    assert step.loss != step.loss
    assert step.gradient_norm != step.gradient_norm
    assert seen.end.totals["nonfinite"] == {"loss": 1, "gradient": 1}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_loss_of_another_dtype_is_its_value(watching, dtype):
    weight = torch.ones(3, dtype=dtype, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.125)
    with watching() as seen:
        weight.sum().backward()
        optimizer.step()
    assert seen.losses() == [3.0]


def test_complex_parameters_have_a_loss_and_a_gradient(watching):
    weight = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with watching() as seen:
        weight.abs().square().sum().backward()
        optimizer.step()
    assert seen.losses() == [2.0]
    assert seen.steps()[0].gradient_max_abs == 2.0


def test_samples_of_a_checkpointed_loss_count_once(watching, model, optimizer, inputs, labels):
    with watching(gradients_every=100) as seen:
        for _ in range(STEPS):
            optimizer.zero_grad()
            with set_checkpoint_early_stop(False):  # so that the loss itself is computed again, inside backward
                loss = checkpoint(lambda x: F.cross_entropy(model(x), labels), inputs, use_reentrant=False)
            loss.backward()
            optimizer.step()
    assert [step.samples for step in seen.steps()] == [6] * STEPS


def test_steps_after_which_gradients_are_set_to_none_have_their_loss_each(watching, model, optimizer, inputs, labels):
    expected = []
    with watching() as seen:
        for step in range(40):
            losses = losses_of(model, inputs, labels, 1 + step % 2)
            each(losses)
            optimizer.step()
            optimizer.zero_grad()
            expected.append(sum(loss.item() for loss in losses))
    assert seen.losses() == pytest.approx(expected)


def test_step_without_a_backward_has_no_loss(watching, model, optimizer, inputs, labels):
    with watching() as seen:
        for step in range(40):
            if step % 4 != 3:
                losses_of(model, inputs, labels)[0].backward()
            optimizer.step()
            optimizer.zero_grad()
    assert [loss is None for loss in seen.losses()] == [step % 4 == 3 for step in range(40)]


class Half:
    """A model in half precision, and the master weights in float32 that its optimizer steps on."""

    def __init__(self, model, flat):
        self.model = model.bfloat16()
        self.flat = flat
        parts = [p.detach().float() for p in model.parameters()]
        self.masters = [torch.nn.Parameter(part) for part in ([parameters_to_vector(parts)] if flat else parts)]
        self.optimizer = torch.optim.SGD(self.masters, lr=0.1)

    def loss(self, inputs, labels):
        return F.cross_entropy(self.model(inputs.bfloat16()).float(), labels)

    def step(self):
        gradients = [p.grad.float() for p in self.model.parameters()]
        if self.flat:
            gradients = [parameters_to_vector(gradients)]
        for master, gradient in zip(self.masters, gradients, strict=True):
            master.grad = gradient
        self.optimizer.step()
        with torch.no_grad():
            weights = torch.cat([master.reshape(-1) for master in self.masters])
            vector_to_parameters(weights.bfloat16(), self.model.parameters())


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_master_weights_have_the_losses_of_the_model_that_they_are_of(watching, model, inputs, labels, flat, in_place):
    half, expected = Half(model, flat), []
    with watching() as seen:
        for _ in range(2 * WARM_UP_WALKS + STRAY_WALKS):
            losses = [half.loss(inputs, labels) / 2 for _ in range(2)]
            for loss in losses:
                loss.backward()
            half.step()
            half.model.zero_grad(set_to_none=not in_place)
            expected.append(sum(loss.item() for loss in losses))
        half.model.eval()
        half.loss(inputs, labels)
    assert seen.losses() == pytest.approx(expected)
    assert {step.micro_steps for step in seen.steps()} == {2}
    assert len(seen.validations) == 1


def test_tensors_that_no_optimizer_has_are_let_go(watching, model):
    """Such as inputs whose gradient is asked for, to explain a prediction or to attack it."""
    kept = []
    with watching():
        for _ in range(WARM_UP_WALKS + STRAY_WALKS):
            explained = torch.randn(5, 4, requires_grad=True)
            model(explained).sum().backward()
            kept.append(weakref.ref(explained))
            del explained
        gc.collect()
        assert [known for known in kept if known() is not None] == []


def test_gradients_of_inputs_that_are_dropped_are_no_steps(watching, model):
    model.requires_grad_(False)
    with watching() as seen:
        for _ in range(2 * ROUNDS_WITHOUT_STEP):
            model(torch.randn(5, 4, requires_grad=True)).sum().backward()
    assert seen.steps() == []
    assert seen.losses() == []


def test_backward_that_raises_after_some_have_stepped_inside_of_it_is_a_step_without_a_loss(
    watching, model, inputs, labels
):
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    fails = False

    def step(parameter):
        if fails and parameter is model[0].weight:
            raise RuntimeError("not today")
        optimizers[parameter].step()
        parameter.grad = None

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    losses = []
    with watching() as seen:
        for index in range(4):
            fails = index == 1
            (loss,) = losses_of(model, inputs, labels)
            losses.append(None if fails else pytest.approx(loss.item()))
            with contextlib.suppress(RuntimeError):
                loss.backward()
            if fails:
                torch.ones(3, requires_grad=True).sum().backward()  # what comes next has no part in it
    assert seen.losses() == losses
