import json
import os
import subprocess
import sys
import textwrap
from subprocess import PIPE

import pytest
from torch import nn

PATIENCE_S = 60.0

PRELUDE = """
    import os, signal, sys, threading, time
    import torch
    import trimtab

    torch.set_num_threads(1)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        model(torch.ones(4, 2)).square().mean().backward()
        optimizer.step()

    def watch(**options):
        return trimtab.watch(run="test", directory=sys.argv[1], backends=["jsonl"], gradients_every=1, **options)
"""


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


@pytest.fixture
def start(tmp_path):
    """Start a script of its own, whose runs are in `tmp_path`. It has `step()` and `watch()`."""
    processes = []

    def start(script):
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(script))
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
        command = [sys.executable, path, tmp_path / "runs"]
        processes.append(subprocess.Popen(command, env=environ, cwd=tmp_path, stdout=PIPE, stderr=PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def complete(start):
    """Run a script to its end. Returns the process, with `out` and `err`."""

    def complete(script):
        process = start(script)
        process.out, process.err = process.communicate(timeout=PATIENCE_S)
        return process

    return complete


@pytest.fixture
def log(tmp_path):
    """Read the log of the only run."""

    def log():
        return [json.loads(line) for line in (tmp_path / "runs" / "test" / "rank-0.jsonl").read_text().splitlines()]

    return log
