"""Programs that grow and prune put new parameters in the place of those in an optimizer's groups."""

import pytest
import torch
from torch import nn

from trimtab.capture import attribution

pytestmark = pytest.mark.usefixtures("warmth")

STEPS = 9
SWAPS = (3, 6)


class Points:
    """Two groups, as in Gaussian splatting."""

    def __init__(self):
        self.groups = [{"params": [nn.Parameter(torch.randn(5, 2))], "lr": 0.1 / (1 + i)} for i in range(2)]
        self.optimizer = torch.optim.Adam(self.groups)
        self.losses, self.norms = [], []

    def swap(self, *groups):
        """Give `groups` parameters of other shapes, and the optimizer's state to these."""
        for index in groups:
            group = self.optimizer.param_groups[index]
            old, group["params"] = group["params"][0], [nn.Parameter(torch.randn(7, 2))]
            self.optimizer.state.pop(old, None)

    def backward(self):
        loss = sum(p.pow(2).mean() for group in self.optimizer.param_groups for p in group["params"])
        loss.backward()
        self.losses.append(loss.item())

    def step(self):
        present = [p.grad for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
        self.norms.append(nn.utils.get_total_norm(present).item() if present else None)
        self.optimizer.step()
        self.optimizer.zero_grad()


@pytest.fixture(params=[(0,), (1,), (0, 1)], ids=["first", "second", "both"])
def groups(request):
    return request.param


@pytest.mark.parametrize("gradients_every", [1, 100])
@pytest.mark.parametrize("when", ["before backward", "before the step"])
def test_losses_and_gradients_are_those_of_the_new_ones(watching, groups, when, gradients_every, monkeypatch):
    monkeypatch.setattr(attribution, "STRAY_WALKS", 2)  # the first step takes one, a swap another
    points = Points()
    with watching(gradients_every=gradients_every) as seen:
        for step in range(STEPS):
            if step in SWAPS and when == "before backward":
                points.swap(*groups)
            points.backward()
            if step in SWAPS and when == "before the step":
                points.swap(*groups)
            points.step()
    assert seen.losses() == pytest.approx(points.losses)
    if gradients_every == 1:
        assert [step.gradient_norm for step in seen.steps()] == pytest.approx(points.norms)


def test_one_group_is_followed_too(watching):
    points = Points()
    del points.optimizer.param_groups[1]
    with watching(gradients_every=100) as seen:
        for step in range(20 * STEPS):
            if step % 20 == 10:
                points.swap(0)
            points.backward()
            points.step()
    assert seen.losses() == pytest.approx(points.losses)
