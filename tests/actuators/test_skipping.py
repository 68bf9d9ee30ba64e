"""A step that is left out leaves no trace, whatever the optimizer does without gradients."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from trimtab.actions import Refused

OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and name not in ("Optimizer", "SparseAdam", "LBFGS")
)


@pytest.fixture
def matrix():
    return nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))


def step_once(optimizer, parameter, value=1.0):
    parameter.grad = torch.full_like(parameter, value)
    optimizer.step(lambda: torch.tensor(1.0))


def trace(optimizer):
    """All that a step may change: parameters, state, groups and attributes."""
    groups = [dict(group) for group in optimizer.param_groups]
    attributes = {
        key: value for key, value in vars(optimizer).items() if key != "step" and not key.startswith("_optimizer_")
    }
    return copy.deepcopy((groups, attributes))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def skip(helm, controls):
    helm.judge.before.append(lambda _: controls.skip_step())


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_torch_is_untouched(helm, matrix, name, warm):
    optimizer = getattr(torch.optim, name)([matrix], lr=0.1)
    if warm:
        step_once(optimizer, matrix)
    controls, before = helm.controls(optimizer), trace(optimizer)
    skip(helm, controls)
    step_once(optimizer, matrix, torch.nan)
    assert same(trace(optimizer), before)
    assert helm.steering.skipped(optimizer)


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"amsgrad": True}])
def test_every_implementation_is_untouched(helm, matrix, options):
    optimizer = torch.optim.AdamW([matrix], lr=0.1, **options)
    step_once(optimizer, matrix)
    controls, before = helm.controls(optimizer), trace(optimizer)
    skip(helm, controls)
    step_once(optimizer, matrix, torch.inf)
    assert same(trace(optimizer), before)


def test_only_one_step_is_skipped(helm, matrix):
    optimizer = torch.optim.SGD([matrix], lr=0.5)
    controls, before = helm.controls(optimizer), matrix.detach().clone()
    skip(helm, controls)
    for _ in range(2):
        step_once(optimizer, matrix)
    assert torch.equal(matrix, before - 0.5)
    assert not helm.steering.skipped(optimizer)


class Breaking(torch.optim.Optimizer):
    """Its first step raises."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})
        self.whole = False

    def step(self, closure=None):
        whole, self.whole = self.whole, True
        if not whole:
            raise RuntimeError("not today")
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.sub_(parameter.grad + 1.0)


def test_step_that_was_broken_off_is_left_out_from_where_the_next_one_begins(helm, matrix):
    optimizer = Breaking([matrix])
    step = optimizer.step  # before it is steered: nobody sees that it raises
    skip(helm, helm.controls(optimizer))
    matrix.grad = torch.ones_like(matrix)
    with pytest.raises(RuntimeError, match="not today"):
        step()
    with torch.no_grad():
        matrix.fill_(7.0)
    step()
    assert matrix.unique().tolist() == [7.0]
    assert helm.steering.skipped(optimizer)


def test_gradients_are_there_again_as_after_a_scalers_skip(helm, matrix):
    optimizer = torch.optim.SGD([matrix], lr=0.5)
    skip(helm, helm.controls(optimizer))
    matrix.grad = gradient = torch.full_like(matrix, torch.inf)
    optimizer.step()
    assert matrix.grad is gradient
    assert torch.isinf(gradient).all()


@pytest.mark.parametrize("own_hook", [False, True])
def test_hooks_of_the_users_see_the_gradients(helm, matrix, own_hook):
    optimizer, seen = torch.optim.SGD([matrix], lr=0.5), []
    if own_hook:
        optimizer.register_step_pre_hook(lambda *_: seen.append(matrix.grad))
    skip(helm, helm.controls(optimizer))
    optimizer.register_step_post_hook(lambda *_: seen.append(matrix.grad))
    step_once(optimizer, matrix)
    assert all(gradient is matrix.grad for gradient in seen)
    assert len(seen) == 1 + own_hook


def test_scheduler_goes_on_and_does_not_complain(helm, matrix):
    optimizer = torch.optim.SGD([matrix], lr=0.5)
    scheduler = lr_scheduler.StepLR(optimizer, 1, 0.5)
    skip(helm, helm.controls(optimizer))
    matrix.grad = torch.ones_like(matrix)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [0.25]


