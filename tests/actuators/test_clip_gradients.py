import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab.actions import FOR_GOOD, Refused
from trimtab.actuators.clipping import UPDATE_RATIO, harmless_norm
from trimtab.actuators.steering import Steering
from trimtab.actuators.step_controls import StepControls


@pytest.fixture
def applied(model):
    """An optimizer that notes the norm of the gradients that it applies."""

    class Noting(torch.optim.SGD):
        def step(self, closure=None):
            value = closure() if closure is not None else None
            self.norms.append(norm_of(model))
            super().step()
            return value

    optimizer = Noting(model.parameters(), lr=0.1)
    optimizer.norms = []
    return optimizer


def norm_of(model):
    return nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()


def norm_of_weights(model):
    return nn.utils.get_total_norm([p.detach() for p in model.parameters()]).item()


def test_this_step_and_the_next_ones_are_clipped(helm, model, fit, applied):
    controls = helm.controls(applied)
    helm.judge.before.append(lambda _: controls.clip_gradients(0.01, steps=2))
    norms = []
    for _ in range(3):
        fit()
        norms.append(norm_of(model))
        applied.step()
    assert applied.norms == pytest.approx([0.01, 0.01, norms[2]], rel=1e-3)


def test_norm_under_the_limit_is_not_touched(helm, model, fit, applied):
    helm.controls(applied).clip_gradients(1e6, steps=1)
    fit()
    before = [p.grad.clone() for p in model.parameters()]
    applied.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


def test_every_evaluation_of_a_closure_is_clipped(helm, model, fit, applied):
    helm.controls(applied).clip_gradients(0.01, steps=1)
    applied.step(fit)
    applied.step(fit)
    assert applied.norms[0] == pytest.approx(0.01, rel=1e-3)
    assert applied.norms[1] > 0.02


def test_clip_that_is_decided_when_the_closure_returns_is_for_this_step(helm, fit, applied):
    controls = helm.controls(applied)
    helm.judge.before.append(lambda _: controls.clip_gradients(0.01, steps=1))
    applied.step(fit)
    assert applied.norms == pytest.approx([0.01], rel=1e-3)


def test_gradients_of_the_step_before_are_not_clipped_before_the_closure(helm, model, fit, applied):
    fit()
    helm.controls(applied).clip_gradients(0.01, steps=1)
    before, seen = norm_of(model), []

    def closure():
        seen.append(norm_of(model))
        return fit()

    applied.step(closure)
    assert seen == [before]


def test_clip_comes_after_a_clip_of_the_users(helm, model, fit, applied):
    applied.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(model.parameters(), 0.1) and None)
    helm.controls(applied).clip_gradients(0.2, steps=1)
    fit()
    applied.step()
    assert applied.norms == pytest.approx([0.1], rel=1e-3)


def test_adaptive_clip_goes_to_the_usual_norm_of_each_step(helm, fit, applied):
    controls = helm.controls(applied)
    helm.usual_norm = 0.03
    controls.clip_gradients(None, steps=2)
    helm.usual_norm = 0.02
    fit()
    applied.step()
    helm.usual_norm = 0.01
    fit()
    applied.step()
    assert applied.norms == pytest.approx([0.02, 0.01], rel=1e-3)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_adaptive_clip_of_sgd_moves_the_weights_little_while_nothing_is_usual(helm, model, momentum):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=momentum)
    controls = helm.controls(optimizer)
    change = controls.clip_gradients(None, steps=FOR_GOOD)
    weights = norm_of_weights(model)
    assert change.after == {"max_norm": pytest.approx(UPDATE_RATIO * weights * (1 - momentum) / 0.5, rel=1e-4)}
    for _ in range(3):
        before = [p.detach().clone() for p in model.parameters()]
        allowed = UPDATE_RATIO * norm_of_weights(model)
        (1e6 * model(torch.ones(2, 4))).square().sum().backward()
        optimizer.step()
        moved = nn.utils.get_total_norm([p.detach() - b for p, b in zip(model.parameters(), before, strict=True)])
        assert moved.item() <= allowed * 1.1
        helm.usual_norm = 1e9  # what explodes is no measure later on either
        optimizer.zero_grad()


