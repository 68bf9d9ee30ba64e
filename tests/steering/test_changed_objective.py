"""A real run whose task changes on purpose is left to learn the new one, one of reinforcement learning altogether."""

import math
import sys
import types

import pytest
import torch
from torch.nn import functional as F

import trimtab

STEPS, SWITCH = 300, 150
RISING = {"loss_spike", "loss_diverged", "loss_oscillating", "loss_high"}


def train(inputs, places, nan_at=None):
    """Which place holds the largest number, and from the switch on another order of the answers."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(STEPS):
        x = torch.randn(64, 8) * (math.nan if step == nan_at else 1.0)
        wanted = x.argmax(1)
        loss = F.cross_entropy(model(x), wanted if step < SWITCH else places[wanted])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if trimtab.should_stop():
            break
    with torch.no_grad():
        return (model(inputs).argmax(1) == places[inputs.argmax(1)]).float().mean().item()


@pytest.fixture
def places():
    return (torch.arange(8) + 3) % 8


@pytest.fixture
def inputs():
    return torch.randn(512, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def watched(tmp_path, inputs, places):
    """`watched(nan_at=..., **settings)` trains where gymnasium is loaded; returns accuracy and the run."""

    def make(nan_at=None, library="gymnasium", **settings):
        given = {"run": "rl", "directory": tmp_path, "backends": ["jsonl"], "gradients_every": 1} | settings
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, library, types.ModuleType(library))
            with trimtab.watch(act="process", **given) as run:
                return train(inputs, places, nan_at), run

    return make


def test_run_whose_task_changes_is_neither_halted_nor_slowed(tmp_path, inputs, places):
    bare = train(inputs, places)
    with trimtab.watch(run="tasks", directory=tmp_path, backends=["jsonl"], act="process", gradients_every=1) as run:
        watched = train(inputs, places)
    assert any(each.action == "roll_back" for each in run.adjustments)
    assert "halt" not in {each.action for each in run.adjustments}
    assert watched > bare - 0.05


def fired(run):
    return {alert.rule for alert in run.alerts}


def test_loss_is_neither_judged_nor_acted_upon_in_reinforcement_learning(watched, inputs, places, capsys):
    accuracy, run = watched(backends=["console"])
    assert accuracy == train(inputs, places)
    assert not fired(run) & RISING
    assert not [each for each in run.adjustments if each.outcome == "applied"]
    assert "gymnasium is loaded" in capsys.readouterr().err


def test_loss_is_judged_where_no_library_of_environments_is_loaded(watched):
    _, run = watched(library="no_environments")
    assert fired(run) & RISING


def test_rule_with_a_table_is_judged_in_reinforcement_learning_and_not_acted_upon(watched, inputs, places):
    table = {"name": "loss_diverged", "threshold": 0.5}
    accuracy, run = watched(rules=[table])
    assert accuracy == train(inputs, places)
    assert fired(run) & RISING == {"loss_diverged"}
    assert {each.outcome for each in run.adjustments} == {"refused"}
    assert all(each.reason.startswith("gymnasium is loaded") for each in run.adjustments)
    assert len({(each.policy, each.action) for each in run.adjustments}) == len(run.adjustments)  # once in an episode


def test_nan_is_answered_in_reinforcement_learning_too(watched):
    _, run = watched(nan_at=50)
    assert [each.action for each in run.adjustments if each.outcome == "applied"] == ["skip_step"]


def test_named_policies_act_in_reinforcement_learning(watched):
    _, run = watched(policies=["shipped"])
    assert any(each.action == "roll_back" and each.outcome == "applied" for each in run.adjustments)
