"""What `import trimtab` takes in a program that has imported torch, and what it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from paired import estimate
from results import MILLISECONDS, Figure, judged

BAR_S = 25e-3
HEAVY = ("structlog", "requests", "rich", "cheroot", "prometheus_client", "torch._dynamo")

# `trimtab.watch` is loaded on first use, so asking for it is part of the import; the rooms of a run are loaded when it
# starts. What `import torch` has left for the garbage collector (60 ms here) is collected before: whichever module
# happens to come next would pay for it.
PROGRAM = f"""
import gc, json, sys, time
import torch
gc.collect()
started = time.perf_counter()
import trimtab
trimtab.watch
seconds = time.perf_counter() - started
heavy = [name for name in {HEAVY!r} if name in sys.modules]
started = time.perf_counter()
import trimtab.run
print(json.dumps({{"seconds": seconds, "heavy": heavy, "rooms_s": time.perf_counter() - started}}))
"""


def import_once() -> dict[str, Any]:
    """In a fresh process: `seconds`, `heavy`, those modules of `HEAVY` loaded then, and `rooms_s` of a run."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    output = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(output.stdout)
    return found


def measure(quick: bool) -> list[Figure]:
    """The first process is not counted: it may have to compile what an installation has compiled."""
    import_once()
    found = [import_once() for _ in range(6 if quick else 9)]
    loaded = sorted({name for each in found for name in each["heavy"]})
    return [
        judged("import trimtab after import torch", estimate([f["seconds"] for f in found]), MILLISECONDS, BAR_S),
        Figure(
            "... loads none of the heavy libraries",
            ", ".join(loaded) or "none loaded",
            bar="none",
            met=not loaded,
            note=f"looked for {', '.join(HEAVY)}",
        ),
        judged(
            "... what the first run loads when it starts", estimate([f["rooms_s"] for f in found]), MILLISECONDS, None
        ),
    ]
