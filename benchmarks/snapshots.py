"""What a snapshot and a rollback cost, against one plain copy of as many bytes.

    python benchmarks/snapshots.py [--quick] [--write]

The model is the GPT of `workloads`, 10.8 M parameters, with AdamW: 124 MiB with its state. The method is that of
`paired`. The plain copy goes from one tensor in use to another, both as large as all that a snapshot holds. The first
snapshots of a run cost more: they write to fresh memory. With `--write` the table replaces that of SNAPSHOTS.md.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch
from paired import Plan, Side, compare, estimate, ratio
from results import MILLISECONDS, TIMES, Figure, judged, load, machine, table, write_readme
from workloads import Workload, gpt, mlp

from trimtab.actuators.parts import Parts
from trimtab.actuators.snapshots import Snapshots

PAGE = Path(__file__).parent / "SNAPSHOTS.md"
BAR = 2.0  # times a plain copy

PLAIN, AGAIN = "one plain copy of as many bytes", "the same again"
TENSORS, HAND = "a plain copy of each tensor", "deepcopy of both state dicts"
TAKE, BACK, CHECK = "a snapshot", "a rollback", "the look for pending graphs before it"


def trained(workload: Workload) -> Parts:
    """After one step, so that the optimizer has its state."""
    workload.loop()()
    return Parts(models={"model": workload.model}, optimizers={"0": workload.optimizer})


def sides(parts: Parts) -> dict[str, Side]:
    """Each writes to memory that is in use: the ring is full, and a snapshot takes the place of another."""
    snapshots, steps = Snapshots(cap_bytes=2**40, most=3), count(10)
    snapshots.meet(parts)
    for _ in range(3):
        snapshots.take(parts, next(steps))
    size = snapshots.bytes // 3
    source, target = torch.rand(size // 4), torch.rand(size // 4)
    tensors = [*parts.models["model"].parameters()]
    tensors += [t for state in parts.optimizers["0"].state.values() for t in state.values()]
    copies = [tensor.detach().clone() for tensor in tensors]

    def each() -> None:
        for copied, tensor in zip(copies, tensors, strict=True):
            copied.copy_(tensor)

    calls: dict[str, Callable[[], object]] = {
        PLAIN: lambda: target.copy_(source),
        AGAIN: lambda: target.copy_(source),
        TENSORS: torch.no_grad()(each),
        HAND: lambda: by_hand(parts),
        TAKE: lambda: snapshots.take(parts, next(steps)),
        BACK: lambda: snapshots.roll_back(parts, next(steps)),
        CHECK: lambda: snapshots.may_restore(parts),
    }
    return {name: Side(call) for name, call in calls.items()}


def by_hand(parts: Parts) -> object:
    """What people write."""
    return [copy.deepcopy(thing.state_dict()) for thing in (*parts.models.values(), *parts.optimizers.values())]


def measure(workload: Workload, budget_s: float, bar: float | None) -> list[Figure]:
    rounds = compare(sides(trained(workload)), Plan(steps=1, settle=1), budget_s=budget_s)
    control = ratio(rounds, AGAIN, PLAIN).raised(1.0)
    note = f"a plain copy takes {MILLISECONDS.all(estimate([each[PLAIN] for each in rounds]))}"
    figures = []
    for side in (TAKE, BACK, TENSORS, HAND):
        found = ratio(rounds, side, PLAIN).raised(1.0)
        barred = side in (TAKE, BACK)
        figures.append(judged(f"{workload.title}: {side}", found, TIMES, bar if barred else None, control, note))
        note = ""
    figures.append(judged(f"{workload.title}: {CHECK}", estimate([each[CHECK] for each in rounds]), MILLISECONDS))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the time")
    parser.add_argument("--write", action="store_true", help=f"replace the table in {PAGE.name}")
    options = parser.parse_args()
    budget_s = 8.0 if options.quick else 40.0
    started = time.perf_counter()
    how = f"{torch.get_num_threads()} threads, load before it began {load()}."
    print(f"{machine()}; {how}\n")
    figures = [*measure(gpt(), budget_s, BAR), *measure(mlp(), budget_s / 4, None)]
    print(table(figures))
    if options.write:
        write_readme(figures, how, PAGE)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
