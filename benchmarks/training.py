"""What watching adds to a step: with the default settings, with statistics at every step, with none at all."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import torch
from paired import Plan, Round, Side, blocks_for, compare, difference, ratio
from results import MICROSECONDS, PERCENT, Figure, judged
from watched import Watched, idle_share
from workloads import WORKLOADS, Workload, tiny, tiny_loaded

ROUND_S = 1.0  # of watched time: every backend is handed its events once
DEFAULT_BARS = {"mlp": 0.015, "cnn": 0.005, "gpt": 0.005}
EVERY_BARS = {"mlp": 0.15, "cnn": 0.03, "gpt": 0.02}
UNSAMPLED_BAR_S = 7e-6

PLANS = {"mlp": Plan(steps=16, settle=2), "cnn": Plan(steps=10, settle=1), "gpt": Plan(steps=1)}
BUDGETS_S = {"mlp": 60.0, "cnn": 75.0, "gpt": 150.0}


def default(kind: str, quick: bool, *, terminal: bool = False) -> list[Figure]:
    """All that `trimtab.watch()` does, threads included, over the bare loop."""
    with _stderr(terminal) as stderr, _watched(stderr=stderr) as (watched, idle):
        made = _turns(WORKLOADS[kind](), kind, watched, BUDGETS_S[kind] / (8 if quick else 1), 6 if quick else 12)
        found = ratio(made.rounds, "watched", "bare", "control").raised(idle)
        note = (
            f"gradients every {watched.interval} steps; {PERCENT.one(idle)} added for threads that wait; "
            f"{len(made.rounds)} rounds"
        )
    name = f"default settings{', on a terminal' if terminal else ''}, {made.title}"
    bar = None if terminal else DEFAULT_BARS[kind]
    return [judged(name, found, PERCENT, bar, ratio(made.rounds, "control", "bare"), note)]


def default_on_terminal(kind: str, quick: bool) -> list[Figure]:
    """The same with the console's live line."""
    return default(kind, quick, terminal=True)


def every(kind: str, quick: bool) -> list[Figure]:
    """The same with statistics of every layer at every step."""
    with _watched(gradients_every=1) as (watched, idle):
        made = _turns(WORKLOADS[kind](), kind, watched, BUDGETS_S[kind] / (12 if quick else 2), 3)
    found = ratio(made.rounds, "watched", "bare", "control").raised(idle)
    name = f"statistics at every step, {made.title}"
    return [judged(name, found, PERCENT, EVERY_BARS[kind], ratio(made.rounds, "control", "bare"))]


def unsampled(quick: bool) -> list[Figure]:
    """A step on which nothing is sampled, on a model so small that a microsecond shows, and too small for two cores."""
    torch.set_num_threads(1)
    return [
        _unsampled("a step on which nothing is sampled", tiny_loaded(), quick, UNSAMPLED_BAR_S),
        _unsampled("the same without a DataLoader", tiny(), quick, None),
    ]


def statistics_of_gpt(quick: bool) -> list[Figure]:
    """Statistics of the GPT's gradients against a plain sum, and against float64; `gradients.py` has more."""
    from gradients import RIGHT, measure_accuracy, measure_gpt

    kinds = measure_accuracy(1_000_000 if quick else 10_000_000)
    right = sum(figure.met is True for figure in kinds)
    accuracy = Figure(
        f"... within {RIGHT:.0e} of float64",
        f"{right} of {len(kinds)} kinds of gradients",
        bar="every kind",
        met=right == len(kinds),
        note="; ".join(f"{figure.name}: {figure.measured}" for figure in kinds if not figure.met),
    )
    return [measure_gpt(4.0 if quick else 15.0)[0], accuracy]


def _unsampled(name: str, workload: Workload, quick: bool, bar: float | None) -> Figure:
    with tempfile.TemporaryDirectory() as directory, Watched(Path(directory), port=0) as watched:
        step = workload.loop()
        watched.warm_up(step, 1.0)
        watched.never_sample()
        sides = {"bare": Side(workload.loop()), "control": Side(workload.loop()), "watched": watched.side(step)}
        pairs = 150 if quick else 600
        rounds = compare(sides, Plan(steps=10, settle=5), budget_s=0, fewest=pairs, most=pairs)
    bare = MICROSECONDS.one(statistics.median(each["bare"] for each in rounds))
    found = difference(rounds, "watched", "bare", "control")
    note = f"median over {pairs} turns of ten steps of {bare}; a turn with a record in it is one of many"
    return judged(name, found, MICROSECONDS, bar, difference(rounds, "control", "bare"), note)


class _Turns:
    def __init__(self, title: str, rounds: list[Round]) -> None:
        self.title = title
        self.rounds = rounds


def _turns(workload: Workload, kind: str, watched: Watched, budget_s: float, warm_up_s: float) -> _Turns:
    step = workload.loop()
    watched.warm_up(step, warm_up_s)
    sides = {"bare": Side(workload.loop()), "control": Side(workload.loop()), "watched": watched.side(step)}
    step_s = seconds_of(sides["bare"].step)
    plan = PLANS[kind]
    blocks = blocks_for(ROUND_S, step_s, plan.steps, multiple=min(watched.interval, 16))
    plan = Plan(plan.steps, plan.settle, blocks)
    rounds = compare(sides, plan, budget_s=budget_s)
    bare_s = statistics.median(each["bare"] for each in rounds)
    return _Turns(f"{bare_s * 1e3:.{1 if bare_s < 0.1 else 0}f} ms step ({workload.title})", rounds)


def seconds_of(step: Callable[[], object]) -> float:
    """The median over half a second, or three steps."""
    step()
    taken = []
    until = time.perf_counter() + 0.5
    while time.perf_counter() < until or len(taken) < 3:
        started = time.perf_counter()
        step()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


@contextlib.contextmanager
def _watched(**options: Any) -> Iterator[tuple[Watched, float]]:
    """A run in a directory of its own, and the processor time a second of its threads that wait."""
    torch.manual_seed(0)
    before = idle_share(2.0)
    with tempfile.TemporaryDirectory() as directory, Watched(Path(directory), **options) as watched:
        yield watched, max(0.0, idle_share(4.0) - before)


@contextlib.contextmanager
def _stderr(terminal: bool) -> Iterator[TextIO | None]:
    """A terminal of 80 x 24 that another process reads, or nothing."""
    if not terminal:
        yield None
        return
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.environ["TERM"] = "xterm"
    reader = subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL)
    try:
        with open(theirs, "w", encoding="utf-8") as stream:
            yield stream
    finally:
        reader.terminate()
        reader.wait()
        os.close(ours)
