"""The scripts for Slurm are run as they are, with programs that stand in for a cluster's."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
SRUN = """
for rank in $(seq 0 $((SLURM_NTASKS - 1))); do
    SLURM_STEP_ID=0 SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" &
done
wait
"""


@pytest.fixture
def cluster(tmp_path):
    """Programs that stand in for a node of Slurm: `srun` starts the tasks of a step here, side by side."""
    programs = {
        "srun": SRUN,
        "hostname": "echo 127.0.0.1",
        "trimtab": f'exec {sys.executable} -m trimtab "$@"',
    }
    folder = tmp_path / "bin"
    token = tmp_path / ".config" / "trimtab" / "metrics-token"
    for made in (folder, token.parent):
        made.mkdir(parents=True)
    token.write_text("t0ken")
    token.chmod(0o600)
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    (tmp_path / "train.py").write_text(
        "import torch, time, pathlib\nend = time.monotonic() + 120\n"
        f"while not pathlib.Path({str(tmp_path / 'over')!r}).exists() and time.monotonic() < end: time.sleep(0.05)\n"
    )
    paths = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TRIMTAB_SHARED": str(tmp_path / "shared"),
    }
    settings = {"TRIMTAB_LINGER": "0", "TRIMTAB_BACKENDS": "prometheus", "OMP_NUM_THREADS": "1"}
    environ = {**os.environ, **paths, **settings}

    def submit(script, **slurm):
        command = ["bash", DEPLOY / "slurm" / script, "train.py"]
        return subprocess.Popen(command, cwd=tmp_path, env={**environ, **slurm}, stderr=subprocess.PIPE, text=True)

    return submit


def finish(jobs, directory, count):
    """The names of runs in their files, once there are `count`; then the jobs are let go."""
    from trimtab import discovery

    end = time.monotonic() + 120
    while len(found := list(discovery.read(directory / "shared" / "targets"))) < count and time.monotonic() < end:
        time.sleep(0.05)
    (directory / "over").touch()
    for job in jobs:
        assert job.communicate(timeout=180)[1].count("Traceback") == 0
        assert job.returncode == 0
    return sorted((each.target.run, each.target.rank) for each in found)


def test_tasks_of_an_array_that_start_together_are_runs_of_their_own(cluster, tmp_path):
    job = {"SLURM_JOB_NAME": "sweep", "SLURM_ARRAY_JOB_ID": "71", "SLURM_NTASKS": "1"}
    jobs = [cluster("array.sbatch", SLURM_ARRAY_TASK_ID=task, **job) for task in ("0", "1")]
    assert finish(jobs, tmp_path, 2) == [("sweep-71-0", 0), ("sweep-71-1", 0)]
    assert list((tmp_path / "shared" / "targets").glob("*.json")) == []


def test_ranks_of_a_job_are_one_run(cluster, tmp_path):
    job = cluster("train.sbatch", SLURM_JOB_NAME="train", SLURM_JOB_ID="72", SLURM_NTASKS="2")
    assert finish([job], tmp_path, 2) == [("train-72", 0), ("train-72", 1)]
