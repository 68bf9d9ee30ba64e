"""Runs scripts, each in a process of its own that has imported torch already: importing costs more than the loops do.

Reads one job a line (see `running.Runner`), forks, and answers with one line when the child is through.
"""

import atexit
import builtins
import gc
import json
import os
import random
import signal
import sys
import types

import numpy
import sklearn.datasets
import sklearn.model_selection  # noqa: F401
import torch
import torch._dynamo  # which the first optimizer would import

import recording

LONGEST_RUN_S = 300


def serve():
    answers = os.dup(1)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            os.close(answers)
            settle(job)
            run(job)
            sys.exit()
        _, status = os.waitpid(child, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))


def settle(job):
    """Become the process that the job asked for."""
    signal.alarm(LONGEST_RUN_S)
    os.chdir(job["directory"])
    for number, path in enumerate((os.devnull, job["stdout"], job["stderr"])):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, closefd=False)
    random.seed(0)
    numpy.random.seed(0)
    atexit.register(recording.write, job["record"], before=recording.fingerprint())


def run(job):
    if job["options"] is None:
        run_bare(job["script"], job["arguments"])
    else:
        from trimtab.cli import main

        sys.argv = ["trimtab", "run", *job["options"], job["script"], *job["arguments"]]
        main()


def run_bare(script, arguments):
    """As `python script arguments` does."""
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(script)
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=script, __builtins__=builtins, __spec__=None)
    sys.modules["__main__"] = main
    with open(script) as file:
        code = compile(file.read(), script, "exec", dont_inherit=True)
    exec(code, main.__dict__)


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()  # what is here already is none of the script's, and need not be searched
    serve()
