"""Trainings whose loss comes down by less than it swings: always, or in their first steps."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trimtab.types import Adjustment

STEPS = 800  # the patience of `loss_high` is over before


@pytest.mark.parametrize("policies", [None, ["shipped"]])
def test_loss_that_has_not_come_down_is_sent_back_only_where_the_user_says_so(watching, policies):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    nn.init.zeros_(model[2].weight)  # what it begins with is the noise alone
    nn.init.zeros_(model[2].bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with watching(act="process", gradients_every=8, policies=policies) as seen:
        for _ in range(STEPS):
            inputs = torch.randn(64, 10)
            optimizer.zero_grad()
            targets = torch.randn(64)
            F.mse_loss(model(inputs)[:, 0], targets / targets.square().mean().sqrt()).backward()
            optimizer.step()
    answers = [each for each in seen.backend.of(Adjustment) if each.rule == "loss_high"]
    if policies is None:
        assert {each.outcome for each in answers} == {"refused"}
        assert all(each.reason.startswith("the loss has come down by less than it swings") for each in answers)
    else:
        assert "applied" in {each.outcome for each in answers}


def test_loss_that_is_high_while_validation_gets_better_is_answered_by_that(watching):
    torch.manual_seed(0)
    model = nn.Linear(10, 1)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-4)
    held_out = torch.randn(1000, 10)
    with watching(act="process", gradients_every=8) as seen:
        for step in range(2 * STEPS):
            inputs = torch.randn(4, 10)
            optimizer.zero_grad()
            F.mse_loss(model(inputs)[:, 0], inputs[:, 0] + 5.0 * torch.randn(4)).backward()
            optimizer.step()
            if step % 100 == 99:
                model.eval()
                with torch.no_grad():
                    F.mse_loss(model(held_out)[:, 0], held_out[:, 0])
                model.train()
    answers = [each for each in seen.backend.of(Adjustment) if each.rule == "loss_high"]
    assert answers
    assert all(each.reason.startswith("validation gets better from pass to pass") for each in answers)


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.1])
def test_weights_that_have_far_to_go_may_take_long_steps(watching, rate):
    """Prices as they are: until outputs are on their scale the loss tells only which prices are in a batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    with watching(act="process", gradients_every=1) as seen:
        for _ in range(100):
            inputs = torch.randn(64, 8)
            prices = 200_000 + 60_000 * inputs[:, 0] + 40_000 * torch.randn(64)
            optimizer.zero_grad()
            F.mse_loss(model(inputs)[:, 0], prices).backward()
            optimizer.step()
    assert not seen.backend.of(Adjustment)
