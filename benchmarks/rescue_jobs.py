"""Runs jobs: in this process, or in processes of their own, some side by side.

    python benchmarks/rescue_jobs.py JOBS RESULTS      one process: JSON lines in, JSON lines out

A process that dies costs the run that it was in; those that it had not begun are given to another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rescue_loop import Method, train
from rescue_methods import Guard, Plateau, Tracing
from rescue_sets import Job, find

Result = dict[str, Any]
SPACED = "RESCUE_SPACED"  # set in the environment: ours reads gradients, and judges, as often as by default
BATCH = 16  # jobs that one process is given


def method_of(name: str) -> Method:
    """A fresh one. A reference is a run without the fault, watched by nobody."""
    if name == "ours":
        from rescue_ours import Ours

        return Ours()
    made: dict[str, Callable[[], Method]] = {
        "reference": Method,
        "unwatched": Method,
        "plateau": Plateau,
        "guard": Guard,
        "trace": Tracing,
    }
    return made[name]()


def run(job: Job) -> Result:
    """Train once. The result is plain data; a score that is not a number stays NaN."""
    recipe, fault = find(job)
    method, began = method_of(job.method), time.perf_counter()
    trained = train(recipe, job.seed, fault, method)
    assert trained.final is not None
    assert trained.last is not None
    result: Result = {
        **asdict(job),
        "measure": recipe.score,
        "score": getattr(trained.final, recipe.score),
        "last": getattr(trained.last, recipe.score),
        "onset": fault.onset,
        "total": recipe.total,
        "steps": trained.steps,
        "validations": [asdict(each) for each in trained.validations],
        "seconds": time.perf_counter() - began,
    }
    if isinstance(method, Tracing):
        result["trace"] = method.steps
    if isinstance(method, Guard):
        result["acted"] = method.skipped + method.clipped
    said = getattr(method, "said", None)
    return {**result, **said()} if said is not None else result


def run_all(jobs: Sequence[Job], workers: int, tell: Callable[[Job, Result], None]) -> None:
    """Every job, `workers` at a time. `tell` is given each result, in the order of the jobs."""
    batches = [jobs[start : start + BATCH] for start in range(0, len(jobs), BATCH)]
    with ThreadPoolExecutor(workers) as pool:
        for batch, found in zip(batches, pool.map(_run_apart, batches), strict=True):
            for job, result in zip(batch, found, strict=True):
                tell(job, result)


def _run_apart(jobs: Sequence[Job]) -> list[Result]:
    """In processes of their own. What ended one is told as the result of the job that it was at."""
    results: list[Result] = []
    while len(results) < len(jobs):
        with tempfile.TemporaryDirectory() as directory:
            to_do, done = Path(directory) / "jobs.jsonl", Path(directory) / "results.jsonl"
            to_do.write_text("".join(json.dumps(asdict(job)) + "\n" for job in jobs[len(results) :]), encoding="utf-8")
            environ = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
            command = [sys.executable, __file__, str(to_do), str(done)]
            ended = subprocess.run(
                command, env={**environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
            )
            lines = done.read_text(encoding="utf-8").splitlines() if done.exists() else []
            results += [json.loads(line) for line in lines]
            if len(results) < len(jobs):
                last = ended.stderr.strip().splitlines()[-1:] or [f"ended with {ended.returncode}"]
                results.append({**asdict(jobs[len(results)]), "error": last[0]})
    return results


def main() -> None:
    torch.set_num_threads(1)
    to_do, done = Path(sys.argv[1]), Path(sys.argv[2])
    with done.open("w", encoding="utf-8") as results:
        for line in to_do.read_text(encoding="utf-8").splitlines():
            results.write(json.dumps(run(Job(**json.loads(line)))) + "\n")
            results.flush()


if __name__ == "__main__":
    main()
