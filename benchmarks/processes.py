"""The default settings once more, in whole processes: nothing is attached, detached or paused.

    python benchmarks/processes.py bare|watched FILE     trains, and writes to FILE how far it is

Two processes live side by side, and while one trains the other is stopped (SIGSTOP) with all its threads. Each slice
is two seconds and a tenth, of which the tenth does not count: in two seconds every thread wakes as often as it does in
two seconds of a run of its own. What remains is that two processes are never alike, by about a hundredth: this is a
check that the other figures miss nothing, and no match for their precision.
"""

from __future__ import annotations

import mmap
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, redirect_stderr
from pathlib import Path

import torch
from results import PERCENT, Figure
from workloads import mlp

import trimtab

SETTLE_S, SLICE_S, WARM_UP_S = 0.1, 2.0, 3.0
PLACE = struct.Struct("qd")  # steps, and when the last one ended


def measure(quick: bool) -> list[Figure]:
    """The perceptron, whose steps are the shortest; the smallest and the largest of the pairs of processes."""
    name = "default settings in whole processes (perceptron)"
    if not hasattr(signal, "SIGSTOP"):
        return [Figure(name, "skipped", note="processes cannot be stopped here. Measure on Linux or macOS.")]
    if quick:
        return [Figure(name, "skipped", note="a check that takes a minute and a half: not with --quick.")]
    pairs, slices = 2, 5
    found = [_pair("watched", slices) for _ in range(pairs)]
    control = _pair("bare", slices)
    return [
        Figure(
            name,
            f"{PERCENT.one(statistics.median(found))} ({min(found) * 100:.2f} to {max(found) * 100:.2f})",
            control=PERCENT.one(control),
            note=f"a check without a bar: {pairs} pairs of processes, {slices} slices of {SLICE_S:g} s each",
        )
    ]


def _pair(side: str, slices: int) -> float:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        bare, other = (
            stack.enter_context(_Trainee(name, Path(directory) / str(index)))
            for index, name in enumerate(("bare", side))
        )
        return statistics.median(_ratio(bare, other, index) for index in range(slices))


def _ratio(bare: _Trainee, other: _Trainee, index: int) -> float:
    order = (bare, other) if index % 2 else (other, bare)
    seconds = {trainee: trainee.step_seconds() for trainee in order}
    return seconds[other] / seconds[bare] - 1


class _Trainee:
    """A process that trains while it is told to, and stands still otherwise."""

    def __init__(self, side: str, file: Path) -> None:
        file.write_bytes(bytes(PLACE.size))
        self._file = file
        self._process = subprocess.Popen([sys.executable, __file__, side, str(file)])
        while self._place()[0] == 0:  # until it has warmed up
            if self._process.poll() is not None:
                raise RuntimeError(f"the {side} process ended with {self._process.returncode} before it trained")
            time.sleep(0.05)
        self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> _Trainee:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def step_seconds(self) -> float:
        """Let it train for one slice."""
        self._process.send_signal(signal.SIGCONT)
        time.sleep(SETTLE_S)
        steps, at = self._place()
        time.sleep(SLICE_S)
        more_steps, later = self._place()
        self._process.send_signal(signal.SIGSTOP)
        return (later - at) / (more_steps - steps)

    def _place(self) -> tuple[int, float]:
        """Read until two readings agree: the other process may be writing."""
        while True:
            place = self._file.read_bytes()
            if place == self._file.read_bytes():
                steps, at = PLACE.unpack(place)
                return steps, at


def _train(side: str, file: str) -> None:
    torch.manual_seed(0)
    step = mlp().loop()
    with ExitStack() as stack:
        descriptor = os.open(file, os.O_RDWR)
        place = mmap.mmap(descriptor, PLACE.size)
        stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        if side == "watched":
            stack.enter_context(trimtab.watch(directory=Path(file).parent / "runs"))
        steps, until = 0, time.perf_counter() + WARM_UP_S
        while time.perf_counter() < until:
            step()
        while True:
            step()
            steps += 1
            PLACE.pack_into(place, 0, steps, time.perf_counter())


if __name__ == "__main__":
    _train(*sys.argv[1:3])
