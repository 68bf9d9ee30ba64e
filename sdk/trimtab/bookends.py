"""The first and the last event of a run: what it is, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from trimtab import facts
from trimtab.bus import Bus
from trimtab.guard import Guard
from trimtab.sample.books import Books
from trimtab.types import RunEnd, RunInfo, RunStart, Status

NO_TRAINING = (
    "No step and no validation was seen. If there was training, it may run in other processes: then put "
    "@trimtab.watch on the function that they run, or start them with `torchrun -m trimtab run train.py` or "
    "`accelerate launch -m trimtab run train.py`. Training with torch.func cannot be seen."
)

OVER_RPC = (
    "No step and no validation was seen. This process has taken part in torch.distributed.rpc: training over that with "
    "dist_autograd and DistributedOptimizer cannot be seen. Log what is to be shown: "
    "trimtab.log(loss=..., phase='train')."
)


def no_training() -> str:
    """What to say of a run in which nothing was seen."""
    return OVER_RPC if facts.has_joined_rpc() else NO_TRAINING


def run_start(
    info: RunInfo, backends: Iterable[str], addresses: Mapping[str, str], rules: Mapping[str, Any], step: int
) -> RunStart:
    """Of a run with these backends, judged by these `rules`, that begins at the global `step`."""
    config = info.config
    described = {
        "backends": list(backends),
        "overhead": config.overhead,
        "gradients_every": config.gradients_every,
        "layers": list(config.layers) if config.layers is not None else None,
        "resume": config.resume,
        "act": config.act,
        "replay": config.replay,
        "rules": rules,
    }
    known = {**info.facts, "world_size": info.world_size, "config": described}
    return RunStart(ts=time.time(), step=step, facts=known, addresses=addresses)


def run_end(
    status: Status, error: str | None, seconds: float, *, books: Books, guard: Guard, bus: Bus | None
) -> RunEnd:
    """Of a run that lasted so many `seconds`, with totals of all that was counted."""
    totals: dict[str, Any] = {
        "steps": {ledger.label: ledger.steps for ledger in books.ledgers},
        "skipped": {ledger.label: dict(ledger.skipped) for ledger in books.ledgers if ledger.skipped},
        "samples": books.samples,
        "epochs": books.epochs,
        "nonfinite": dict(books.nonfinite),
        "faults": dict(guard.faults),
        "dropped": bus.dropped() if bus is not None else {},
    }
    return RunEnd(ts=time.time(), step=books.global_step, status=status, seconds=seconds, error=error, totals=totals)
