"""Torchrun for many programs: their two ranks are forked from here, so that torch is imported once for all of them.

Each line of the standard input is a folder, in which `program.py` is run. The answer is its exit status; what it
printed is in the file `output`.
"""

import os
import runpy
import signal
import sys
import traceback
import uuid

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import trimtab  # noqa: F401  # as torch is: imported here, for all

TIMEOUT_S = 120


def rank():
    signal.alarm(TIMEOUT_S)
    sys.argv = ["program.py"]
    runpy.run_path("program.py", run_name="__main__")


def launch(folder):
    """As `torchrun --standalone --nproc-per-node 2 program.py`."""
    signal.alarm(TIMEOUT_S)
    os.chdir(folder)
    with open("output", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="fork",
    )
    elastic_launch(config, rank)()


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            launch(line.strip())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
