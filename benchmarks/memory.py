"""Whether a long run grows: a million steps, and the memory that the process holds after each hundred thousand."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from results import Figure
from workloads import tiny_loaded

import trimtab

BAR_BYTES = 2_000_000
STATM = Path("/proc/self/statm")


def measure(quick: bool) -> list[Figure]:
    """With the default settings, epochs of a thousand steps, and the log on disk."""
    part = 10_000 if quick else 100_000
    parts = 5 if quick else 10
    name = f"memory from step {part:,} to {part * parts:,}"
    if not STATM.exists():
        return [Figure(name, "skipped", note="there is no /proc here. Measure on Linux.")]
    torch.set_num_threads(1)
    held = _held(part, parts)
    grown = max(held[1:]) - held[0]
    return [
        Figure(
            name,
            f"{grown / 1e6:+.2f} MB",
            bar=f"< {BAR_BYTES / 1e6:g} MB",
            met=grown < BAR_BYTES,
            note=f"the largest of {parts - 1} readings over the first, {held[0] / 1e6:.0f} MB",
        )
    ]


def _held(part: int, parts: int) -> list[int]:
    step = tiny_loaded().loop()
    held = []
    with tempfile.TemporaryDirectory() as directory, _no_stderr(), trimtab.watch(directory=directory):
        for _ in range(parts):
            _repeat(step, part)
            held.append(_resident_bytes())
    return held


def _repeat(step: Callable[[], object], count: int) -> None:
    for _ in range(count):
        step()


def _resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
