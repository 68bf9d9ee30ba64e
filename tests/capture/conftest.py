"""Small models and loops that tests of capture share."""

import pytest
import torch
from torch import nn

from trimtab.capture import attribution


@pytest.fixture(params=["warming up", "warm"])
def warmth(request, monkeypatch):
    """Whether every graph is walked, as in the first steps of a run, or only where the short path cannot tell."""
    if request.param == "warm":
        monkeypatch.setattr(attribution, "WARM_UP_WALKS", 0)


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture
def inputs():
    return torch.randn(6, 4)


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 2, 1, 0])
