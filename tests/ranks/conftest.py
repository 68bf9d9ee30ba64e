"""Programs that run in two ranks, each of which says what it found in a line of JSON."""

import json
import subprocess
import sys
import textwrap

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


@pytest.fixture(scope="module")
def in_ranks(tmp_path_factory):
    """Run `program` under torchrun in two ranks; returns what each of them said."""

    def run(program, *, after="dist.barrier(); dist.destroy_process_group()"):
        folder = tmp_path_factory.mktemp("ranks")
        (folder / "program.py").write_text("\n".join((PREAMBLE, textwrap.dedent(program), after)))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        done = subprocess.run([*torchrun, "program.py"], cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]

    return run
