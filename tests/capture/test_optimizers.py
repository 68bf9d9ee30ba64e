"""One real step is one step, whatever the optimizer does with its hooks."""

import contextlib
import gc
import threading
import types
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from trimtab import searches
from trimtab.capture import attribution, optimizers
from trimtab.testing import RecordingBackend
from trimtab.types import Step

pytestmark = pytest.mark.usefixtures("warmth")


@pytest.fixture
def fit(model, inputs, labels):
    """Closes over model and data: `fit(optimizer)` clears, computes, goes backward, and returns the loss."""

    def fit(optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    return fit


def norm_of(model):
    return nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()


class Twice(torch.optim.SGD):
    """Calls its parent's step, whose hooks fire as well once the parent was built by itself."""

    def step(self, closure=None):
        return super().step(closure)


class Lookahead(torch.optim.Optimizer):
    """Wraps another optimizer, as Lookahead and many others do."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure=None):
        return self.inner.step(closure)


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimisation: climbs, evaluates again, descends by its base optimizer."""

    def __init__(self, parameters, base):
        super().__init__(parameters, {"rho": 0.05})
        self.base = base

    @torch.no_grad()
    def step(self, closure):
        parameters = self.param_groups[0]["params"]
        closure = torch.enable_grad()(closure)
        closure()
        climbs = [0.05 * p.grad / norm_like(parameters) for p in parameters]
        for p, climb in zip(parameters, climbs, strict=True):
            p.add_(climb)
        closure()
        for p, climb in zip(parameters, climbs, strict=True):
            p.sub_(climb)
        self.base.step()


def norm_like(parameters):
    return nn.utils.get_total_norm([p.grad for p in parameters])


class Unhooked:
    """Looks like an optimizer, and is none of torch's."""

    def __init__(self, parameters, lr):
        self.parameters, self.lr = list(parameters), lr

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self):
        for p in self.parameters:
            p.sub_(self.lr * p.grad)


def test_subclass_that_calls_its_parent_steps_once(watching, model, fit):
    torch.optim.SGD(model.parameters(), lr=1.0)  # from now on the parent's step has hooks
    optimizer = Twice(model.parameters(), lr=0.1)
    with watching() as seen:
        losses = [fit_and_step(fit, optimizer) for _ in range(3)]
    assert seen.losses() == pytest.approx(losses)


def fit_and_step(fit, optimizer):
    loss = fit(optimizer).item()
    optimizer.step()
    return loss


def test_wrapping_optimizer_steps_once(watching, model, fit):
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1))
    with watching() as seen:
        losses = [fit_and_step(fit, optimizer) for _ in range(3)]
    assert seen.optimizers == ["0"]
    assert seen.losses() == pytest.approx(losses)


def test_sam_shows_the_first_evaluation(watching, model, fit):
    optimizer = Sam(model.parameters(), torch.optim.SGD(model.parameters(), lr=0.1))
    first = []

    def closure():
        loss = fit(optimizer)
        first.append((loss.item(), norm_of(model)))
        return loss

    with watching() as seen:
        for _ in range(3):
            optimizer.step(closure)
    assert seen.losses() == pytest.approx([loss for loss, _ in first[::2]])
    assert [step.gradient_norm for step in seen.steps()] == pytest.approx([norm for _, norm in first[::2]])


@pytest.mark.parametrize("by_name", [True, False])
def test_lbfgs_shows_loss_and_gradient_of_its_first_evaluation(watching, model, fit, by_name):
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    evaluations = []

    def closure():
        loss = fit(optimizer)
        evaluations.append((loss.item(), norm_of(model)))
        return loss

    with watching() as seen:
        firsts = []
        for _ in range(2):
            firsts.append(len(evaluations))
            optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    assert len(evaluations) > 4
    assert seen.losses() == pytest.approx([evaluations[i][0] for i in firsts])
    assert [step.gradient_norm for step in seen.steps()] == pytest.approx([evaluations[i][1] for i in firsts])


