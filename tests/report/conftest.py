import math
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab.testing import sample_run, sample_step
from trimtab.types import Epoch, RunEnd, RunStart, Step
from trimtab_backends.jsonl import JsonlBackend


@pytest.fixture
def write(tmp_path):
    """Writes the log of a run with the backend that writes them all; returns its path."""

    def write(*events, run="sample", rank=0, **of_run) -> Path:
        info = replace(sample_run(tmp_path / "runs", run=run, rank=rank), **of_run)
        backend = JsonlBackend()
        backend.start(info)
        backend.write(events)
        backend.close()
        return info.directory / f"rank-{rank}.jsonl"

    return write


@pytest.fixture
def training():
    """The events of a run of 200 steps: train and validation, a schedule, clipping, one step with NaN."""

    def training(steps=200, **fields):
        events = [RunStart(ts=0.0, step=0, facts={"torch": "2.13.0"})]
        for step in range(1, steps + 1):
            values = {
                "loss": math.exp(-step / 20),
                "learning_rate": [0.1 * step, 0.1 * step],
                "gradient_norm": math.nan if step == 50 else 1.0,
                **fields,
            }
            events.append(sample_step(step, **values))
            if step % 50 == 0:
                events.append(Step(ts=step, step=step, phase="validation", loss=2.0 / step, accuracy=0.5))
                events.append(Epoch(ts=step, step=step, epoch=step // 50))
        return [*events, RunEnd(ts=steps, step=steps, status="completed", seconds=75.0)]

    return training
