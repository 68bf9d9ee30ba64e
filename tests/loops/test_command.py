"""`trimtab run` in a process of its own, against `python`: whoever starts a script sees no difference."""

import os
import subprocess
import sys

import pytest

from running import ENVIRONMENT, SCRIPTS


def run(script, *, cwd, before=()):
    cwd.mkdir()
    return subprocess.run(
        [sys.executable, *before, str(SCRIPTS / script)],
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("script", ["exit_code.py", "crash.py", "interrupted.py"])
def test_output_and_exit_code_are_the_scripts_own(script, tmp_path):
    bare = run(script, cwd=tmp_path / "bare")
    watched = run(script, cwd=tmp_path / "watched", before=("-m", "trimtab", "run", "--port", "0"))
    assert watched.returncode == bare.returncode
    assert watched.stdout == bare.stdout
    assert watched.stderr.endswith(bare.stderr)  # a traceback shows the script alone
    assert os.listdir(tmp_path / "watched" / "runs")
