import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from torch import nn

PATIENCE_S = 60.0

PRELUDE = """
    import os, signal, sys, threading, time

    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        model(torch.ones(4, 2)).square().mean().backward()
        optimizer.step()

    def wait():
        for _ in range(600):
            time.sleep(0.1)  # a signal that comes just before it is heard when it ends

    def watch(run="test", **options):
        return trimtab.watch(run=run, directory="runs", backends=["jsonl"], gradients_every=1, **options)
"""


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


class Warm:
    """The process that starts scripts; see `warm.py`."""

    def __init__(self):
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
        forking = "ignore:This process:DeprecationWarning"  # while a thread is running, which is what some scripts test
        program = [sys.executable, "-W", "error", "-W", forking, Path(__file__).with_name("warm.py")]
        self._process = subprocess.Popen(program, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **question):
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.communicate(timeout=PATIENCE_S)


class Script:
    """A script in a process of its own, whose runs are in `directory / "runs"`."""

    def __init__(self, warm, directory, text):
        self._warm = warm
        self._directory = directory
        path = directory / "script.py"
        path.write_text(f"import os\nos.chdir({str(directory)!r})\n" + textwrap.dedent(PRELUDE) + textwrap.dedent(text))
        files = {name: str(directory / name) for name in ("stdout", "stderr")}
        self.pid = warm.ask(script=str(path), arguments=[], **files)

    @property
    def out(self):
        return (self._directory / "stdout").read_text()

    @property
    def err(self):
        return (self._directory / "stderr").read_text()

    def when_ready(self):
        """Wait until the script has printed something."""
        until = time.monotonic() + PATIENCE_S
        while not ((self._directory / "stdout").exists() and self.out):
            assert time.monotonic() < until, self.err
            time.sleep(0.005)
        return self

    def exit_code(self):
        code = self._warm.ask(wait=self.pid, timeout_s=PATIENCE_S)
        if code is None:
            os.kill(self.pid, signal.SIGKILL)
        return code

    def log(self, run="test"):
        path = self._directory / "runs" / run / "rank-0.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def warm():
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture
def start(warm, tmp_path):
    """Start a script. It has `step()`, one optimizer step, `watch()`, with a log, and `wait()`, for a signal."""
    return lambda text: Script(warm, tmp_path, text)


@pytest.fixture
def complete(start):
    """Run a script to its end, which must be a good one."""

    def complete(text):
        script = start(text)
        assert script.exit_code() == 0, script.err
        return script

    return complete
