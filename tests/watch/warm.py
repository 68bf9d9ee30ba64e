"""A process that has torch and Trimtab imported, and becomes a new one for each script, in a fraction of a second.

Reads one JSON object a line: {"script", "arguments", "stdout", "stderr"} starts a script and answers with its process
id; {"wait": id, "timeout_s"} answers with its exit code, or null if it runs still. A script that is started here ends
as any other does: by falling off its end, by an exception, by a signal.
"""

import gc
import json
import os
import sys
import time
from pathlib import Path

import msgspec  # noqa: F401
import structlog  # noqa: F401
import torch
import torch._dynamo  # which the first optimizer would import

import trimtab
import trimtab.watching
import trimtab_backends.jsonl  # noqa: F401


def exit_code_of(pid, timeout_s):
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def become(job):
    """In the child: take the place of a process that was started with this script."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.argv = [job["script"], *job["arguments"]]


def serve():
    """Answer until the end of input. Returns in every child, with the script to run."""
    while line := sys.stdin.readline():
        job = json.loads(line)
        answer = exit_code_of(job["wait"], job["timeout_s"]) if "wait" in job else os.fork()
        if answer == 0 and "script" in job:
            become(job)
            return job["script"]
        print(json.dumps(answer), flush=True)
    return None


torch.set_num_threads(1)
gc.freeze()  # what is here already is none of the script's, and need not be searched
script = serve()
if script is not None:
    exec(
        compile(Path(script).read_text(), script, "exec"), {"__name__": "__main__", "torch": torch, "trimtab": trimtab}
    )
