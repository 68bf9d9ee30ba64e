"""Hooks in a compiled train step: every step seen, no graph break and no compilation more than bare.

    python benchmarks/compiled.py bare|watched BACKEND [clip]     one process, for `measure`

Bare and watched each have a process of their own, since Dynamo counts for the process.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from results import Figure
from torch import nn

import trimtab
from trimtab.testing import RecordingBackend
from trimtab.types import Step

WARM_UP_STEPS, STEPS = 10, 50
# A hook that is kept out is looked at once, as a frame, and then never again: frames are told, not judged.
JUDGED = ("graph breaks", "graphs", "compilations after warm-up")


def measure(quick: bool) -> list[Figure]:
    """A step of forward, loss, backward and update; and one that clips as well."""
    inductor = not quick and shutil.which("g++") is not None
    backend = "inductor" if inductor else "aot_eager"
    figures = [_figure("hooks in a compiled train step that clips", [backend, "clip"])]
    return figures if quick else [_figure("hooks in a compiled train step", [backend]), *figures]


def _figure(name: str, arguments: list[str]) -> Figure:
    bare, watched = (_in_process([side, *arguments]) for side in ("bare", "watched"))
    seen, whole = watched.pop("seen"), WARM_UP_STEPS + STEPS
    more = {counter: watched[counter] - bare[counter] for counter in watched}
    return Figure(
        name,
        f"{seen} of {whole}; more than bare: {_listed(more)}",
        bar="all seen, none more",
        met=seen == whole and not any(more[counter] > 0 for counter in JUDGED),
        note=f"backend {arguments[0]}; bare has {_listed({counter: bare[counter] for counter in watched})}",
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {counter}" for counter, count in counts.items())


def _in_process(arguments: list[str]) -> dict[str, int]:
    command = [sys.executable, __file__, *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    counts: dict[str, int] = json.loads(output.splitlines()[-1])
    return counts


def run(side: str, backend: str, clips: bool) -> dict[str, int]:
    """What Dynamo counted over one training, and how many steps the run saw."""
    recording = RecordingBackend()
    with contextlib.ExitStack() as stack:
        if side == "watched":
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(trimtab.watch(directory=directory, backends=[recording]))
        counts = _train(backend, clips)
    counts["seen"] = sum(event.steps for event in recording.of(Step) if event.phase == "train")
    return counts


def _train(backend: str, clips: bool) -> dict[str, int]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    inputs, targets = torch.randn(4096, 64), torch.randint(10, (4096,))

    @torch.compile(backend=backend)
    def train_step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if clips:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    def steps(count: int) -> None:
        for _ in range(count):
            batch = torch.randint(len(targets), (64,))
            train_step(inputs[batch], targets[batch])

    steps(WARM_UP_STEPS)
    warm = _counted()
    steps(STEPS)
    return _counted() | {"compilations after warm-up": _counted()["frames"] - warm["frames"]}


def _counted() -> dict[str, int]:
    from torch._dynamo.utils import counters

    found: dict[str, Any] = counters
    return {
        "graph breaks": sum(found["graph_break"].values()),
        "graphs": found["stats"]["unique_graphs"],
        "frames": found["frames"]["total"],
    }


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], sys.argv[2], "clip" in sys.argv)))