def test_closure_returns_what_the_users_returns(watching, model, fit):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching():
        returned = optimizer.step(lambda: fit(optimizer))
    assert isinstance(returned, torch.Tensor)


class LineSearch(torch.optim.SGD):
    """Tells its closure whether the gradient is wanted, as some do."""

    def step(self, closure):
        loss = closure(backward=True)
        super().step()
        closure(backward=False)
        return loss


def test_closure_takes_what_the_optimizer_gives_it(watching, model, inputs, labels):
    optimizer = LineSearch(model.parameters(), lr=0.1)

    def closure(*, backward):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        if backward:
            loss.backward()
        return loss

    with watching() as seen:
        losses = [optimizer.step(closure).item() for _ in range(3)]
    assert seen.losses() == pytest.approx(losses)


class Layerwise(torch.optim.SGD):
    """Is given the model at each step, and looks into it."""

    def step(self, model):
        assert isinstance(model, nn.Module)
        return super().step()


def test_module_that_is_given_to_step_is_no_closure(watching, model, fit):
    optimizer = Layerwise(model.parameters(), lr=0.1)
    losses, norms = [], []
    with watching() as seen:
        for _ in range(3):
            losses.append(fit(optimizer).item())
            norms.append(norm_of(model))
            optimizer.step(model)
    assert seen.losses() == pytest.approx(losses)
    assert [step.gradient_norm for step in seen.steps()] == pytest.approx(norms)


class Moody(torch.optim.SGD):
    """Raises when it is told to. Its pre-hooks have fired by then."""

    fails = False

    def step(self, closure=None):
        if self.fails:
            raise RuntimeError("not today")
        return super().step(closure)


@pytest.fixture
def moody(model):
    return Moody(model.parameters(), lr=0.1)


def fail(optimizer):
    optimizer.fails = True
    with pytest.raises(RuntimeError, match="not today"):
        optimizer.step()
    optimizer.fails = False


def test_steps_go_on_after_one_that_raised(watching, moody, fit):
    with watching() as seen:
        fit(moody)
        fail(moody)
        losses = [fit_and_step(fit, moody) for _ in range(3)]
    assert seen.losses() == pytest.approx(losses)


def test_step_that_raised_is_not_taken_for_whatever_frame_has_its_id_now(
    watching, model, inputs, moody, fit, monkeypatch
):
    seven = lambda thing: 7 if isinstance(thing, types.FrameType) else id(thing)  # noqa: E731
    monkeypatch.setattr(optimizers, "id", seven, raising=False)
    with watching() as seen:
        fit(moody)
        fail(moody)
        inputs.mul_(2.0)
        losses, norms = [], []
        for _ in range(3):
            losses.append(fit(moody).item())
            norms.append(norm_of(model))
            moody.step()
    assert seen.losses() == pytest.approx(losses)
    assert [step.gradient_norm for step in seen.steps()] == pytest.approx(norms)


@pytest.mark.parametrize("every", [1, 2])
def test_gradient_of_a_step_that_raised_has_no_part_in_the_next(watching, model, moody, fit, every):
    with watching(gradients_every=every) as seen:
        for _ in range(2):
            fit_and_step(fit, moody)
        fit(moody)
        for p in model.parameters():
            p.grad *= 100.0
        fail(moody)
        fit(moody)
        norm = norm_of(model)
        moody.step()
        for _ in range(2):
            fit_and_step(fit, moody)
    assert seen.steps()[2].gradient_norm == pytest.approx(norm)
    sampled = [index for index, step in enumerate(seen.steps()) if step.gradient_norm is not None]
    assert sampled == list(range(0, 5, every))


def test_what_a_step_that_raised_had_in_hand_is_let_go(watching, model, moody, inputs, labels):
    kept = []

    def step():
        hidden = model(inputs)
        kept.append(weakref.ref(hidden))
        F.cross_entropy(hidden, labels).backward()
        moody.step()

    with watching():
        moody.fails = True
        with contextlib.suppress(RuntimeError):
            step()
        gc.collect()
        assert kept[0]() is None


