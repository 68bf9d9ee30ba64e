"""What watching adds to a step: with the default settings, with statistics at every step, with none at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import torch
from least import Least
from paired import Plan, Round, Side, blocks_for, compare, difference, ratio
from results import MICROSECONDS, PERCENT, Figure, judged
from watched import Watched, idle_share
from workloads import WORKLOADS, Rivals, Workload, rivals, tiny, tiny_loaded

DEFAULT_BARS = {"mlp": 0.015, "cnn": 0.005, "gpt": 0.005}
EVERY_BARS = {"mlp": 0.15, "cnn": 0.03, "gpt": 0.02}
UNSAMPLED_BAR_S = 7e-6

PLANS = {"mlp": Plan(steps=16, settle=2), "cnn": Plan(steps=10, settle=1), "gpt": Plan(steps=1)}
DEFAULT_BUDGETS_S = {"mlp": 45.0, "cnn": 60.0, "gpt": 110.0}
EVERY_BUDGETS_S = {"mlp": 20.0, "cnn": 25.0, "gpt": 240.0}
ROUND_S = 1.0  # of watched time: every backend is handed its events once
STARTED_S = 2.0  # after which a run's threads have done what a start asks of them, and wait
WARM_UP_S = 7.0  # long enough for the first health report, which may space the samples wider


def default(kind: str, quick: bool) -> list[Figure]:
    """All that `trimtab.watch()` does, threads included, over the bare loop."""
    return [_default("default settings", kind, quick, DEFAULT_BUDGETS_S[kind], bar=DEFAULT_BARS[kind])]


def on_terminal(kind: str, quick: bool) -> list[Figure]:
    """The same with the console's live line; not with `quick`, since it has no bar."""
    name = "default settings, on a terminal"
    return [_without_bar(name) if quick else _default(name, kind, quick, DEFAULT_BUDGETS_S[kind] / 2, terminal=True)]


def acting(kind: str, quick: bool) -> list[Figure]:
    """The same where policies may act, so that more is judged and snapshots are taken; not with `quick` either."""
    name = "default settings with act=True"
    return [_without_bar(name) if quick else _default(name, kind, quick, DEFAULT_BUDGETS_S[kind] / 2, act=True)]


def _without_bar(name: str) -> Figure:
    return Figure(name, "skipped", note="has no bar: not with --quick.")


def _default(
    name: str,
    kind: str,
    quick: bool,
    budget_s: float,
    *,
    bar: float | None = None,
    terminal: bool = False,
    **options: Any,
) -> Figure:
    with _stderr(terminal) as stderr, _watched(quick, stderr=stderr, **options) as (watched, idle):
        title, rounds = _turns(kind, watched, quick, budget_s)
        spacing, own = f"gradients every {watched.interval} steps", watched.own_share
    found = ratio(rounds, "watched", "bare", "control").raised(idle)
    note = (
        f"{PERCENT.one(own)} by its own account; {spacing}; {PERCENT.one(idle)} of it added for threads that wait; "
        f"{len(rounds)} rounds"
    )
    return judged(f"{name}, {title}", found, PERCENT, bar, ratio(rounds, "control", "bare"), note)


def every(kind: str, quick: bool) -> list[Figure]:
    """The same with statistics of every layer at every step."""
    with _watched(quick, gradients_every=1) as (watched, idle):
        title, rounds = _turns(kind, watched, quick, EVERY_BUDGETS_S[kind])
    found = ratio(rounds, "watched", "bare", "control").raised(idle)
    name = f"statistics at every step, {title}"
    return [judged(name, found, PERCENT, EVERY_BARS[kind], ratio(rounds, "control", "bare"))]


def unsampled(quick: bool) -> list[Figure]:
    """A step on which nothing is sampled, on a model so small that a microsecond shows, and too small for two cores."""
    torch.set_num_threads(1)
    return [
        *_unsampled("a step on which nothing is sampled", tiny_loaded(), quick, UNSAMPLED_BAR_S),
        *_unsampled("the same without a DataLoader", tiny(), quick, None),
        *_unsampled("the same with clipping", dataclasses.replace(tiny_loaded(), clips=True), quick, None),
        _unsampled("a step each of two optimizers that take turns", rivals(), quick, None)[0],
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


def _unsampled(name: str, workload: Workload | Rivals, quick: bool, bar: float | None) -> list[Figure]:
    least = Least()
    with tempfile.TemporaryDirectory() as directory, Watched(Path(directory), port=0) as watched:
        step = workload.loop()
        watched.warm_up(step, 1.0)
        watched.never_sample()
        sides = {
            "bare": Side(workload.loop()),
            "control": Side(workload.loop()),
            "watched": watched.side(step),
            "least": Side(workload.loop(), enter=least.attach, leave=least.detach),
        }
        pairs = 150 if quick else 600
        rounds = compare(sides, Plan(steps=10, settle=5), budget_s=0, fewest=pairs, most=pairs)
    if not least.losses:
        raise RuntimeError("what was compared with saw no loss.")
    bare = MICROSECONDS.one(statistics.median(each["bare"] for each in rounds))
    found, control = difference(rounds, "watched", "bare", "control"), difference(rounds, "control", "bare")
    note = f"median over {pairs} turns of ten steps of {bare}; a turn with a record in it is one of many"
    floor = judged("... the least that Python can do", difference(rounds, "least", "bare", "control"), MICROSECONDS)
    return [judged(name, found, MICROSECONDS, bar, control, note), floor]


def _turns(kind: str, watched: Watched, quick: bool, budget_s: float) -> tuple[str, list[Round]]:
    """Bare, bare again and watched in turn. Returns what the bare step took, in words, and the rounds."""
    workload, plan = WORKLOADS[kind](), PLANS[kind]
    step = workload.loop()
    watched.warm_up(step, 2.0 if quick else WARM_UP_S)
    sides = {"bare": Side(workload.loop()), "control": Side(workload.loop()), "watched": watched.side(step)}
    step_s, round_s = seconds_of(sides["bare"].step), ROUND_S / 2 if quick else ROUND_S
    blocks = blocks_for(round_s, step_s, plan.steps, multiple=min(watched.interval, 16))
    rounds = compare(sides, Plan(plan.steps, plan.settle, blocks), budget_s=0 if quick else budget_s)
    bare_s = statistics.median(each["bare"] for each in rounds)
    return f"{bare_s * 1e3:.{1 if bare_s < 0.1 else 0}f} ms step ({workload.title})", rounds


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
def _watched(quick: bool, **options: Any) -> Iterator[tuple[Watched, float]]:
    """A run in a directory of its own, and the processor time a second of its threads that wait."""
    torch.manual_seed(0)
    before = idle_share(1.0)
    with tempfile.TemporaryDirectory() as directory, Watched(Path(directory), **options) as watched:
        time.sleep(STARTED_S)
        yield watched, max(0.0, idle_share(1.0 if quick else 3.0) - before)


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
