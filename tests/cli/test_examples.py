"""The example that goes wrong does so bare, and ends well when policies may act."""

import re

import pytest


def accuracy(output):
    """Of the last epoch, in per cent."""
    return float(re.findall(r"([\d.]+)% right", output)[-1])


@pytest.fixture
def diverges(request):
    return str(request.config.rootpath / "examples" / "diverges.py")


def test_run_that_diverges_is_saved(desk, diverges):
    bare = desk.python(diverges)
    watched = desk.trimtab("run", "--act", "process", "--gradients-every", "4", diverges)
    assert (bare.returncode, watched.returncode) == (0, 0)
    assert accuracy(bare.stdout) < 30
    assert accuracy(watched.stdout) > 90
    assert "applied roll_back" in watched.stderr
    assert "applied scale_learning_rate" in watched.stderr
