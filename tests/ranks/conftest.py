"""Programs that run in two ranks, each of which says what it found in a line of JSON."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PREAMBLE = """
import json, math, os, sys
import torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()

def say(**found):
    with open(f"said-{rank}.json", "w") as file:
        json.dump(found, file)
"""


@pytest.fixture(scope="session")
def launcher():
    command = [sys.executable, Path(__file__).with_name("launcher.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as launcher:
        yield launcher
        launcher.stdin.close()


@pytest.fixture(scope="session")
def in_ranks(launcher, tmp_path_factory):
    """Run `program` in two ranks, as torchrun does; returns what each of them said."""

    def run(program, *, after="dist.barrier(); dist.destroy_process_group()"):
        folder = tmp_path_factory.mktemp("ranks")
        (folder / "program.py").write_text("\n".join((PREAMBLE, textwrap.dedent(program), after)))
        print(folder, file=launcher.stdin, flush=True)
        status = int(launcher.stdout.readline())
        assert status == 0, (folder / "output").read_text()
        return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]

    return run
