"""The schedule's own values are there whenever the user's code runs, and after everything that may go wrong."""

import gc
import weakref
from collections import OrderedDict

import pytest
import torch
from every_schedule import Recording, groups, parameters
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from trimtab.actions import Refused


def rate_of(optimizer):
    return optimizer.param_groups[0]["lr"]


@pytest.fixture
def optimizer():
    return Recording(parameters())


@pytest.fixture
def halved(helm, optimizer):
    helm.controls(optimizer).scale_learning_rate(0.5)
    return optimizer


def test_closure_sees_the_schedules_rate(halved):
    seen = []
    for _ in range(2):
        halved.step(lambda: seen.append(rate_of(halved)))
        halved.step(closure=lambda: seen.append(rate_of(halved)))
    assert seen == [0.1] * 4
    assert halved.used == [[0.05]] * 4


def test_scheduler_that_is_stepped_in_the_closure_is_exact(halved):
    scheduler = lr_scheduler.ExponentialLR(halved, 0.5)
    for _ in range(3):
        halved.step(scheduler.step)
    assert halved.used == [[0.025], [0.0125], [0.00625]]
    assert rate_of(halved) == 0.0125


def test_scale_that_is_set_when_the_closure_returns_holds_for_the_update(helm, optimizer):
    controls = helm.controls(optimizer)
    helm.judge.before.append(lambda _: controls.scale_learning_rate(0.5))
    optimizer.step(lambda: None)
    assert optimizer.used == [[0.05]]
    assert rate_of(optimizer) == 0.1


def test_closure_that_raises_leaves_the_schedules_rate(halved):
    def closure():
        raise RuntimeError("not today")

    with pytest.raises(RuntimeError, match="not today"):
        halved.step(closure)
    assert rate_of(halved) == 0.1
    halved.step()
    assert halved.used == [[0.05]]


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_steps_as_with_the_product_for_a_rate(helm, model, fit, line_search):
    twin = [p.detach().clone() for p in model.parameters()]
    bare = torch.optim.LBFGS(model.parameters(), lr=0.5 * 0.25, line_search_fn=line_search)
    bare.step(fit)
    expected = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p, before in zip(model.parameters(), twin, strict=True):
            p.copy_(before)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, line_search_fn=line_search)
    helm.controls(optimizer).scale_learning_rate(0.25)
    optimizer.step(fit)
    assert all(map(torch.equal, model.parameters(), expected))


class Moody(Recording):
    """Reads its rate, and then raises."""

    def step(self, closure=None):
        super().step(closure)
        raise RuntimeError("not today")


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.25)])
def test_exception_inside_the_step_leaves_the_schedules_rate(helm, capturable, rate):
    expected = rate if isinstance(rate, float) else rate.clone()
    optimizer = Moody(parameters(), rate, capturable=capturable)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    helm.controls(optimizer).scale_learning_rate(0.5)
    for step in range(3):
        with pytest.raises(RuntimeError, match="not today"):
            optimizer.step()
        assert rate_of(optimizer) == expected * 0.5**step
        assert optimizer.used[-1] == [float(expected) * 0.5 ** (step + 1)]
        scheduler.step()


def test_exception_in_a_step_that_was_bound_before_is_recovered_by_the_next_one(helm):
    optimizer = Moody(parameters())
    step = optimizer.step
    helm.controls(optimizer).scale_learning_rate(0.5)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not today"):
            step()
    assert optimizer.used == [[0.05], [0.05]]
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.1
    assert rate_of(optimizer) == 0.1


def test_exception_in_a_step_that_was_bound_before_is_recovered_at_close(helm):
    optimizer = Moody(parameters())
    step = optimizer.step
    helm.controls(optimizer).scale_learning_rate(0.5)
    with pytest.raises(RuntimeError, match="not today"):
        step()
    helm.close()
    assert rate_of(optimizer) == 0.1


@pytest.mark.parametrize("registered", ["before", "after"])
def test_scheduler_stepped_in_a_hook_of_the_users_is_exact(helm, optimizer, registered):
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    if registered == "before":
        optimizer.register_step_post_hook(lambda *_: scheduler.step())
    helm.controls(optimizer).scale_learning_rate(0.5)
    if registered == "after":
        optimizer.register_step_post_hook(lambda *_: scheduler.step())
    for _ in range(3):
        optimizer.step()
    assert optimizer.used == [[0.05], [0.025], [0.0125]]
    assert scheduler.get_last_lr() == [0.0125]


