"""A sampler is asked for its length, and the run does not notice."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from trimtab.capture.lengths import length_of

SAMPLES, BATCH = 12, 4
DRAWS = {
    "torch": lambda _: torch.randperm(SAMPLES).tolist(),
    "python": lambda _: random.sample(range(SAMPLES), SAMPLES),
    "numpy": lambda _: np.random.permutation(SAMPLES).tolist(),
    "own, of torch": lambda sampler: torch.randperm(SAMPLES, generator=sampler.generator).tolist(),
    "own, of Python": lambda sampler: sampler.random.sample(range(SAMPLES), SAMPLES),
    "when counted": lambda sampler: vars(sampler).pop("counted", None) or torch.randperm(SAMPLES).tolist(),
    "own, of NumPy": lambda sampler: sampler.rng.permutation(SAMPLES).tolist(),
}


class Drawing:
    """Draws all indices to count them, as samplers do that put samples of a length together."""

    def __init__(self, draw):
        self.draw = draw
        self.passes = 0
        self.generator = torch.Generator().manual_seed(1)
        self.random = random.Random(1)
        self.rng = np.random.default_rng(1)

    def __iter__(self):
        self.passes += 1
        return iter(self.draw(self))

    def __len__(self):
        length = sum(1 for _ in self)
        self.counted = self.draw(self)  # which the next pass may take
        return length


class InBatches(Drawing):
    def __iter__(self):
        indices = list(super().__iter__())
        return (indices[i : i + BATCH] for i in range(0, SAMPLES, BATCH))


def trained(sampler):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    dataset = TensorDataset(torch.randn(SAMPLES, 4), torch.arange(SAMPLES) % 3)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        for inputs, labels in DataLoader(dataset, batch_sampler=sampler):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model.weight.tolist(), sampler_of(sampler).passes, torch.rand(1).item(), random.random(), np.random.rand()


def sampler_of(sampler):
    return sampler.sampler if isinstance(sampler, BatchSampler) else sampler


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize(
    "made", [InBatches, lambda draw: BatchSampler(Drawing(draw), BATCH, drop_last=False)], ids=["batches", "samples"]
)
def test_sampler_that_draws_to_count_its_batches_draws_what_it_would_without_us(watching, made, draw):
    bare = trained(made(draw))
    with watching() as seen:
        assert trained(made(draw)) == bare
    assert [epoch.train.samples for epoch in seen.epochs] == [SAMPLES] * 3


def test_length_is_told_where_it_is_known():
    assert length_of(Drawing(DRAWS["torch"])) == SAMPLES
    assert length_of([[0, 1], [2]]) == 2
    assert length_of(iter([])) is None
