"""Averaged copies of the models go back with them: one that took a NaN would keep it for ever."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trimtab import searches
from trimtab.actuators.averages import Averages
from trimtab.actuators.parts import Parts
from trimtab.actuators.snapshots import Snapshots


def trained():
    model = nn.Linear(3, 2)
    return model, Parts(models={"model": model}, optimizers={"0": torch.optim.SGD(model.parameters(), lr=0.1)})


def poison(model, average):
    model.weight.data.fill_(float("nan"))
    average.update_parameters(model)
    assert average.module.weight.isnan().all()


def test_an_average_that_took_nan_is_found_and_restored():
    model, parts = trained()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)
    snapshots, saved = Snapshots(), average.module.weight.tolist()
    snapshots.meet(parts)
    poison(model, average)
    snapshots.roll_back(parts, 2)
    assert average.module.weight.tolist() == saved
    assert average.n_averaged == 1


def test_an_average_of_a_part_of_the_model_is_found():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    parts = Parts(models={"model": model}, optimizers={"0": torch.optim.SGD(model.parameters(), lr=0.1)})
    average = AveragedModel(model[0])
    average.update_parameters(model[0])
    snapshots = Snapshots()
    snapshots.meet(parts)
    poison(model[0], average)
    snapshots.roll_back(parts, 2)
    assert average.module.weight.isfinite().all()


def test_an_average_of_another_model_is_left_alone():
    _, parts = trained()
    other = AveragedModel(nn.Linear(5, 5))
    snapshots = Snapshots()
    snapshots.meet(parts)
    other.module.weight.data.fill_(1.0)
    snapshots.roll_back(parts, 2)
    assert other.module.weight.eq(1.0).all()


class Ema(nn.Module):
    """As those of timm and of many scripts."""

    def __init__(self, model):
        super().__init__()
        self.module = copy.deepcopy(model).requires_grad_(False)


def test_copy_that_may_be_an_average_is_told_of_once():
    model = nn.Linear(11, 7)
    parts = Parts(models={"model": model}, optimizers={"0": torch.optim.SGD(model.parameters(), lr=0.1)})
    ema, snapshots = Ema(model), Snapshots()
    snapshots.meet(parts)
    assert "Not turned back: 1 of the same shapes as a model (Ema)" in snapshots.roll_back(parts, 3).note
    assert snapshots.roll_back(parts, 4).note == ""
    assert ema.module.weight is not model.weight


def test_nothing_is_told_of_copies_that_are_turned_back_or_of_other_shapes():
    model = nn.Linear(13, 7)
    named, other, around = Ema(model), nn.Linear(13, 8), nn.Sequential(model)
    parts = Parts(
        models={"model": model}, optimizers={"0": torch.optim.SGD(model.parameters(), lr=0.1)}, averages=[named]
    )
    snapshots = Snapshots()
    snapshots.meet(parts)
    assert snapshots.roll_back(parts, 3).note == ""
    assert (other.out_features, around[0]) == (8, model)


def test_an_average_younger_than_the_snapshot_begins_again():
    model, parts = trained()
    snapshots = Snapshots()
    snapshots.meet(parts)
    average = AveragedModel(model)
    average.update_parameters(model)
    poison(model, average)
    assert snapshots.may_restore(parts)
    snapshots.roll_back(parts, 2)
    average.update_parameters(model)
    assert average.module.weight.equal(model.weight)


@pytest.mark.parametrize("is_named", [False, True], ids=["found", "named"])
def test_an_average_that_had_not_begun_keeps_its_weights_and_begins_again(is_named):
    model, parts = trained()
    average = AveragedModel(model)
    if is_named:
        parts = Parts(models=parts.models, optimizers=parts.optimizers, averages=[average])
    snapshots = Snapshots()
    snapshots.meet(parts)
    snapshots.take_best(parts, 1)
    for weight in (2.0, 4.0):
        model.weight.data.fill_(weight)
        average.update_parameters(model)
    assert snapshots.may_restore(parts)
    snapshots.restore_best(parts, 3)
    assert average.module.weight.eq(3.0).all()  # which the user evaluates after a run
    average.update_parameters(model)
    assert average.module.weight.equal(model.weight)


def test_a_copy_that_the_user_gave_is_restored():
    _, parts = trained()
    copied = nn.Linear(3, 2)
    parts = Parts(models=parts.models, optimizers=parts.optimizers, averages=[copied])
    snapshots, saved = Snapshots(), copied.weight.tolist()
    snapshots.meet(parts)
    copied.weight.data.fill_(float("nan"))
    snapshots.roll_back(parts, 2)
    assert copied.weight.tolist() == saved


class Lookahead(torch.optim.Optimizer):
    """As it goes around: it calls no `super().__init__()`, so no hook of its own fires, and shares what it wraps."""

    def __init__(self, inner):
        self.inner, self.param_groups, self.state, self.defaults = inner, inner.param_groups, inner.state, {}
        self.slow = [p.detach().clone() for group in inner.param_groups for p in group["params"]]
        self.count = 0

    def step(self, closure=None):
        self.inner.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            with torch.no_grad():
                for slow, fast in zip(self.slow, self.inner.param_groups[0]["params"], strict=True):
                    fast.copy_(slow.add_(fast - slow, alpha=0.5))


def lookahead_loop():
    torch.manual_seed(2)
    model = nn.Linear(3, 2)
    inner = torch.optim.Adam(model.parameters(), lr=0.1)
    outer = Lookahead(inner)
    data = torch.Generator().manual_seed(1)

    def step(scale=1.0):
        inner.zero_grad()
        (model(torch.randn(8, 3, generator=data)).square().mean() * scale).backward()
        outer.step()

    return model, inner, outer, step


def test_weights_of_an_optimizer_that_no_hook_tells_of_go_back_too():
    model, inner, outer, step = lookahead_loop()
    parts, snapshots = Parts(models={"model": model}, optimizers={"0": inner}), Snapshots()
    step()
    snapshots.meet(parts)
    before = [t.clone() for t in (*model.parameters(), *outer.slow)]
    moments = inner.state[model.weight]["exp_avg"]
    saved = moments.clone()
    for _ in range(3):
        step(scale=float("nan"))
    snapshots.roll_back(parts, 4)
    assert all(map(torch.equal, (*model.parameters(), *outer.slow), before))
    assert outer.count == 1
    assert inner.state[model.weight]["exp_avg"] is moments, "state that both share is restored in place"
    assert torch.equal(moments, saved)


def test_optimizer_that_holds_another_one_is_left_alone():
    _model, parts = trained()
    stranger = Lookahead(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1))
    snapshots = Snapshots()
    snapshots.meet(parts)
    stranger.slow[0].fill_(7.0)
    snapshots.roll_back(parts, 2)
    assert stranger.slow[0].eq(7.0).all()


@pytest.mark.parametrize(("affordable_s", "values"), [(60.0, [1.0]), (0.0, [2.0])])
def test_average_that_is_no_new_object_is_looked_for_within_what_is_affordable(monkeypatch, affordable_s, values):
    monkeypatch.setattr(searches, "FIRST", 0)
    monkeypatch.setattr(searches, "FREE_S", affordable_s)
    monkeypatch.setattr(searches, "SHARE", 0.0)
    model, parts = trained()
    average = AveragedModel(model)
    average.update_parameters(model)
    average.module.weight.data.fill_(1.0)
    gc.collect()
    snapshots = Snapshots()
    snapshots.meet(parts)
    average.module.weight.data.fill_(2.0)
    snapshots.roll_back(parts, 2)
    assert average.module.weight.unique().tolist() == values


def test_average_that_was_found_is_kept_by_a_search_among_new_objects():
    model, parts = trained()
    before, averages = AveragedModel(model), Averages()
    averages.search(parts)
    gc.collect()
    after = AveragedModel(model)
    averages.search(parts, everywhere=False)
    assert list(map(id, averages.added_to(parts).averages)) == [id(before), id(after)]


def test_holder_that_was_found_is_kept_by_a_search_among_new_objects():
    _, parts = trained()
    holder, averages = Lookahead(parts.optimizers["0"]), Averages()
    averages.search(parts)
    gc.collect()
    averages.search(parts, everywhere=False)
    assert averages.added_to(parts).optimizers["0.holder"] is holder
