"""A stage: a new optimizer for the same weights, of which another thing is asked from there on."""

import pytest
import torch
from torch import nn

import trimtab
from trimtab.actions import RollBack

ACTS = {"act": "process", "policies": ["shipped"], "gradients_every": 1}
STEPS = 160


class Student:
    """Learns what a teacher says, and on request several times as much of it."""

    def __init__(self):
        torch.manual_seed(0)
        self.model, self.teacher = self._network(), self._network()
        self.begin()

    def _network(self):
        return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 8))

    def begin(self, lr=3e-3):
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr)

    def train(self, steps=STEPS, factor=1.0):
        losses = []
        for _ in range(steps):
            inputs = torch.randn(64, 8)
            with torch.no_grad():
                goal = factor * self.teacher(inputs) + torch.sin(inputs.roll(1, 1))
            self.optimizer.zero_grad()
            loss = (self.model(inputs) - goal).square().mean()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


@pytest.fixture
def student():
    return Student()


def told(seen):
    return [notice for notice in seen.notices if "a new optimizer trains what another one did" in notice]


def restored(seen):
    return [a.after["weights_of_step"] for a in seen.run.adjustments if "weights_of_step" in a.after]


@pytest.mark.parametrize("kept", [False, True])
def test_stage_whose_loss_is_higher_is_left_alone(watching, student, kept):
    optimizers = []
    with watching(**ACTS) as seen:
        for factor in (1.0, 6.0, 36.0):
            student.train(factor=factor)
            optimizers += [student.optimizer] if kept else []
            student.begin()
    assert not seen.run.alerts
    assert not seen.run.adjustments
    assert len(told(seen)) == 1


def test_higher_loss_of_the_same_optimizer_is_judged_as_ever(watching, student):
    with watching(**ACTS) as seen:
        student.train()
        student.train(factor=36.0)
    assert {"loss_spike", "loss_diverged"} & {alert.rule for alert in seen.run.alerts}
    assert told(seen) == []


def test_no_stage_is_gone_back_from_to_the_one_before(watching, student):
    wanted = []
    rule = trimtab.Rule("wanted", signal=lambda loss: float(bool(wanted)), threshold=0.5, severity="warning")
    policy = trimtab.Policy(on="wanted", ladder=[RollBack(back=100)])  # as far as there is
    with watching(act="process", gradients_every=1, rules=[rule], policies=[policy]) as seen:
        student.train(STEPS + 3)  # when no snapshot would be due
        student.begin()
        student.train(factor=6.0)
        wanted.append(True)
        student.train(2, factor=6.0)
    assert restored(seen)[0] == STEPS + 3


@pytest.mark.parametrize("factor", [1.0, 6.0])
def test_rate_far_too_high_from_the_first_step_of_a_stage_is_named_and_lowered(watching, student, factor):
    with watching(**ACTS) as seen:
        student.train()
        student.begin(lr=0.3)
        losses = student.train(3 * STEPS, factor)
    assert seen.run.alerts
    assert restored(seen)
    assert factor == 1.0 or min(restored(seen)) >= STEPS
    assert seen.run.state_dict()["steering"]["0"]["learning_rate"]["target"] < 0.5
    assert sum(losses[-20:]) < 0.7 * sum(losses[40:60])


def test_optimizers_made_every_few_steps_begin_no_stage(watching, student):
    with watching(**ACTS) as seen:
        for _ in range(8):
            student.train(20)
            student.begin()
        student.train(60, factor=36.0)
    assert told(seen) == []
    assert seen.run.alerts


def test_trouble_just_before_a_new_optimizer_is_no_stage(watching, student):
    """What its first loss is of was moved by the one before it."""
    with watching(**ACTS) as seen:
        student.train()
        student.optimizer.param_groups[0]["lr"] = 1.0
        student.train(12)
        student.begin()
        student.train(60)
    assert told(seen) == []
    assert seen.run.alerts


def test_optimizer_of_other_weights_takes_nobodys_place(watching, student):
    with watching(**ACTS) as seen:
        student.train()
        student.optimizer = torch.optim.Adam(student.model[2:].parameters(), lr=3e-3)
        student.train(40, factor=36.0)
    assert told(seen) == []