def test_harmless_norm_grows_as_the_rate_is_lowered(helm, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    controls = helm.controls(optimizer)
    first = controls.clip_gradients(None, steps=1).after["max_norm"]
    controls.scale_learning_rate(0.1)
    assert controls.clip_gradients(None, steps=1).after["max_norm"] == pytest.approx(10 * first, rel=1e-4)


def test_adaptive_clip_of_adam_is_refused_while_nothing_is_usual(helm, model):
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(Refused, match="not known yet"):
        helm.controls(optimizer).clip_gradients(None, steps=2)


def test_sparse_gradients_are_refused(helm):
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(Refused, match="sparse"):
        helm.controls(optimizer).clip_gradients(1.0, steps=1)


def test_fused_optimizer_under_a_scaler_is_clipped_by_the_true_norm(helm, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    helm.controls(optimizer).clip_gradients(0.01, steps=1)
    before = [p.detach().clone() for p in model.parameters()]
    scaler.scale(model(torch.ones(2, 4)).square().sum()).backward()
    scaler.step(optimizer)
    update = nn.utils.get_total_norm([p.detach() - b for p, b in zip(model.parameters(), before, strict=True)])
    assert update.item() == pytest.approx(0.01, rel=1e-3)


def test_our_clip_is_not_shown_as_the_users(watching, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        steering = Steering(seen.run._capture.hooks, lambda _: [], lambda _: None, lambda *_: None)
        steering.meet("0", optimizer)
        StepControls(steering, "0").clip_gradients(0.01, steps=2)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.ones(2, 4)), torch.tensor([0, 1])).backward()
            optimizer.step()
            assert norm_of(model) == pytest.approx(0.01, rel=1e-3)
    assert [step.gradient_preclip_norm for step in seen.steps()] == [None, None]
    assert len(seen.losses()) == 2


def test_harmless_norm_under_a_momentum_that_forgets_nothing_is_that_of_a_hundred_steps():
    group = {"lr": 0.1, "momentum": 1.0, "dampening": 0.0, "params": [torch.ones(4)]}
    assert harmless_norm([group], 1.0).item() == pytest.approx(UPDATE_RATIO * 2.0 / (0.1 * 100))


def test_harmless_norm_of_an_optimizer_that_holds_another_counts_shared_weights_once(helm, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    optimizer.inner = torch.optim.SGD(model.parameters(), lr=0.5)
    optimizer.param_groups = optimizer.inner.param_groups
    norm = helm.controls(optimizer).clip_gradients(None, steps=1).after["max_norm"]
    assert norm == pytest.approx(UPDATE_RATIO * norm_of_weights(model) / 0.5)


@pytest.fixture
def from_zeros():
    """The weights of a linear model as many a tutorial begins it, and their optimizer."""
    weights = nn.Parameter(torch.zeros(4))
    return weights, torch.optim.SGD([weights], lr=0.1)


def test_clip_of_weights_of_zero_is_refused_since_none_would_let_them_move(helm, from_zeros):
    _, optimizer = from_zeros
    with pytest.raises(Refused, match="not known yet"):
        helm.controls(optimizer).clip_gradients(None, steps=FOR_GOOD)


@pytest.mark.parametrize("gradient", [0.0, 1.0])
def test_weights_that_go_back_to_zero_while_gradients_are_clipped_are_trained_on(helm, from_zeros, gradient):
    weights, optimizer = from_zeros
    weights.data.fill_(1.0)
    helm.controls(optimizer).clip_gradients(None, steps=FOR_GOOD)
    weights.data.zero_()
    weights.grad = torch.full_like(weights, gradient)
    optimizer.step()
    assert weights.tolist() == pytest.approx([-0.1 * gradient] * 4)


@pytest.fixture
def former(helm):
    """Controls of the optimizer of a run that is resumed."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    yield helm.controls(optimizer)
    del optimizer  # which steering holds weakly


@pytest.fixture
def resumed(helm, applied):
    """`resumed(change)` is the optimizer under another label, where `change` was made to the state under its own."""

    def resumed(change=lambda saved: saved):
        saved = json.loads(json.dumps(helm.steering.state_dict(), allow_nan=False))
        helm.steering.load_state_dict({"1": change(saved["0"])})
        return helm.controls(applied, label="1")

    return resumed


def test_resumed_run_clips_for_the_steps_that_are_left(helm, fit, applied, former, resumed):
    former.clip_gradients(0.01, steps=2)
    resumed()
    for _ in range(3):
        fit()
        applied.step()
    assert applied.norms[:2] == pytest.approx([0.01, 0.01], rel=1e-3)
    assert applied.norms[2] > 0.02
    assert helm.steering.state_dict()["1"]["clip"] is None


def test_resumed_run_clips_to_what_was_usual_until_it_is_known_again(helm, fit, applied, former, resumed):
    helm.usual_norm = 0.01
    former.clip_gradients(None, steps=FOR_GOOD)
    controls = resumed()
    for usual in (None, 0.02):
        helm.usual_norm = usual
        fit()
        applied.step()
    assert applied.norms == pytest.approx([0.01, 0.02], rel=1e-3)
    helm.usual_norm = None
    assert controls.clip_gradients(None, steps=FOR_GOOD).after == {"max_norm": 0.01}


def test_resumed_run_bounds_what_is_harmless(model, fit, applied, former, resumed):
    former.clip_gradients(None, steps=FOR_GOOD)
    resumed()
    fit()
    for p in model.parameters():
        p.grad *= 1e6
    limit = UPDATE_RATIO * norm_of_weights(model) / 0.1
    applied.step()
    assert applied.norms == pytest.approx([limit], rel=1e-3)


def test_state_that_says_nothing_of_clipping_is_one_that_does_not_clip(fit, applied, former, resumed):
    former.clip_gradients(0.01, steps=2)
    resumed(lambda saved: {name: value for name, value in saved.items() if name != "clip"})
    fit()
    applied.step()
    assert applied.norms[0] > 0.02


def test_what_begins_anew_is_not_clipped(helm, fit, applied):
    helm.controls(applied).clip_gradients(0.01, steps=FOR_GOOD)
    assert helm.steering.steers
    helm.steering.begin_anew()
    fit()
    applied.step()
    assert applied.norms[0] > 0.02
    assert not helm.steering.steers
