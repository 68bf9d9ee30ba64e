"""Averaged copies of the models go back with them: one that took a NaN would keep it for ever."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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


def test_a_copy_that_the_user_gave_is_restored():
    _, parts = trained()
    copied = nn.Linear(3, 2)
    parts = Parts(models=parts.models, optimizers=parts.optimizers, averages=[copied])
    snapshots, saved = Snapshots(), copied.weight.tolist()
    snapshots.meet(parts)
    copied.weight.data.fill_(float("nan"))
    snapshots.roll_back(parts, 2)
    assert copied.weight.tolist() == saved
