"""Whether a gradient was cleared, told by its elements."""

import time

import pytest
import torch

from trimtab.capture.share import LOOKED_AT, holds_something


@pytest.mark.parametrize(
    "shape", [(), (3,), (1, LOOKED_AT + 1), (LOOKED_AT + 1, 1), (3, 4 * LOOKED_AT), (64, 32, 8, 8)], ids=str
)
def test_one_element_anywhere_is_something(shape):
    gradient = torch.zeros(shape)
    assert not holds_something(gradient)
    for place in {0, gradient.numel() // 2, gradient.numel() - 1}:
        gradient.view(-1)[place] = 1e-30
        assert holds_something(gradient)
        gradient.zero_()


def test_gradient_without_elements_holds_nothing():
    assert not holds_something(torch.zeros(0, 5))


def test_large_gradient_is_not_looked_at_as_a_whole():
    gradient = torch.ones(512, 256, 4, 4)
    whole, found = (least(lambda: bool(gradient.any())), least(lambda: holds_something(gradient)))
    assert found < whole / 4


def least(call):
    """Seconds, of several calls."""
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return min(taken)