def test_gradient_is_the_one_that_the_users_own_hook_leaves(watching, model, fit):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(model.parameters(), 0.01) and None)
    with watching() as seen:
        fit_and_step(fit, optimizer)
    assert seen.steps()[0].gradient_norm == pytest.approx(0.01, rel=1e-4)
    assert seen.steps()[0].gradient_preclip_norm > 0.01
    assert len(optimizer._optimizer_step_pre_hooks) == 1


def test_hook_that_the_user_adds_later_is_still_before_ours(watching, model, fit):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: None)
    with watching() as seen:
        fit_and_step(fit, optimizer)
        optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(model.parameters(), 0.01) and None)
        fit_and_step(fit, optimizer)
    assert seen.steps()[1].gradient_norm == pytest.approx(0.01, rel=1e-4)


def test_users_hook_may_be_removed_in_the_middle(watching, model, fit):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = optimizer.register_step_pre_hook(lambda *_: None)
    with watching() as seen:
        fit_and_step(fit, optimizer)
        handle.remove()
        fit_and_step(fit, optimizer)
        fit_and_step(fit, optimizer)
        assert not optimizer._optimizer_step_pre_hooks
    assert len(seen.steps()) == 3


def test_rate_is_the_one_that_was_used_though_a_hook_steps_the_scheduler(watching, model, fit):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    with watching() as seen:
        for _ in range(3):
            fit_and_step(fit, optimizer)
    assert [step.learning_rate for step in seen.steps()] == [[0.1], [0.05], [0.025]]


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}, {"differentiable": False}])
def test_every_implementation_of_an_optimizer_is_seen(watching, model, fit, options):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, **options)
    with watching() as seen:
        losses = [fit_and_step(fit, optimizer) for _ in range(3)]
    assert seen.losses() == pytest.approx(losses)
    assert seen.steps()[-1].weight_decay == [0.01]


def test_rate_in_a_tensor_is_its_value(watching, model, fit):
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.25), foreach=False)
    with watching() as seen:
        fit_and_step(fit, optimizer)
        optimizer.param_groups[0]["lr"].mul_(0.5)
        fit_and_step(fit, optimizer)
    assert [step.learning_rate for step in seen.steps()] == [[0.25], [0.125]]
    assert all(type(rate) is float for step in seen.steps() for rate in step.learning_rate)


def test_rate_that_is_none_stays_none(watching, model, fit):
    class Relative(torch.optim.SGD):
        def step(self, closure=None):
            self.param_groups[0]["lr"] = 0.1
            super().step(closure)
            self.param_groups[0]["lr"] = None

    optimizer = Relative(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = None
    with watching() as seen:
        fit_and_step(fit, optimizer)
    assert seen.steps()[0].learning_rate == [None]


def test_every_group_has_its_rate(watching, model, fit):
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, weight_decay=0.01)
    with watching() as seen:
        fit_and_step(fit, optimizer)
    assert seen.steps()[0].learning_rate == [0.1, 0.2]
    assert seen.steps()[0].weight_decay == [0.01, 0.01]


def test_group_added_midway_is_measured(watching, model, fit):
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with watching() as seen:
        fit_and_step(fit, optimizer)
        optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.3})
        fit(optimizer)
        norm = norm_of(model)
        optimizer.step()
    assert list(seen.steps()[0].layers) == ["2.weight", "2.bias"]
    assert list(seen.steps()[1].layers) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert seen.steps()[1].gradient_norm == pytest.approx(norm)
    assert seen.steps()[1].learning_rate == [0.1, 0.3]


def test_layer_frozen_and_unfrozen_goes_and_comes(watching, model, fit):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    shown = []
    with watching() as seen:
        for trained in (False, True, False):
            model[0].requires_grad_(trained)
            fit_and_step(fit, optimizer)
    shown = [len(step.layers) for step in seen.steps()]
    assert shown == [2, 4, 2]


