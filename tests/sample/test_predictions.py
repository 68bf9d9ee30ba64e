"""How many targets a batch's predictions meet: the same for few targets, compared in Python, and for many."""

import pytest
import torch
from torch.nn import functional as F

from trimtab.sample.chance import tally
from trimtab.sample.criteria import FEW, MEAN, SUM, LossCall, criterion, predictions


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


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("count", [8, FEW + 1])
def test_labels_that_are_bytes_are_classes_like_others(count, weighted):
    logits, targets = torch.randn(count, 200), torch.full((count,), 156, dtype=torch.uint8)  # 156 is -100 as a byte
    weight = torch.rand(200) if weighted else None
    total = F.cross_entropy(logits, targets, weight=weight, reduction="sum")
    call = LossCall("cross_entropy_loss", count, total, logits, targets, SUM, "multiclass", weight, -100)
    assert criterion(call).value == pytest.approx(F.cross_entropy(logits, targets, weight=weight).item(), rel=1e-5)
    assert predictions(call)[1] == tally(call).labels == count
