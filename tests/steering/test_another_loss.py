"""A training whose loss becomes another one: pretrained on one task, then trained on the next."""

import math

import pytest
import torch
from torch.nn import functional as F

import trimtab

ACTS = {"act": "process", "policies": ["shipped"]}


class Phases:
    """An encoder with two heads, and one optimizer for all of it."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.ModuleDict({name: torch.nn.Linear(8, 8) for name in ("encoder", "decoder", "classifier")})
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.inputs = torch.randn(16, 8)

    def encoded(self):
        return self.model["encoder"](self.inputs)

    def reconstruct(self):
        return 0.01 * F.mse_loss(self.model["decoder"](self.encoded()), self.inputs)

    def classify(self):
        return F.cross_entropy(self.model["classifier"](self.encoded()), self.inputs.argmax(1))

    def by_hand(self):
        return -self.model["classifier"](self.encoded()).log_softmax(1).diagonal().mean()

    def train(self, loss_of, steps=100):
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss_of().backward()
            self.optimizer.step()

    def validate(self, loss_of):
        self.model.eval()
        with torch.no_grad():
            value = loss_of().item()
        self.model.train()
        return value


@pytest.fixture
def phases():
    return Phases()


def told(seen):
    return [notice for notice in seen.notices if "a loss that it did not have before" in notice]


@pytest.mark.parametrize(
    ("first", "second", "scale"),
    [
        ("reconstruct", "classify", 1.0),
        ("reconstruct", "by_hand", 1.0),
        ("by_hand", "classify", 100.0),
        ("classify", "reconstruct", 1e6),
    ],
)
def test_another_loss_is_not_judged_by_the_one_before(watching, phases, first, second, scale):
    with watching(**ACTS) as seen:
        phases.train(getattr(phases, first))
        phases.train(lambda: scale * getattr(phases, second)())
    assert not seen.run.alerts
    assert not seen.run.adjustments
    assert len(told(seen)) == 1
    assert "After step 100 " in told(seen)[0]


def test_jump_of_the_same_loss_is_judged_as_ever(watching, phases):
    """What the test above would miss, were losses never judged."""
    with watching(**ACTS) as seen:
        phases.train(phases.classify)
        phases.train(lambda: 1e6 * phases.classify(), 30)
    assert "loss_spike" in {alert.rule for alert in seen.run.alerts}


def test_another_loss_is_judged_in_its_turn(watching, phases):
    with watching(**ACTS) as seen:
        phases.train(phases.reconstruct)
        phases.train(phases.classify)
        phases.train(lambda: 1e6 * phases.classify(), 30)
    assert {(alert.rule, alert.step > 200) for alert in seen.run.alerts if alert.rule == "loss_spike"} == {
        ("loss_spike", True)
    }


def test_losses_that_take_turns_from_the_beginning_are_nothing_new(watching, phases):
    with watching(**ACTS) as seen:
        for _ in range(60):
            phases.train(phases.reconstruct, 1)
            phases.train(phases.classify, 1)
            phases.train(phases.by_hand, 1)
    assert told(seen) == []


def test_return_to_a_loss_is_nothing_new(watching, phases):
    with watching(**ACTS) as seen:
        for loss_of in (phases.reconstruct, phases.classify, phases.reconstruct, phases.classify):
            phases.train(loss_of, 40)
    assert len(told(seen)) == 1


def test_loss_that_validation_alone_has_is_nothing_new(watching, phases):
    with watching(**ACTS) as seen:
        phases.train(phases.reconstruct)
        phases.validate(phases.classify)
        phases.train(phases.reconstruct)
    assert told(seen) == []


@pytest.mark.parametrize(("first", "second"), [("reconstruct", "classify"), ("classify", "reconstruct")])
def test_best_state_is_that_of_the_loss_that_validation_has_now(watching, phases, first, second):
    """The best of a loss of 0.01 is below all that one of 2 can reach."""
    first, second = getattr(phases, first), getattr(phases, second)
    with watching(act="process", policies=[]):
        for _ in range(2):
            phases.train(first, 30)
            phases.validate(first)
        found = []
        for sign in (1, 1, -1):
            phases.train(lambda sign=sign: sign * second(), 30)
            found.append(phases.validate(second))
        assert found[1] < min(found[0], found[2])
        assert trimtab.restore_best()
    assert math.isclose(phases.validate(second), found[1], rel_tol=1e-5)


def test_patience_begins_anew_with_another_loss(watching, phases):
    with watching(act="process", policies=[]) as seen:
        for loss_of in (phases.reconstruct, phases.classify):
            for _ in range(12):
                phases.train(loss_of, 5)
                phases.validate(loss_of)
    assert "no_improvement" not in {alert.rule for alert in seen.run.alerts}
