"""Files of best and last state are the user's own kind, and load without trust."""

import numpy
import pytest
import torch
from torch import nn

from trimtab.actions import Refused
from trimtab.actuators.parts import Parts
from trimtab.actuators.saving import save


def trained():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_saved_file_loads_into_a_new_model_and_optimizer(tmp_path):
    model, optimizer = trained()
    path = save(Parts(models={"net": model}, optimizers={"adam": optimizer}), tmp_path / "deep" / "best.pt", 7)
    saved = torch.load(path, weights_only=True)
    other, theirs = trained()
    other.load_state_dict(saved["models"]["net"])
    theirs.load_state_dict(saved["optimizers"]["adam"])
    assert saved["step"] == 7
    assert all(a.equal(b) for a, b in zip(other.state_dict().values(), model.state_dict().values(), strict=True))
    assert theirs.state[other[0].weight]["exp_avg"].equal(optimizer.state[model[0].weight]["exp_avg"])


def test_a_rate_of_numpy_is_saved_as_a_number(tmp_path):
    _, optimizer = trained()
    optimizer.param_groups[0]["lr"] = numpy.float64(0.5)
    saved = torch.load(save(Parts(optimizers={"0": optimizer}), tmp_path / "last.pt", 1), weights_only=True)
    assert saved["optimizers"]["0"]["param_groups"][0]["lr"] == 0.5


class Odd:
    """Something that `weights_only` does not know."""


def test_what_such_a_file_may_not_hold_is_left_out_and_named(tmp_path):
    model, optimizer = trained()
    optimizer.state[model[0].weight]["odd"] = Odd()
    saved = torch.load(save(Parts(optimizers={"0": optimizer}), tmp_path / "last.pt", 1), weights_only=True)
    assert saved["left_out"] == ["optimizers.0.state.0.odd"]


def test_a_file_is_replaced_whole(tmp_path):
    _, optimizer = trained()
    for step in (1, 2):
        path = save(Parts(optimizers={"0": optimizer}), tmp_path / "last.pt", step)
    assert torch.load(path, weights_only=True)["step"] == 2
    assert [each.name for each in tmp_path.iterdir()] == ["last.pt"]


def test_a_file_that_does_not_fit_its_disk_leaves_the_one_before_and_nothing_else(tmp_path, full_disk):
    _, optimizer = trained()
    save(Parts(optimizers={"0": optimizer}), tmp_path / "last.pt", 1)
    with full_disk(), pytest.raises(Refused, match="cannot be written"):
        save(Parts(optimizers={"0": optimizer}), tmp_path / "last.pt", 2)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["last.pt"]


def test_link_in_the_way_of_a_file_is_not_written_through(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    (tmp_path / "last.pt.partial").symlink_to(elsewhere)
    save(Parts(optimizers={}), tmp_path / "last.pt", 1)
    assert elsewhere.read_text() == "precious"
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 1