@pytest.mark.parametrize("registered", ["before", "after"])
def test_hook_of_the_users_that_reads_or_sets_the_rate_is_before_ours(helm, optimizer, registered):
    seen = []

    def hook(optimizer, args, kwargs):
        seen.append(rate_of(optimizer))
        optimizer.param_groups[0]["lr"] = 0.4

    if registered == "before":
        optimizer.register_step_pre_hook(hook)
    helm.controls(optimizer).scale_learning_rate(0.5)
    if registered == "after":
        optimizer.register_step_pre_hook(hook)
    optimizer.step()
    optimizer.step()
    assert seen == [0.1, 0.4]
    assert optimizer.used == [[0.2], [0.2]]


def test_process_wide_hook_of_the_users_reads_the_schedules_rate(halved):
    seen = []
    handles = [
        register(lambda optimizer, args, kwargs: seen.append(rate_of(optimizer)))
        for register in (register_optimizer_step_pre_hook, register_optimizer_step_post_hook)
    ]
    halved.step()
    for handle in handles:
        handle.remove()
    assert seen == [0.1, 0.1]
    assert halved.used == [[0.05]]


class Subclass(Recording):
    """Calls its parent's step, whose hooks fire as well, and reads the rate before and after."""

    def step(self, closure=None):
        before = rate_of(self)
        super().step(closure)
        self.used.append([before, rate_of(self)])


def test_subclass_whose_hooks_fire_twice_is_scaled_once(helm):
    Recording(parameters())  # from now on the parent's step has hooks
    optimizer = Subclass(parameters())
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(rate_of(optimizer)))
    optimizer.register_step_post_hook(lambda *_: seen.append(rate_of(optimizer)))
    helm.controls(optimizer).scale_learning_rate(0.5)
    optimizer.step()
    scheduler.step()
    optimizer.step()
    assert optimizer.used == [[0.05], [0.05, 0.05], [0.025], [0.025, 0.025]]
    assert seen == [0.1] * 4 + [0.05] * 4


def test_subclass_that_becomes_steered_between_its_two_hooks_is_scaled_once(helm):
    Recording(parameters())
    optimizer = Subclass(parameters())
    controls = helm.controls(optimizer)
    helm.judge.before.append(lambda _: controls.scale_learning_rate(0.5))
    optimizer.step()
    assert optimizer.used == [[0.05], [0.05, 0.05]]
    assert rate_of(optimizer) == 0.1


class Scheduled(Recording):
    """Writes its own rate, and lets its parent step."""

    def step(self, closure=None):
        self.param_groups[0]["lr"] = 0.1 / (len(self.used) + 1)
        super().step(closure)


def test_rate_that_a_subclass_writes_before_its_parent_steps_is_scaled(helm):
    Recording(parameters())
    optimizer = Scheduled(parameters())
    helm.controls(optimizer).scale_learning_rate(0.5)
    for _ in range(3):
        optimizer.step()
    assert optimizer.used == [[0.05], [0.5 * (0.1 / 2)], [0.5 * (0.1 / 3)]]
    assert rate_of(optimizer) == 0.1 / 3
    assert not helm.said


class Overwriting(Recording):
    """Lets its own rate decay, from what it finds."""

    def step(self, closure=None):
        super().step(closure)
        self.param_groups[0]["lr"] *= 0.5


def test_optimizer_that_writes_its_rate_while_it_steps_is_let_go(helm):
    optimizer = Overwriting(parameters())
    controls = helm.controls(optimizer)
    controls.scale_learning_rate(0.5)
    for _ in range(3):
        optimizer.step()
    assert optimizer.used == [[0.05], [0.025], [0.0125]]
    assert "writes its own learning rate" in helm.said[0]
    with pytest.raises(Refused, match="writes its own learning rate"):
        controls.scale_learning_rate(0.5)
    helm.steering.forget("0")  # the next model has another optimizer
    following = Recording(parameters())
    helm.controls(following).scale_learning_rate(0.5)
    following.step()
    assert following.used == [[0.05]]


