from dataclasses import replace

import pytest

from trimtab.testing import SAMPLE_TIME, sample_run, sample_step
from trimtab.types import Adjustment, Alert, RunEnd, RunStart
from trimtab_backends.jsonl import JsonlBackend

AT = {"ts": SAMPLE_TIME}


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def write(runs):
    """Writes the log of a run with the backend that writes them all; returns its path."""

    def write(*events, run="sample", **of_run):
        info = replace(sample_run(runs, run=run), **of_run)
        backend = JsonlBackend()
        backend.start(info)
        backend.write(events)
        backend.close()
        return info.directory / "rank-0.jsonl"

    return write


@pytest.fixture
def watched(write):
    """Writes the log of a run whose records hold these levels, one record every 10 steps."""

    def watched(*levels, rules=None, more=(), run="sample", **fields):
        facts = {"config": {"rules": rules}} if rules else {}
        steps = [sample_step(10 * n, levels=each, **fields) for n, each in enumerate(levels, start=1)]
        end = RunEnd(**AT, step=10 * len(levels), status="completed", seconds=1.0)
        return write(RunStart(**AT, step=0, facts=facts), *steps, *more, end, run=run)

    return watched


@pytest.fixture
def alert():
    """An alert that a rule began to fire."""

    def alert(rule, step, **fields):
        values = {"episode": 1, "state": "firing", "severity": "warning", "value": 12.0, "threshold": 10.0, **fields}
        return Alert(**AT, step=step, rule=rule, **values)

    return alert


@pytest.fixture
def adjustment():
    def adjustment(step, outcome="applied"):
        return Adjustment(**AT, step=step, policy="loss_spike", action="roll_back", rule="loss_spike", outcome=outcome)

    return adjustment
