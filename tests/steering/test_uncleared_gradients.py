"""A forgotten `zero_grad`: the call is made for the user, from the weights on that there were before."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trimtab.types import Adjustment, Alert

STEPS = 60
FOUND_AT = 16  # the 15th step that applied more than the one before it

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
}


class Forgetful:
    """Learns which of three numbers is the largest."""

    def __init__(self, kind, clears=False):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))
        self.optimizer = OPTIMIZERS[kind](self.model.parameters())
        self.clears = clears
        self.losses = []

    def step(self, seed, losses=1):
        inputs = torch.randn(32, 3, generator=torch.Generator().manual_seed(seed))
        if self.clears:
            self.optimizer.zero_grad()
        for part in inputs.chunk(losses):
            loss = F.cross_entropy(self.model(part), part.argmax(1))
            loss.backward()
        self.losses.append(loss.item())
        self.optimizer.step()

    @property
    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]


def adjustments(seen):
    return [(a.step, a.rule, a.action, a.outcome) for a in seen.backend.of(Adjustment)]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_run_goes_on_from_its_beginning_as_if_the_call_were_there(watching, kind):
    forgetful = Forgetful(kind)
    with watching(act="process") as seen:
        for step in range(STEPS):
            forgetful.step(step)
    mended = Forgetful(kind, clears=True)
    for step in range(FOUND_AT, STEPS):
        mended.step(step)
    assert adjustments(seen) == [
        (FOUND_AT, "gradients_uncleared", "roll_back", "applied"),
        (FOUND_AT, "gradients_uncleared", "clear_gradients", "applied"),
    ]
    assert all(map(torch.equal, forgetful.weights, mended.weights))
    assert seen.losses()[FOUND_AT:] == pytest.approx(mended.losses)


def test_it_is_told_where_nobody_may_act(watching):
    forgetful = Forgetful("adam")
    with watching() as seen:
        for step in range(STEPS):
            forgetful.step(step)
    found = [(alert.rule, alert.state, alert.step) for alert in seen.backend.of(Alert) if alert.step < 20]
    assert ("gradients_uncleared", "firing", FOUND_AT) in found
    assert seen.backend.of(Adjustment)[0].outcome == "dry_run"


def test_several_losses_a_step_are_applied_together_still(watching):
    forgetful = Forgetful("sgd")
    with watching(act="process") as seen:
        for step in range(STEPS):
            forgetful.step(step, losses=4)
    assert [action for _, _, action, outcome in adjustments(seen) if outcome == "applied"] == [
        "roll_back",
        "clear_gradients",
    ]
    assert {step.micro_steps for step in seen.steps()[FOUND_AT:]} == {4}


def test_a_step_of_bad_gradients_that_is_left_out_is_cleared_too(watching):
    forgetful = Forgetful("sgd")
    with watching(act="process", gradients_every=1) as seen:
        for step in range(STEPS):
            if step == 40:
                F.cross_entropy(forgetful.model(torch.full((4, 3), torch.inf)), torch.zeros(4).long()).backward()
                forgetful.optimizer.step()
            else:
                forgetful.step(step)
    assert (41, "loss_nonfinite", "skip_step", "applied") in adjustments(seen)
    assert all(weights.isfinite().all() for weights in forgetful.weights)
    assert seen.losses()[-1] < 0.5


def test_a_run_that_is_resumed_goes_on_clearing(watching):
    forgetful = Forgetful("sgd")
    with watching(act="process", run="r") as seen:
        for step in range(30):
            forgetful.step(step)
    assert len(adjustments(seen)) == 2
    forgetful.optimizer.zero_grad()
    with watching(act="process", run="r", resume=True) as again:
        for step in range(30, STEPS):
            forgetful.step(step)
    assert adjustments(again) == []
    assert all(not p.grad.any() for p in forgetful.model.parameters())