@pytest.mark.parametrize("fused", [False, True])
def test_scaler_goes_on(helm, matrix, fused):
    optimizer = torch.optim.AdamW([matrix], lr=0.5, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    controls = helm.controls(optimizer)
    for is_skipped in (False, True, False):
        optimizer.zero_grad()
        scaler.scale(matrix.sum()).backward()
        if is_skipped:
            skip(helm, controls)
        before = matrix.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(matrix, before) is is_skipped
    assert scaler.get_scale() == 4.0


def test_skip_and_scale_go_together(helm, matrix):
    optimizer = torch.optim.SGD([matrix], lr=0.5)
    controls = helm.controls(optimizer)
    controls.scale_learning_rate(0.5)
    skip(helm, controls)
    step_once(optimizer, matrix)
    before = matrix.detach().clone()
    step_once(optimizer, matrix)
    assert torch.equal(matrix, before - 0.25)


def test_lbfgs_is_untouched(helm, model, fit):
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    optimizer.step(fit)
    controls, before = helm.controls(optimizer), trace(optimizer)
    skip(helm, controls)
    optimizer.step(fit)
    assert same(trace(optimizer), before)
    optimizer.step(fit)
    assert not same(trace(optimizer), before)


class Foreign(torch.optim.Optimizer):
    """Does what optimizers from elsewhere do without gradients: counts, decays, writes to its groups and itself."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1, "d": 1.0})
        self.count, self.history = 0, []
        self.slow = [[p.detach().clone() for p in group["params"]] for group in self.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        if closure is not None:
            closure()
        self.count += 1
        self.history.append(self.count)
        for group, slow_group in zip(self.param_groups, self.slow, strict=True):
            group["d"] *= 2
            group["lr"] *= 0.5
            for p, slow in zip(group["params"], slow_group, strict=True):
                state = self.state[p]
                state["step"] = state.get("step", 0) + 1
                state.setdefault("mean", torch.zeros_like(p)).mul_(0.9).add_(p.grad)
                p.mul_(0.99).data.add_(state["mean"], alpha=-group["lr"])
                slow.add_(p - slow, alpha=0.5)
                p.copy_(slow)


class Wrapper(torch.optim.Optimizer):
    """Steps two others."""

    def __init__(self, *inner):
        super().__init__([group for each in inner for group in each.param_groups], {})
        self.inner = list(inner)

    def step(self, closure=None):
        if closure is not None:
            closure()
        for each in self.inner:
            each.step()


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    ("build", "closure"),
    [
        (Foreign, None),
        (Foreign, lambda: torch.tensor(1.0)),
        (lambda p: Wrapper(Foreign(p)), None),
        (lambda p: Wrapper(torch.optim.Adam(p)), None),
    ],
)
def test_optimizer_that_is_not_torchs_own_is_put_back(helm, matrix, build, closure, warm):
    optimizer = build([matrix])
    if warm:
        step_once(optimizer, matrix)
    inner = getattr(optimizer, "inner", [])
    controls, before = helm.controls(optimizer), [trace(each) for each in (*inner, *[optimizer][len(inner) :])]
    skip(helm, controls)
    matrix.grad = torch.full_like(matrix, torch.nan)
    optimizer.step(closure)
    assert same([trace(each) for each in (*inner, *[optimizer][len(inner) :])], before)
    assert torch.isnan(matrix.grad).all()


def test_state_that_cannot_be_copied_is_refused(helm, matrix):
    optimizer = Foreign([matrix])
    optimizer.noise = torch.Generator()
    with pytest.raises(Refused, match="holds a Generator"):
        helm.controls(optimizer).skip_step()


def test_optimizer_that_reads_second_derivatives_is_refused(helm, matrix):
    optimizer = Foreign([matrix])
    (matrix.grad,) = torch.autograd.grad(matrix.square().sum(), matrix, create_graph=True)
    with pytest.raises(Refused, match="second derivatives"):
        helm.controls(optimizer).skip_step()
    matrix.grad = None


def test_optimizer_that_may_have_climbed_before_its_closure_is_refused(helm, matrix):
    optimizer, refused = Wrapper(torch.optim.SGD([matrix])), []
    controls = helm.controls(optimizer)

    def judge(_):
        with pytest.raises(Refused, match="before it called the closure"):
            controls.skip_step()
        refused.append(True)

    helm.judge.before.append(judge)
    step_once(optimizer, matrix)
    assert refused


def test_optimizers_inside_backward_are_refused(helm):
    optimizers = [torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1) for _ in range(2)]
    with pytest.raises(Refused, match="inside backward"):
        helm.controls(*optimizers).skip_step()
    with pytest.raises(Refused, match="inside backward"):
        helm.controls(*optimizers).clip_gradients(1.0, steps=1)


def test_step_that_raises_while_it_is_skipped_leaves_no_trace(helm, matrix):
    optimizer = Foreign([matrix])
    step_once(optimizer, matrix)
    optimizer.slow = []  # so that its own check fails, halfway
    before = trace(optimizer)
    helm.controls(optimizer).skip_step()
    with pytest.raises(ValueError, match="shorter"):
        step_once(optimizer, matrix, torch.nan)
    assert same(trace(optimizer), before)
    assert torch.isnan(matrix.grad).all()


def test_step_that_was_broken_off_unseen_gives_back_no_gradient_of_its_own(helm, matrix):
    optimizer = Foreign([matrix])
    slow, optimizer.slow = optimizer.slow, []
    step = optimizer.step
    helm.controls(optimizer).skip_step()
    matrix.grad = torch.full_like(matrix, torch.nan)
    with pytest.raises(ValueError, match="shorter"):
        step()
    optimizer.slow = slow
    fresh = matrix.grad = torch.ones_like(matrix)
    step()
    assert matrix.grad is fresh


def test_sparse_gradients_are_hidden_too(helm):
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(list(embedding.parameters()))
    before = embedding.weight.detach().clone()
    skip(helm, helm.controls(optimizer))
    embedding(torch.tensor([1])).sum().backward()
    optimizer.step()
    assert torch.equal(embedding.weight, before)
    assert embedding.weight.grad.is_sparse