class Warming(torch.optim.Optimizer):
    """Has the rate of a step in its group as long as it steps, then puts back the one that it keeps, as HeavyBall's."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1, "base_lr": 0.1})
        self.used = []

    def step(self, closure=None):
        group = self.param_groups[0]
        if group["base_lr"] != group["lr"]:
            group["base_lr"] = group["lr"]
        group["lr"] = group["base_lr"] * min(1.0, 0.5 + len(self.used))
        self.used.append(group["lr"])
        group["lr"] = group["base_lr"]


def test_optimizer_that_puts_its_rate_back_itself_is_scaled_on(helm):
    optimizer = Warming(parameters())
    helm.controls(optimizer).scale_learning_rate(0.5)
    for _ in range(3):
        optimizer.step()
        assert rate_of(optimizer) == 0.1
    assert optimizer.used == [0.025, 0.05, 0.05]
    assert not helm.said


class Lookahead(torch.optim.Optimizer):
    """Wraps another optimizer, with its groups or with copies of them."""

    def __init__(self, inner, shared):
        super().__init__(inner.param_groups if shared else [dict(group) for group in inner.param_groups], {})
        self.inner = inner

    def step(self, closure=None):
        return self.inner.step(closure)


@pytest.mark.parametrize("shared", [True, False])
def test_wrapped_optimizer_is_scaled_once(helm, optimizer, shared):
    outer = Lookahead(optimizer, shared)
    helm.controls(outer).scale_learning_rate(0.5)
    for _ in range(2):
        outer.step()
    assert optimizer.used == [[0.05], [0.05]]
    assert rate_of(outer) == rate_of(optimizer) == 0.1


class Sam(torch.optim.Optimizer):
    """Evaluates twice, and descends by a base optimizer that has the rate."""

    def __init__(self, parameters, base):
        super().__init__(parameters, {"rho": 0.05})
        self.base = base

    def step(self, closure):
        closure()
        closure()
        self.base.step()


def test_sam_descends_with_the_scaled_rate_and_evaluates_with_the_schedules(helm, optimizer):
    outer, seen = Sam(optimizer.param_groups[0]["params"], optimizer), []
    helm.controls(outer).scale_learning_rate(0.5)
    outer.step(lambda: seen.append(rate_of(optimizer)))
    assert seen == [0.1, 0.1]
    assert optimizer.used == [[0.05]]


# Those of which the group's rate is all there is; `test_every_optimizer` has the others.
EVERY = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adadelta", "Adamax")
IMPLEMENTATIONS = [(kind, {"foreach": foreach}) for kind in EVERY for foreach in (False, True)] + [
    (kind, {"fused": True}) for kind in ("SGD", "Adam", "AdamW", "Adagrad")
]


@pytest.mark.parametrize(("kind", "options"), IMPLEMENTATIONS)
def test_every_implementation_steps_as_with_the_product_for_a_rate(helm, kind, options):
    build, trained = getattr(torch.optim, kind), []
    for rate, factor in ((0.1 * 0.3, None), (0.1, 0.3)):
        layer = parameters()
        optimizer = build(layer, lr=rate, **options)
        if factor is not None:
            helm.controls(optimizer).scale_learning_rate(factor)
        for step in range(3):
            for p in layer:
                p.grad = torch.linspace(-1, 1, 3) * (step + 1)
            optimizer.step()
        trained.append(layer)
    assert all(map(torch.equal, *trained))


@pytest.mark.parametrize("fused", [False, True])
def test_step_that_the_scaler_skips_leaves_the_schedules_rate(helm, model, fused):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    helm.controls(optimizer).scale_learning_rate(0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = [p.detach().clone() for p in model.parameters()]
    scaler.scale(model(torch.ones(1, 4)).sum() * torch.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    assert rate_of(optimizer) == 0.1
    assert all(map(torch.equal, model.parameters(), before))
    assert scaler.get_scale() == 2.0


def test_close_takes_everything_off(helm):
    optimizer = torch.optim.SGD(groups(), weight_decay=0.1)
    optimizer.register_step_pre_hook(lambda *_: None)
    optimizer.register_step_post_hook(lambda *_: None)
    hooks = [
        dict(getattr(optimizer, f"_optimizer_{kind}_hooks")) for kind in ("step_pre", "step_post", "state_dict_pre")
    ]
    attributes, own = set(vars(optimizer)), [dict(group) for group in optimizer.param_groups]
    controls = helm.controls(optimizer)
    controls.scale_learning_rate(0.5)
    controls.scale_weight_decay(0.5)
    optimizer.step()
    helm.close()
    assert hooks == [
        dict(getattr(optimizer, f"_optimizer_{kind}_hooks")) for kind in ("step_pre", "step_post", "state_dict_pre")
    ]
    assert set(vars(optimizer)) == attributes
    assert all(group[key] is was[key] for group, was in zip(optimizer.param_groups, own, strict=True) for key in was)


def test_close_in_the_middle_of_a_step_leaves_the_schedules_rate(helm, halved):
    with pytest.raises(ZeroDivisionError):
        halved.step(lambda: helm.close() or 1 / 0)
    assert rate_of(halved) == 0.1
    halved.step()
    assert halved.used == [[0.1]]


@pytest.mark.parametrize("made", ["before", "after"])
def test_schedulers_own_step_is_left_on_at_close(helm, optimizer, made):
    if made == "before":
        scheduler = lr_scheduler.StepLR(optimizer, 1, 0.5)
    helm.controls(optimizer).scale_learning_rate(0.5)
    if made == "after":
        scheduler = lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step()
    scheduler.step()
    helm.close()
    optimizer.step()
    scheduler.step()
    assert hasattr(optimizer.step, "_wrapped_by_lr_sched")
    assert optimizer.used == [[0.05], [0.05]]


def test_optimizer_that_is_not_steered_has_no_hook(helm, optimizer):
    helm.controls(optimizer)
    attributes = set(vars(optimizer))
    optimizer.step()
    assert set(vars(optimizer)) == attributes
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_steered_optimizer_is_freed_when_the_user_drops_it(helm):
    optimizer = Recording(parameters())
    helm.controls(optimizer).scale_learning_rate(0.5)
    optimizer.step()
    held = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert held() is None
    finally:
        gc.enable()


def test_steered_optimizer_whose_own_step_holds_it_is_freed_when_the_user_drops_it(helm):
    optimizer = Recording(parameters())
    optimizer.step = optimizer.step  # a bound method, in the place of the class's own
    own = weakref.WeakMethod(optimizer.step)
    helm.controls(optimizer).scale_learning_rate(0.5)
    optimizer.step()
    assert optimizer.used == [[0.05]]
    del optimizer
    gc.collect()
    assert own() is None


def test_step_of_the_users_own_is_put_back(helm):
    optimizer = Recording(parameters())
    own = optimizer.step = optimizer.step
    helm.controls(optimizer).scale_learning_rate(0.5)
    helm.close()
    assert optimizer.step is own


def test_model_trains_as_with_the_product_for_a_rate(helm):
    nets = [nn.Linear(4, 1) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    bare, steered = (torch.optim.Adam(net.parameters(), lr=lr) for net, lr in zip(nets, (0.05, 0.1), strict=True))
    helm.controls(steered).scale_learning_rate(0.5)
    for step in range(5):
        for net, optimizer in zip(nets, (bare, steered), strict=True):
            optimizer.zero_grad()
            net(torch.full((2, 4), 0.1 * step)).square().sum().backward()
            optimizer.step()
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))


class Forgetful(torch.optim.Optimizer):
    """Calls no super().__init__(), but has the step hooks, as some wrappers do; or none."""

    def __init__(self, inner, hooked):
        self.inner, self.param_groups, self.state, self.defaults = inner, inner.param_groups, {}, {}
        if hooked:
            self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
            self._patch_step_function()

    def step(self, closure=None):
        return self.inner.step(closure)


def test_wrapper_with_half_of_the_hooks_is_scaled(helm, optimizer):
    outer = Forgetful(optimizer, hooked=True)
    helm.controls(outer).scale_learning_rate(0.5)
    outer.step()
    assert optimizer.used == [[0.05]]
    assert rate_of(optimizer) == 0.1


def test_optimizer_without_hooks_is_refused(helm, optimizer):
    outer = Forgetful(optimizer, hooked=False)
    controls = helm.controls(outer)
    for act in (lambda: controls.scale_learning_rate(0.5), lambda: controls.scale_weight_decay(2), controls.skip_step):
        with pytest.raises(Refused, match="no hooks"):
            act()
    assert helm.steering.scale("0") == 1.0


def test_step_is_under_its_closure_no_more_once_ctrl_c_broke_it(helm, model):
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.1), []

    def interrupt(optimizer):
        found.append(helm.hooks.under_closure(optimizer))
        raise KeyboardInterrupt

    helm.judge.before.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(lambda: None)
    assert found == [True]
    assert not helm.hooks.under_closure(optimizer)


@pytest.fixture
def cleared(helm, optimizer):
    helm.controls(optimizer).clear_gradients()
    return optimizer


def test_gradients_that_are_cleared_are_the_same_tensors(cleared):
    held = [torch.ones(3) for _ in cleared.param_groups[0]["params"]]
    for parameter, gradient in zip(cleared.param_groups[0]["params"], held, strict=True):
        parameter.grad = gradient
    cleared.step()
    assert all(p.grad is gradient for p, gradient in zip(cleared.param_groups[0]["params"], held, strict=True))
    assert not any(gradient.any() for gradient in held)


def test_gradients_of_a_closure_are_not_cleared(helm, optimizer):
    refused = []

    def clear(_):
        with pytest.raises(Refused, match="closure"):
            helm.controls(optimizer).clear_gradients()
        refused.append(True)

    helm.judge.before.append(clear)
    optimizer.step(lambda: None)
    assert refused