@pytest.fixture
def in_backward(model):
    """Every parameter has an optimizer of its own, which steps as soon as its gradient is there."""
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def step(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    handles = [p.register_post_accumulate_grad_hook(step) for p in model.parameters()]
    yield
    for handle in handles:
        handle.remove()


def test_optimizers_inside_backward_are_one(watching, model, inputs, labels, in_backward):
    losses = []
    with watching() as seen:
        for _ in range(4):
            loss = F.cross_entropy(model(inputs), labels)
            losses.append(loss.item())
            loss.backward()
    assert seen.optimizers == ["0"]
    assert seen.losses() == pytest.approx(losses)
    assert list(seen.steps()[0].layers) == [name for name, _ in model.named_parameters()]
    assert seen.steps()[0].learning_rate == [0.1]


def test_optimizers_inside_backward_have_the_norm_of_all_of_them(watching, model, inputs, labels, in_backward):
    gradients = torch.autograd.grad(F.cross_entropy(model(inputs), labels), list(model.parameters()))
    with watching() as seen:
        F.cross_entropy(model(inputs), labels).backward()
    assert seen.steps()[0].gradient_norm == pytest.approx(nn.utils.get_total_norm(gradients).item())


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("alone_before", [0, 3, 30])
def test_optimizer_beside_those_inside_backward_has_its_own_steps_and_losses(
    watching, model, inputs, labels, alone_before, set_to_none
):
    """Before the others begin all steps are its own: after 30 of those they find it on its shortest way."""
    ahead = {p: torch.optim.SGD([p], lr=0.1) for p in model[0].parameters()}
    optimizer, losses = torch.optim.SGD(model[2].parameters(), lr=0.2), []

    def step(parameter):
        if len(losses) > alone_before:
            ahead[parameter].step()
            ahead[parameter].zero_grad()

    handles = [p.register_post_accumulate_grad_hook(step) for p in model[0].parameters()]
    with watching(gradients_every=64) as seen:
        for _ in range(alone_before + 40):
            optimizer.zero_grad(set_to_none)
            loss = F.cross_entropy(model(inputs), labels)
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
    for handle in handles:
        handle.remove()
    beside, inside = sorted(seen.optimizers, key=lambda of: seen.steps(of)[0].learning_rate, reverse=True)
    assert seen.losses(inside) == pytest.approx(losses[alone_before:])
    assert len(seen.losses(beside)) == len(losses)
    assert seen.losses(beside)[1:] == pytest.approx(losses[1:])


def test_parameters_that_were_updated_by_hand_are_let_go_when_an_optimizer_steps(watching, model, inputs, labels, fit):
    parameters = [torch.randn(4, 3, requires_grad=True)]
    with watching() as seen:
        for _ in range(6):
            F.cross_entropy(inputs @ parameters[0], labels).backward()
            with torch.no_grad():
                parameters[0] -= 0.1 * parameters[0].grad
                parameters[0].grad = None
        kept = weakref.ref(parameters.pop())
        fit_and_step(fit, torch.optim.SGD(model.parameters(), lr=0.1))
        gc.collect()
        assert kept() is None
    assert seen.end.totals["steps"] == {"0": 7}


@pytest.mark.parametrize("is_by_hand", [True, False])
def test_steps_without_hooks_are_told_by_cleared_gradients(watching, model, fit, is_by_hand):
    optimizer = Unhooked(model.parameters(), lr=0.1)
    losses = []
    with watching() as seen:
        for _ in range(6):
            losses.append(fit(optimizer).item())
            if is_by_hand:
                with torch.no_grad():
                    for p in model.parameters():
                        p -= 0.1 * p.grad
            else:
                optimizer.step()
    assert seen.end.totals["steps"] == {"0": 6}
    assert sum(step.loss * step.steps for step in seen.steps()) == pytest.approx(sum(losses))
    assert {step.learning_rate for step in seen.steps()} == {None}
    assert len([notice for notice in seen.notices if "No optimizer step is seen" in notice]) == 1


def let_go(parameter):
    parameter.grad = None


def zero(parameter):
    parameter.grad.zero_()


def by_hand(model, inputs, labels, rounds, clear=let_go):
    """Trains a few rounds, and gives the losses."""
    losses = []
    for _ in range(rounds):
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
                clear(p)
    return losses


@pytest.mark.parametrize("clear", [let_go, zero, lambda p: p.grad.data.zero_()])
@pytest.mark.parametrize("is_kept", [False, True])
def test_models_that_are_trained_by_hand_one_after_the_other_are_seen_each(watching, inputs, labels, clear, is_kept):
    kept = []
    with watching() as seen:
        losses = []
        for _ in range(3):
            model = nn.Linear(4, 3)
            losses += by_hand(model, inputs, labels, 6, clear)
            if is_kept:
                kept.append(model)
        assert len(seen.run._capture._attribution.shares) == 1
    assert seen.end.totals["steps"] == {"0": 18}
    assert seen.end.totals["samples"] == 18 * 6
    assert sum(step.loss * step.steps for step in seen.steps()) == pytest.approx(sum(losses))
    assert len([notice for notice in seen.notices if "No optimizer step is seen" in notice]) == 1


def test_models_trained_by_hand_one_after_the_other_are_not_searched_for_everywhere_all_the_time(
    watching, inputs, labels, monkeypatch
):
    everywhere = []

    def get_objects(generation=None, search=gc.get_objects):
        everywhere.append(generation is None)
        return search(generation)

    monkeypatch.setattr(searches, "FREE_S", 0.0)
    monkeypatch.setattr(searches, "SHARE", 0.0)
    monkeypatch.setattr(gc, "get_objects", get_objects)
    with watching() as seen:
        for _ in range(12):
            by_hand(nn.Linear(4, 3), inputs, labels, 6)
    assert sum(everywhere) <= searches.FIRST + 2  # averages are searched for as well
    assert seen.end.totals["steps"] == {"0": 12 * 6}


def test_optimizers_that_were_found_once_are_known_to_where_searches_are_dear(watching, inputs, labels, monkeypatch):
    monkeypatch.setattr(searches, "FIRST", 3)  # for two models, and an optimizer
    monkeypatch.setattr(searches, "FREE_S", 0.0)
    monkeypatch.setattr(searches, "SHARE", 0.0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gc.collect()
    with watching() as seen:
        by_hand(nn.Linear(4, 3), inputs, labels, 6)
        for _ in range(6):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert seen.end.totals["steps"] == {"0": 6 + 1}


def test_average_of_a_model_that_is_trained_by_hand_is_its_own(watching, inputs, labels):
    with watching() as seen:
        by_hand(nn.Linear(4, 3), inputs, labels, 6)
        (first, *_) = by_hand(nn.Linear(4, 3), inputs, labels, 4)
    (joined,) = [step for step in seen.steps() if step.step == 6 + 4]
    assert joined.loss_ema == pytest.approx(first, rel=0.01)


def test_models_that_are_updated_by_hand_in_turns_are_one_training(watching, model, inputs, labels):
    other = nn.Linear(4, 3)
    with watching() as seen:
        for _ in range(8):
            by_hand(model, inputs, labels, 1)
            by_hand(other, inputs, labels, 2)
    steps = seen.end.totals["steps"]["0"]
    assert steps >= 8
    assert seen.end.totals["samples"] == 6 * 3 * 8


def test_gradients_of_parameters_updated_by_hand_are_measured_after_clipping(watching, model, fit):
    norms = []
    with watching() as seen:
        for _ in range(8):
            fit(torch.optim.SGD(model.parameters(), lr=0.1))  # which only clears
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
    measured = [step.gradient_norm for step in seen.steps() if step.gradient_norm is not None]
    assert len(measured) >= 4
    assert measured == pytest.approx(norms[-len(measured) :])


def test_steps_without_hooks_are_told_though_clipped_gradients_are_zeroed_in_place(watching, model, inputs, labels):
    losses = []
    with watching() as seen:
        for _ in range(8):
            loss = F.cross_entropy(model(inputs), labels)
            losses.append(loss.item())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
                    p.grad.zero_()
    assert seen.end.totals["steps"] == {"0": 8}
    assert sum(step.loss * step.steps for step in seen.steps()) == pytest.approx(sum(losses))


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("clips", [lambda index: False, lambda index: index < 4], ids=["never", "at first"])
def test_steps_by_hand_are_told_though_no_version_tells_of_cleared_gradients(
    watching, model, inputs, labels, accumulated, clips
):
    losses = []
    with watching() as seen:
        for index in range(8):
            for _ in range(accumulated):
                loss = F.cross_entropy(model(inputs), labels)
                losses.append(loss.item())
                loss.backward()
            for p in model.parameters():
                if clips(index):
                    p.grad *= 0.5
                p.data -= 0.1 * p.grad.data
                p.grad.data.zero_()
    assert seen.end.totals["steps"] == {"0": 8}
    assert sum(step.loss * step.steps for step in seen.steps()) == pytest.approx(sum(losses))


def test_nothing_is_read_of_gradients_once_an_optimizer_has_stepped(watching, model, inputs, labels, monkeypatch):
    read = []
    monkeypatch.setattr(attribution, "holds_something", lambda gradient: read.append(gradient) or True)
    optimizer, other = torch.optim.SGD(model.parameters(), lr=0.1), nn.Linear(4, 3)
    with watching():
        for index in range(6):
            for network in (model, model, other):  # the last is nobody's
                F.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            if index == 0:
                read.clear()
    assert read == []


def move(model):
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
            p.grad = None


def test_steps_without_hooks_have_the_samples_of_their_own_batch(watching, model):
    data = TensorDataset(torch.randn(18, 4), torch.randint(3, (18,)))
    losses, sizes = [], []
    with watching() as seen:
        for _ in range(2):
            for batch, labels in DataLoader(data, batch_size=4):
                loss = F.cross_entropy(model(batch), labels)
                loss.backward()
                losses.append(loss.item())
                sizes.append(len(batch))
                move(model)
    steps = seen.steps()
    assert [steps[0].samples, sum(step.samples for step in steps)] == [4, 36]
    assert [step.samples for step in steps[-6:]] == sizes[-6:]  # before that they are told in one
    first = sum(loss * size for loss, size in zip(losses[:5], sizes[:5], strict=True)) / 18
    assert seen.epochs[0].train.loss == pytest.approx(first)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_steps_without_hooks_have_the_criterion_and_accuracy_of_their_own_batches(watching, model, accumulated):
    said = []
    with watching() as seen:
        for _ in range(4):
            losses, hits = [], 0
            for _ in range(2 * accumulated):
                inputs, labels = torch.randn(6, 4), torch.randint(3, (6,))
                logits = model(inputs)
                loss = F.cross_entropy(logits, labels)
                (loss + 0.1 * sum(p.square().sum() for p in model.parameters())).backward()
                losses.append(loss.item())
                hits += (logits.argmax(1) == labels).sum().item()
                if len(losses) % accumulated == 0:
                    move(model)
            said.append((sum(losses) / len(losses), hits / (12 * accumulated)))
            with torch.no_grad():
                F.cross_entropy(model(torch.randn(6, 4)), torch.randint(3, (6,)))
    trained = [epoch.train for epoch in seen.epochs][2:]  # by then it is known that no optimizer steps
    assert [train.samples for train in trained] == [12 * accumulated] * 2
    assert [(train.criterion, train.accuracy) for train in trained] == [pytest.approx(each) for each in said[2:]]


def test_training_in_a_thread_is_seen(watching, model, fit):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        thread = threading.Thread(target=lambda: [fit_and_step(fit, optimizer) for _ in range(5)])
        thread.start()
        thread.join()
    assert len(seen.losses()) == 5


def test_two_threads_that_step_two_models_do_not_mix(watching):
    models = [nn.Linear(3, 1) for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=rate) for model, rate in zip(models, (0.1, 0.2), strict=True)]
    turns = threading.Barrier(2)

    def train(model, optimizer):
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            turns.wait()
            optimizer.step()

    with watching() as seen:
        threads = [threading.Thread(target=train, args=pair) for pair in zip(models, optimizers, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen.end.totals["steps"] == {"0": 5, "1": 5}
    assert sorted(step.learning_rate[0] for step in [*seen.steps("0"), *seen.steps("1")]) == [0.1] * 5 + [0.2] * 5


@pytest.mark.parametrize("accumulated", [1, 2])
def test_training_that_goes_from_thread_to_thread_has_the_losses_of_its_own_steps(
    watching, model, inputs, labels, accumulated
):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []

    def train():
        for _ in range(3):
            optimizer.zero_grad()
            losses.append(0.0)
            for _ in range(accumulated):
                loss = F.cross_entropy(model(inputs), labels)
                loss.backward()
                losses[-1] += loss.item()
            optimizer.step()

    with watching() as seen, ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for pool in (first, second) * 50:  # more often than a run walks graphs for one thread
            pool.submit(train).result()
    assert seen.losses() == pytest.approx(losses)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_gradient_of_any_dtype_is_measured(watching, dtype):
    weight = torch.ones(5, dtype=dtype, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.125)
    with watching() as seen:
        (weight * 2).abs().sum().backward()
        optimizer.step()
    assert seen.steps()[0].gradient_norm == pytest.approx(20**0.5)
    assert seen.steps()[0].gradient_max_abs == 2.0


def test_sparse_gradient_counts_its_zeros(watching):
    embedding = nn.Embedding(10, 2, sparse=True)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    with watching() as seen:
        embedding(torch.tensor([3, 3, 7])).sum().backward()
        optimizer.step()
    assert seen.steps()[0].gradient_mean == pytest.approx(6 / 20)
    assert seen.steps()[0].gradient_norm == pytest.approx(10**0.5)


def test_empty_missing_and_shared_gradients_are_no_trouble(watching):
    tied, empty, unused = nn.Linear(2, 2, bias=False), nn.Parameter(torch.ones(0)), nn.Linear(2, 2)
    model = nn.Sequential(tied, nn.Sequential(tied), unused)
    optimizer = torch.optim.SGD([empty, *model.parameters()], lr=0.1)
    with watching() as seen:
        (model[1](model[0](torch.ones(1, 2))).sum() + empty.sum()).backward()
        norm = tied.weight.grad.norm().item()
        optimizer.step()
    (step,) = seen.steps()
    assert step.gradient_norm == pytest.approx(norm)
    assert "0.weight" in step.layers
    assert not any(name.startswith("2.") for name in step.layers)


@pytest.mark.parametrize("inside_backward", [False, True])
def test_rate_in_a_tensor_is_the_one_that_the_step_used(tmp_path, model, inputs, labels, inside_backward):
    rate = torch.tensor(0.5)
    first, *others = model.parameters()
    groups = [{"params": [first], "lr": 0.25}, {"params": others, "lr": rate}]
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "lr": rate}] if inside_backward else groups)
    backend = RecordingBackend()
    with trimtab.watch(run="test", directory=tmp_path, backends=[backend]):
        if inside_backward:
            others[-1].register_post_accumulate_grad_hook(lambda _: optimizer.step())
        for _ in range(3):  # of which one record is made
            F.cross_entropy(model(inputs), labels).backward()
            if not inside_backward:
                optimizer.step()
            rate.mul_(0.5)
    steps = [step for step in backend.of(Step) if step.steps]
    assert steps[-1].learning_rate == ([0.125] if inside_backward else [0.25, 0.125])
