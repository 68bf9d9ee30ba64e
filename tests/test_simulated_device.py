"""The tests of `device/`, on a device that is built for them: torch knows one from its start or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_everything_that_differs_on_a_device(program, tmp_path):
    program("g++", packages="g++")  # with which `sim.py` builds it
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'device'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/device"],
        cwd=Path(__file__).parent.parent,
        env={**{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}, "DEVICE": "sim"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
