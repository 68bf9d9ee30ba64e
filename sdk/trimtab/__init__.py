"""Trimtab watches PyTorch training from inside.

One decorator on a function that trains is all it takes:

    import trimtab

    @trimtab.watch
    def train(): ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trimtab.errors import BackendError, BackendUnavailable, ConfigError, HaltTraining, RunActiveError, TrimtabError

if TYPE_CHECKING:
    from trimtab.policies import Policy
    from trimtab.rules.rule import Rule
    from trimtab.run import Run
    from trimtab.watching import log, restore_best, should_stop, watch

__all__ = [
    "BackendError",
    "BackendUnavailable",
    "ConfigError",
    "HaltTraining",
    "Policy",
    "Rule",
    "Run",
    "RunActiveError",
    "TrimtabError",
    "log",
    "restore_best",
    "should_stop",
    "watch",
]

# These import torch, so they wait for their first use: a script under `trimtab run` may have something to say to
# torch before it is imported (OMP_NUM_THREADS), and what it says must count as it does without us.
_ON_FIRST_USE = {
    "Policy": "trimtab.policies",
    "Rule": "trimtab.rules.rule",
    "Run": "trimtab.run",
    "log": "trimtab.watching",
    "restore_best": "trimtab.watching",
    "should_stop": "trimtab.watching",
    "watch": "trimtab.watching",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # First torch alone: under `trimtab run` its arrival starts the run, which needs our modules whole.
    importlib.import_module("torch")
    value = globals()[name] = getattr(importlib.import_module(_ON_FIRST_USE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
