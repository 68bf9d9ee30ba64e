import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TRAIN = """
    import torch
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    def step():
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(torch.ones(4, 2)), torch.ones(4, 1)).backward()
        optimizer.step()
    def wait():
        import time
        print("ready", flush=True)
        for _ in range(600):
            time.sleep(0.1)  # a signal that comes just before it is heard when it ends
"""


class Desk:
    """A directory with scripts in it, and the two programs to run them with."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")},
            "TRIMTAB_DIR": str(directory / "runs"),
            "TRIMTAB_BACKENDS": "console,jsonl",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def program(self) -> list[str]:
        return [sys.executable, "-m", "trimtab"]

    def write(self, name: str, *parts: str) -> str:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(textwrap.dedent(part) for part in parts))
        return name

    def python(self, *arguments: str) -> subprocess.CompletedProcess:
        return self._complete(sys.executable, *arguments)

    def trimtab(self, *arguments: str) -> subprocess.CompletedProcess:
        return self._complete(sys.executable, "-m", "trimtab", *arguments)

    def start(self, *arguments: str) -> subprocess.Popen:
        """`trimtab run` in the background, when it has written its first line to stdout."""
        process = subprocess.Popen(
            [sys.executable, "-m", "trimtab", "run", *arguments],
            cwd=self.directory, env=self.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        return process

    def _complete(self, *command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command, cwd=self.directory, env=self.environ, text=True, capture_output=True, timeout=120, check=False
        )

    def runs(self) -> list[Path]:
        return sorted(path.parent for path in (self.directory / "runs").glob("*/run.json"))

    def record(self, rank: int = 0) -> list[dict]:
        """The log of the only run."""
        (run,) = self.runs()
        return [json.loads(line) for line in (run / f"rank-{rank}.jsonl").read_text().splitlines()]

    def status(self) -> str:
        return self.record()[-1]["status"]


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


@pytest.fixture
def train():
    """Source that defines `step()`, one optimizer step, and `wait()`, for a signal."""
    return TRAIN
