"""How many targets a batch's predictions meet: the same for few targets, compared in Python, and for many."""

import pytest
import torch

from trimtab.sample.criteria import FEW, MEAN, LossCall, predictions


def counted(logits, targets, ignore_index=-100):
    call = LossCall(
        "cross_entropy_loss", targets.numel(), logits.sum(), logits, targets, MEAN, "multiclass", None, ignore_index
    )
    met, count = predictions(call)
    return float(met), float(count)


def one_by_one(logits, targets, ignore_index):
    """The slow and obvious way."""
    rows = logits.movedim(1, -1).reshape(-1, logits.shape[1]).tolist()
    wanted = [t for t in enumerate(targets.flatten().tolist()) if t[1] != ignore_index]
    return sum(max(range(len(rows[i])), key=rows[i].__getitem__) == t for i, t in wanted), len(wanted)


@pytest.mark.parametrize("ignore_index", [-100, 1])
@pytest.mark.parametrize("shape", [(7, 3), (FEW, 5), (FEW + 1, 5), (2, 4, 6), (40, 4, 30)])
def test_targets_that_are_met(shape, ignore_index):
    torch.manual_seed(0)
    logits = torch.randn(shape)
    targets = torch.randint(shape[1], (shape[0], *shape[2:]))
    targets[::5] = ignore_index
    assert counted(logits, targets, ignore_index) == one_by_one(logits, targets, ignore_index)


def test_single_target():
    assert counted(torch.tensor([0.1, 0.9]), torch.tensor(1)) == (1.0, 1.0)


def test_targets_that_are_all_ignored():
    assert counted(torch.randn(4, 3), torch.full((4,), -100)) == (0.0, 0.0)
