import os
import subprocess
import sys

import pytest
from running_stack import PATIENCE_S, Stack, need

RUN = """
import sys, time, torch, trimtab
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with trimtab.watch():
    print("ready", flush=True)
    while True:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(torch.ones(4, 2)), torch.ones(4, 1)).backward()
        optimizer.step()
        time.sleep(0.1)
"""


@pytest.fixture
def start_stack(tmp_path):
    started = []

    def start(**options):
        started.append(Stack(tmp_path, **options))
        return started[-1]

    yield start
    for stack in started:
        stack.stop()


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Prometheus and Alertmanager, ready; one for the tests of a file."""
    need("prometheus", "prometheus-alertmanager")
    stack = Stack(tmp_path_factory.mktemp("stack"))
    assert stack.read_until_ready()[-1].startswith("Ready."), "see the lines above"
    yield stack
    stack.stop()


@pytest.fixture
def start_run(tmp_path):
    """Start a process that trains until it is killed, when its first step is taken."""
    started = []

    def start(runs, **environ):
        settings = {"TRIMTAB_DIR": str(runs), "TRIMTAB_BACKENDS": "jsonl,prometheus", "TRIMTAB_PORT": "0", **environ}
        process = subprocess.Popen(
            [sys.executable, "-c", RUN], env={**os.environ, "OMP_NUM_THREADS": "1", **settings},
            stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
