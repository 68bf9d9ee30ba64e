"""On which calls of a loss function predictions are looked at: intervals are of steps, however many calls one has."""

import pytest
import torch

from trimtab.capture.looks import Looks
from trimtab.capture.said import Said
from trimtab.sample.criteria import MEAN, LossCall
from trimtab.sample.spacing import Spacing


@pytest.fixture
def looks():
    return Looks(Spacing(0.1, 8), lambda: 0.0)


def looked_at(looks, steps, calls):
    """On which steps, and at how many calls of each."""
    found = {}
    for step in range(steps):
        said = Said()
        for _ in range(calls):
            looks.calls += 1
            output, logits, labels = torch.tensor(0.5), torch.tensor([[0.1, 0.9]]), torch.tensor([1])
            looks.read(LossCall("cross_entropy_loss", 1, output, logits, labels, MEAN, "multiclass"), said, 0.0)
        looks.end_step()
        if said.predictions:
            found[step] = len(said.predictions)
    return found


@pytest.mark.parametrize(("calls", "most"), [(1, 1), (5, 5), (50, 50), (100, 64)])
def test_predictions_are_looked_at_every_so_many_steps(looks, calls, most):
    assert looked_at(looks, 32, calls) == dict.fromkeys([0, 8, 16, 24], most)
