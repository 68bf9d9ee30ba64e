"""The example that goes wrong does so bare, and ends well when policies may act."""

import re

import pytest


def accuracy(output):
    """Of the last epoch, in per cent."""
    return float(re.findall(r"([\d.]+)% right", output)[-1])


@pytest.fixture
def diverges(request):
    """The script, and the command with which README.md runs it."""
    root, script = request.config.rootpath, "examples/diverges.py"
    (line,) = re.findall(rf"^\$ trimtab (.*{script})$", (root / "README.md").read_text(), re.MULTILINE)
    return str(root / script), line.replace(script, str(root / script)).split()


def test_run_that_diverges_is_saved(desk, diverges):
    script, command = diverges
    bare = desk.python(script)
    watched = desk.trimtab(*command)
    assert (bare.returncode, watched.returncode) == (0, 0)
    assert accuracy(bare.stdout) < 30
    assert accuracy(watched.stdout) > 90
    assert "applied roll_back" in watched.stderr
    assert "applied scale_learning_rate" in watched.stderr
