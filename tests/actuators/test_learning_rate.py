"""A factor on the learning rate holds at every later step, and the schedule never knows."""

import copy
import json
import math
import pickle
import time

import pytest
import torch
from every_schedule import SCHEDULES, Recording, advance, every_class, groups, parameters, value_of
from torch import nn

from trimtab.actions import Refused
from trimtab.actuators.groups import Placed

STEPS, AT, FACTOR = 14, 3, 0.3


def run(optimizer, schedule, at=None):
    """Step by step: what was used, what the schedule said after each step, what the groups held before it."""
    scheduler = SCHEDULES[schedule](optimizer)
    said, held = [], []
    for step in range(STEPS):
        if at is not None and step == AT:
            at()
        held.append([value_of(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        said.append(advance(scheduler))
    return optimizer.used, said, held


def scaled(rates, factor=FACTOR):
    return [[factor * rate for rate in row] if step >= AT else row for step, row in enumerate(rates)]


def test_every_scheduler_of_torch_is_tried():
    assert set(SCHEDULES) >= every_class()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rate_is_scaled_and_the_schedule_is_not(helm, schedule):
    bare, said, held = run(Recording(groups()), schedule)
    optimizer = Recording(groups())
    controls = helm.controls(optimizer)
    used, shown, kept = run(optimizer, schedule, lambda: controls.scale_learning_rate(FACTOR))
    assert used == scaled(bare)
    assert (shown, kept) == (said, held)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rate_in_a_tensor_is_scaled_and_stays_the_users_tensor(helm, schedule, capturable):
    bare, said, _ = run(Recording(parameters(), torch.tensor(0.1, dtype=torch.float64)), schedule)
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = Recording(parameters(), rate, capturable=capturable)
    controls = helm.controls(optimizer)
    used, shown, _ = run(optimizer, schedule, lambda: controls.scale_learning_rate(FACTOR))
    assert used == scaled(bare)
    assert shown == said
    assert optimizer.param_groups[0]["lr"] is rate


def test_rate_in_a_tensor_is_on_record_unless_one_had_to_wait_for_it(helm):
    rates = [torch.tensor(0.5), 0.25]
    optimizer = Recording([{"params": [p], "lr": rate} for p, rate in zip(parameters(2), rates, strict=True)])
    change = helm.controls(optimizer).scale_learning_rate(0.5)
    assert change.before == {"learning_rate_scale": 1.0, "learning_rate": [0.5, 0.25]}
    assert change.after == {"learning_rate_scale": 0.5, "learning_rate": [0.25, 0.125]}
    elsewhere = Recording(parameters(), torch.tensor(0.5, device="meta"))
    assert helm.controls(elsewhere, label="1").scale_learning_rate(0.5).after == {"learning_rate_scale": 0.5}


@pytest.mark.parametrize("capturable", [False, True])
def test_groups_that_share_a_tensor_are_scaled_once(helm, capturable):
    rate = torch.tensor(0.1)
    optimizer = Recording([{"params": [p], "lr": rate} for p in parameters()], capturable=capturable)
    helm.controls(optimizer).scale_learning_rate(0.5)
    optimizer.step()
    assert optimizer.used == [[torch.tensor(0.1).mul(0.5).item()] * 2]
    assert all(group["lr"] is rate for group in optimizer.param_groups)
    assert rate.item() == torch.tensor(0.1).item()


@pytest.mark.parametrize("in_tensors", [False, True])
def test_scaling_costs_as_much_for_each_of_many_groups(in_tensors):
    """Recommender systems have one for each table; comparing each with each would take forty times as long."""

    def seconds(count):
        groups = [{"lr": torch.tensor(0.1) if in_tensors else 0.1, "params": []} for _ in range(count)]
        best = math.inf
        for _ in range(5):
            placed, began = Placed(), time.perf_counter()
            for group in groups:
                placed.multiply(group, "lr", 0.5)
            placed.put_back()
            best = min(best, time.perf_counter() - began)
        return best / count

    assert seconds(4000) < 10 * seconds(100)


def test_rate_that_is_none_is_refused(helm):
    optimizer = Recording(parameters(), lr=None)
    with pytest.raises(Refused, match="no learning rate"):
        helm.controls(optimizer).scale_learning_rate(0.5)
    optimizer.step()
    assert optimizer.used == [[None]]


def test_group_without_a_rate_is_left_alone_beside_one_that_has_one(helm):
    first, second = parameters()
    optimizer = Recording([{"params": [first], "lr": None}, {"params": [second]}], lr=0.1)
    helm.controls(optimizer).scale_learning_rate(0.5)
    optimizer.step()
    assert optimizer.used == [[None, 0.05]]


def test_other_optimizer_is_left_alone(helm):
    first, second = Recording(parameters()), Recording(parameters())
    helm.controls(first, label="0").scale_learning_rate(0.5)
    second.step()
    first.step()
    second.step()
    assert (first.used, second.used) == ([[0.05]], [[0.1], [0.1]])


def test_group_that_is_added_later_is_scaled_too(helm):
    optimizer = Recording(parameters())
    helm.controls(optimizer).scale_learning_rate(0.5)
    optimizer.add_param_group({"params": parameters(), "lr": 0.4})
    optimizer.step()
    assert optimizer.used == [[0.05, 0.2]]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_scale_holds_from_the_update_on_that_follows_it(helm, moment):
    optimizer = Recording(parameters())
    controls = helm.controls(optimizer)
    getattr(helm.judge, moment).append(lambda _: controls.scale_learning_rate(0.5))
    optimizer.step()
    optimizer.step()
    assert optimizer.used == ([[0.05], [0.05]] if moment == "before" else [[0.1], [0.05]])


def test_scale_that_is_set_behind_a_hook_of_the_users_holds_at_once(helm):
    optimizer = Recording(parameters())
    optimizer.register_step_pre_hook(lambda *_: None)
    controls = helm.controls(optimizer)
    helm.judge.before.append(lambda _: controls.scale_learning_rate(0.5))
    optimizer.step()
    optimizer.step()
    assert optimizer.used == [[0.05], [0.05]]


def test_factors_multiply_within_their_bounds(helm):
    optimizer = Recording(parameters())
    controls = helm.controls(optimizer)
    controls.scale_learning_rate(0.5)
    change = controls.scale_learning_rate(0.1, floor=0.2)
    assert change.before == {"learning_rate_scale": 0.5, "learning_rate": [0.05]}
    assert change.after == {"learning_rate_scale": 0.2, "learning_rate": [pytest.approx(0.02)]}
    with pytest.raises(Refused, match=r"floor of 0\.2"):
        controls.scale_learning_rate(0.5, floor=0.2)
    with pytest.raises(Refused, match=r"ceiling of 0\.1"):
        controls.scale_learning_rate(2.0, ceiling=0.1)
    assert helm.steering.scale("0") == 0.2


def test_factor_from_which_none_would_lead_back_is_refused(helm):
    optimizer = Recording(parameters())
    controls = helm.controls(optimizer)
    controls.scale_learning_rate(1e-300)
    with pytest.raises(Refused, match="would be 0 for good"):
        controls.scale_learning_rate(1e-300)
    assert helm.steering.scale("0") == 1e-300


def test_ramp_reaches_the_scale_in_equal_steps(helm):
    optimizer = Recording(parameters(), lr=1.0)
    helm.controls(optimizer).scale_learning_rate(0.2, ramp=4)
    for _ in range(6):
        optimizer.step()
    assert [rate for (rate,) in optimizer.used] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    assert optimizer.used[-1] == [0.2]


def test_second_factor_in_the_middle_of_a_ramp_goes_on_from_there(helm):
    optimizer = Recording(parameters(), lr=1.0)
    controls = helm.controls(optimizer)
    controls.scale_learning_rate(0.2, ramp=4)
    optimizer.step()
    controls.scale_learning_rate(0.5, ramp=2)
    for _ in range(3):
        optimizer.step()
    assert [rate for (rate,) in optimizer.used] == pytest.approx([0.8, 0.45, 0.1, 0.1])


def test_used_rates_can_be_read_after_the_step(helm):
    optimizer = Recording(parameters())
    controls = helm.controls(optimizer)
    optimizer.step()
    assert helm.steering.used(optimizer) is None
    controls.scale_learning_rate(0.5)
    optimizer.step()
    used = helm.steering.used(optimizer)
    assert (used.scale, used.learning_rates, used.weight_decays) == (0.5, [0.05], [0.01])


def test_scale_of_1_is_the_bare_rate_again(helm):
    optimizer = Recording(parameters())
    controls = helm.controls(optimizer)
    controls.scale_learning_rate(0.5)
    optimizer.step()
    controls.scale_learning_rate(2.0)
    optimizer.step()
    assert optimizer.used == [[0.05], [0.1]]
    assert helm.steering.used(optimizer) is None


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adam"])
def test_note_says_that_a_coupled_decay_scales_too(helm, name):
    optimizer = getattr(torch.optim, name)(parameters(), lr=0.1, weight_decay=0.1)
    change = helm.controls(optimizer).scale_learning_rate(0.5)
    assert change.note == (
        "" if name == "Adam" else f"The weight decay of {name} is multiplied by its rate, and scales too."
    )


def test_note_says_that_the_update_is_not_proportional_to_the_rate(helm):
    optimizer = type("Prodigy", (torch.optim.SGD,), {})(parameters(), lr=0.1, weight_decay=0.1)
    change = helm.controls(optimizer).scale_learning_rate(0.5)
    assert change.note == "A factor on the learning rate of Prodigy is not a factor on its update."


def test_checkpoint_shows_the_schedules_rate(helm):
    optimizer = Recording(parameters())
    helm.controls(optimizer).scale_learning_rate(0.5)
    optimizer.step()
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.1


def test_checkpoint_that_is_written_inside_the_closure_shows_the_schedules_rate(helm):
    optimizer = Recording(parameters())
    helm.controls(optimizer).scale_learning_rate(0.5)
    saved = []
    optimizer.step(lambda: saved.append(optimizer.state_dict()))
    assert saved[0]["param_groups"][0]["lr"] == 0.1
    assert optimizer.used == [[0.05]]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_steered_optimizer_can_be_copied_and_pickled(helm, copied):
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    helm.controls(optimizer).scale_learning_rate(0.5)
    optimizer.step()
    twin = copied(optimizer)
    assert twin.param_groups[0]["lr"] == 0.1
    twin.step()
    assert "step" not in vars(twin)


def test_resumed_run_keeps_its_scale(helm):
    first, second = Recording(parameters(), lr=1.0), Recording(parameters(), lr=1.0)
    helm.controls(first).scale_learning_rate(0.2, ramp=4)
    first.step()
    saved = json.loads(json.dumps(helm.steering.state_dict()))
    helm.steering.load_state_dict({"1": saved["0"]})
    helm.controls(second, label="1")
    for _ in range(4):
        second.step()
    assert [rate for (rate,) in second.used] == pytest.approx([0.6, 0.4, 0.2, 0.2])


def test_resumed_run_of_an_earlier_version_has_its_scale_and_nothing_else(helm):
    """It said nothing of clipping and clearing."""
    first, second = Recording(parameters(), lr=1.0), Recording(parameters(), lr=1.0)
    helm.controls(first).scale_learning_rate(0.2)
    known = ("learning_rate", "weight_decay", "dropout")
    helm.steering.load_state_dict({"1": {name: helm.steering.state_dict()["0"][name] for name in known}})
    helm.controls(second, label="1")
    weight = second.param_groups[0]["params"][0]
    weight.grad = torch.full_like(weight, 100.0)
    second.step()
    assert second.used == [[0.2]]
    assert (weight.grad == 100.0).all()


def test_resumed_run_goes_on_with_a_ramp_that_is_just_passing_1(helm):
    first, second = Recording(parameters(), lr=1.0), Recording(parameters(), lr=1.0)
    helm.controls(first).scale_learning_rate(0.5)
    helm.controls(first).scale_learning_rate(3.0, ramp=2)
    helm.steering.load_state_dict({"1": helm.steering.state_dict()["0"]})
    helm.controls(second, label="1")
    for _ in range(3):
        second.step()
    assert [rate for (rate,) in second.used] == [1.0, 1.5, 1.5]


def test_state_of_an_optimizer_that_is_not_met_yet_is_kept(helm):
    state = {"7": helm.steering.steered("0").state()}
    helm.steering.load_state_dict(state)
    assert helm.steering.state_dict()["7"] == state["7"]


def test_optimizer_that_takes_the_place_of_a_dropped_one_starts_anew(helm):
    optimizer = Recording(parameters())
    helm.controls(optimizer).scale_learning_rate(0.5)
    del optimizer
    optimizer = Recording(parameters())
    helm.controls(optimizer)
    optimizer.step()
    assert optimizer.used == [[0.1]]


def test_optimizer_that_joins_one_whose_rate_is_scaled_is_scaled_too(helm):
    first, second = Recording(parameters()), Recording(parameters())
    helm.controls(first).scale_learning_rate(0.5)
    helm.controls(second)
    second.step()
    assert second.used == [[0.05]]


def test_optimizers_inside_backward_are_scaled_together(helm):
    model = nn.Linear(3, 2)
    optimizers = [Recording([p]) for p in model.parameters()]
    helm.controls(*optimizers).scale_learning_rate(0.5)
    handles = [
        p.register_post_accumulate_grad_hook(lambda _, o=o: o.step())
        for p, o in zip(model.parameters(), optimizers, strict=True)
    ]
    model(torch.ones(1, 3)).sum().backward()
    assert [optimizer.used for optimizer in optimizers] == [[[0.05]], [[0.05]]]
    assert len(handles) == 2


def test_ramp_of_optimizers_inside_backward_is_one_step_a_round(helm):
    """A parameter that is frozen on the way has no update in a round, and holds nobody up."""
    model = nn.Linear(3, 2)
    optimizers = [Recording([p], lr=1.0) for p in model.parameters()]
    helm.controls(*optimizers).scale_learning_rate(0.2, ramp=4)
    for moving in (optimizers, optimizers, optimizers[:1], optimizers, optimizers):
        for optimizer in moving:
            optimizer.step()
    ramp = [0.8, 0.6, 0.4, 0.2, 0.2]
    assert [rate for (rate,) in optimizers[0].used] == pytest.approx(ramp)
    assert [rate for (rate,) in optimizers[1].used] == pytest.approx(ramp[:2] + ramp[3:])


def test_used_rate_of_a_capturable_optimizer_is_the_scaled_one(helm):
    optimizer = Recording(parameters(), torch.tensor(0.1), capturable=True)
    helm.controls(optimizer).scale_learning_rate(0.5)
    optimizer.step()
    (used,) = helm.steering.used(optimizer).learning_rates
    assert [[used.item()]] == optimizer.used


def test_factors_that_lead_back_to_1_lead_to_the_bare_run(helm):
    optimizer = Recording(parameters())
    controls = helm.controls(optimizer)
    assert 1 / 49 * 49 != 1
    for factor in (1 / 49, 49):
        controls.scale_learning_rate(factor)
    optimizer.step()
    assert optimizer.used == [[0.1]]


@pytest.mark.parametrize(
    ("kind", "options", "averages"),
    [
        ("SGD", {"lr": 0.1}, False),
        ("SGD", {"lr": 0.1, "momentum": 0.9}, True),
        ("Adam", {}, True),
        ("RMSprop", {}, False),
        ("RMSprop", {"momentum": 0.9}, True),
        ("Adagrad", {}, False),
        ("NAdam", {}, True),
    ],
)
def test_optimizer_with_momentum_steps_along_an_average_of_gradients(helm, kind, options, averages):
    optimizer = getattr(torch.optim, kind)(parameters(), **options)
    assert helm.controls(optimizer).averages() is averages


@pytest.mark.parametrize(
    ("kind", "options", "decay"),
    [
        ("RMSprop", {}, 0.99),
        ("RMSprop", {"alpha": 0.9, "centered": True}, 0.9),
        ("RMSprop", {"momentum": 0.9}, 0.0),
        ("Adam", {}, 0.0),
        ("Adagrad", {}, 0.0),
        ("ASGD", {}, 0.0),
    ],
)
def test_first_steps_of_rmsprop_are_longer_than_its_rate_by_the_decay_of_its_squares(helm, kind, options, decay):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = getattr(torch.optim, kind)([weight], lr=0.01, **options)
    assert helm.controls(optimizer).decay() == decay
    if decay:
        weight.grad = torch.ones(1)
        optimizer.step()
        assert -weight.item() == pytest.approx(0.01 / math.sqrt(1 - decay), rel=0.06)
