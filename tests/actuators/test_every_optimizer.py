"""Every optimizer of torch steps by a factor on its rate exactly, at every step, or is refused with the reason."""

import inspect
import sys

import pytest
import torch
from torch import optim

from trimtab.actions import Refused
from trimtab.actuators.skipping import is_torchs_own

STEPS, AT, FACTOR = 12, 4, 0.3
WITH = {  # rates at which what is peculiar to each shows within a few steps
    "ASGD": {"lr": 0.5, "lambd": 0.3},
    "Adafactor": {"lr": 0.5, "weight_decay": 0.1},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.2},
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    "RMSprop": {"lr": 0.1, "momentum": 0.9},
    "LBFGS": {"lr": 0.1, "max_iter": 1},
}
CASES = [
    *((name, {}) for name in ("Adadelta", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam", "SparseAdam")),
    *WITH.items(),
    ("ASGD", {"foreach": True, **WITH["ASGD"]}),
    ("ASGD", {"capturable": True, "foreach": False, **WITH["ASGD"]}),
    ("ASGD", {"weight_decay": 0.1, **WITH["ASGD"]}),
    ("Adafactor", {"foreach": True, **WITH["Adafactor"]}),
    ("Adam", {"fused": True}),
    ("Adam", {"foreach": True, "weight_decay": 0.1}),
    ("Adam", {"capturable": True, "lr": torch.tensor(1e-3, dtype=torch.float64)}),
]


@pytest.fixture(autouse=True)
def capturable_on_the_cpu(monkeypatch):
    """Which torch allows where it compiles: its arithmetic is that of CUDA graphs."""
    for module in ("asgd", "adam", "optimizer"):
        known = sys.modules[f"torch.optim.{module}"]
        monkeypatch.setattr(known, "_get_capturable_supported_devices", lambda supports_xla=True: ["cpu"])


def gradients():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def moved(name, options, on_step=lambda step, optimizer: None):
    """What each step changed. From AT on all begin at the same weights, since some updates depend on these."""
    weights = torch.nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
    optimizer = getattr(optim, name)([weights], **options)
    changes = []
    for step, gradient in enumerate(gradients()):
        on_step(step, optimizer)
        with torch.no_grad():
            weights.fill_(1.0)
        sparse = gradient.to_sparse() if name == "SparseAdam" else gradient
        if name == "LBFGS":
            optimizer.step(lambda g=sparse: setattr(weights, "grad", g) or torch.tensor(1.0))
        else:
            weights.grad = sparse
            optimizer.step()
        changes.append(weights.detach() - 1.0)
    return changes


def test_every_optimizer_of_torch_is_tried():
    classes = {n for n, c in vars(optim).items() if inspect.isclass(c) and issubclass(c, optim.Optimizer)}
    assert classes - {"Optimizer"} == {name for name, _ in CASES} | {"Rprop"}


@pytest.mark.parametrize("at", [0, AT])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_every_step_is_the_factor_times_what_it_would_have_been(helm, name, options, at):
    bare = moved(name, options)

    def scale(step, optimizer):
        if step == at:
            helm.controls(optimizer).scale_learning_rate(FACTOR)

    scaled = moved(name, options, scale)
    later = at + 1 if name == "LBFGS" else STEPS  # which learns from its own steps: the next ones are others
    for step in range(later):
        expected = bare[step] * (FACTOR if step >= at else 1)
        torch.testing.assert_close(scaled[step], expected, rtol=1e-6, atol=1e-7)  # ASGD's own rates are float32


@pytest.mark.parametrize("name", ["ASGD", "Adafactor"])
def test_scale_that_is_taken_back_leaves_the_bare_run_behind(helm, name):
    def scale(step, optimizer):
        if step in (2, 6):
            helm.controls(optimizer).scale_learning_rate(0.5 if step == 2 else 2.0)

    scaled, bare = moved(name, WITH[name], scale), moved(name, WITH[name])
    assert all(torch.equal(one, other) for one, other in zip(scaled[6:], bare[6:], strict=True))


def test_rprop_is_refused(helm):
    optimizer = optim.Rprop([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(Refused, match=r"^Rprop reads its learning rate on the first step only"):
        helm.controls(optimizer).scale_learning_rate(FACTOR)


def test_lbfgs_with_a_line_search_says_what_a_factor_means(helm):
    optimizer = optim.LBFGS([torch.nn.Parameter(torch.ones(2))], line_search_fn="strong_wolfe")
    assert "line search" in helm.controls(optimizer).scale_learning_rate(FACTOR).note


def test_adafactor_is_not_raised_over_its_own_bound(helm):
    optimizer = optim.Adafactor([torch.nn.Parameter(torch.ones(2))], lr=0.5)
    controls = helm.controls(optimizer)
    with pytest.raises(Refused, match=r"1 / sqrt\(t\)"):
        controls.scale_learning_rate(3.0)
    assert "once that is less" in controls.scale_learning_rate(1.5).note


def test_adafactor_is_lowered_where_a_parameter_joins_that_is_far_from_its_bound(helm):
    """The bound is that of the parameter that has made most steps, or else the factor would not reach that one."""

    def run(factor=None):
        old, new = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
        optimizer = optim.Adafactor([old, new], lr=0.5)
        controls = helm.controls(optimizer)
        for step in range(26):
            old.grad = torch.ones_like(old)
            if step >= 24:
                new.grad = torch.ones_like(new)
            if step == 25:
                before = old.detach().clone()
                if factor is not None:
                    controls.scale_learning_rate(factor)
            optimizer.step()
        return old.detach() - before

    torch.testing.assert_close(run(0.5), 0.5 * run())


def test_asgd_reports_the_rate_that_was_used(helm):
    weights = torch.nn.Parameter(torch.ones(2))
    optimizer = optim.ASGD([weights], lr=0.5)
    helm.controls(optimizer).scale_learning_rate(0.5)
    weights.grad = torch.ones(2)
    optimizer.step()
    assert helm.steering.used(optimizer).learning_rates == [0.25]
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_asgd_whose_step_raises_has_its_own_rates_again(helm):
    weights = torch.nn.Parameter(torch.ones(2))
    optimizer = optim.ASGD([weights], lr=0.5)
    weights.grad = torch.ones(2)
    optimizer.step()
    before = optimizer.state[weights]["eta"].clone()
    helm.controls(optimizer).scale_learning_rate(0.5)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    helm.close()
    assert torch.equal(optimizer.state[weights]["eta"], before)


def test_asgd_whose_first_step_is_left_out_has_no_state(helm):
    weights = torch.nn.Parameter(torch.ones(2))
    optimizer = optim.ASGD([weights], lr=0.5)
    controls = helm.controls(optimizer)
    controls.scale_learning_rate(0.5)
    weights.grad = torch.ones(2)
    controls.skip_step()
    optimizer.step()
    assert not optimizer.state.get(weights)
    assert torch.equal(weights, torch.ones(2))


def test_every_optimizer_of_torch_is_known_as_its_own():
    """Whose updates can be left out without a copy of everything."""
    weights = torch.nn.Parameter(torch.ones(2, 2))
    names = {name for name, _ in CASES} | {"Rprop"}
    assert all(is_torchs_own(getattr(optim, name)([weights])) for name in names)


def test_decay_of_adafactor_that_is_placed_twice_is_the_users_again(helm):
    """Its rate is bounded by then, which its decay must not hear of; and its decay is scaled beside that."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = optim.Adafactor([parameter], lr=0.9, weight_decay=0.1)
    controls = helm.controls(optimizer)
    controls.scale_learning_rate(0.5)
    controls.scale_weight_decay(2.0)
    for _ in range(3):
        parameter.grad = torch.ones(2)
        optimizer.step()
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.9, 0.1)
    assert not helm.said


def test_decay_of_adafactor_that_begins_at_zero_is_by_the_scaled_rate(helm):
    """And not by its bound, which is less from the second step on."""
    parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = optim.Adafactor([parameter], lr=1.0)
    controls = helm.controls(optimizer)
    controls.scale_learning_rate(0.5)
    controls.scale_weight_decay(2.0, floor=0.1)
    for _ in range(3):
        parameter.grad = torch.zeros(2, dtype=torch.float64)
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.full((2,), (1 - 0.5 * 0.1) ** 3, dtype=torch.float64))


def test_adafactor_reports_the_decay_that_the_user_gave_where_only_the_rate_is_scaled(helm):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = optim.Adafactor([parameter], lr=1.0, weight_decay=0.1)
    helm.controls(optimizer).scale_learning_rate(0.5)
    for _ in range(3):
        parameter.grad = torch.ones(2)
        optimizer.step()
    assert helm.steering.used(optimizer).weight_decays == [0.1]
