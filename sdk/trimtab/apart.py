"""Keeps libraries of ours apart from the program's, where importing them draws random numbers.

rich draws a number from `random` when it is first imported. What we import has to be undone twice: the number was
never drawn, and the program's own first import, which may come after it has seeded, draws it as ever. So the copy that
we imported is taken out of `sys.modules`, and the program imports its own. Whoever holds our copy must not have it
import anything later: that would be the program's first import, on a thread of ours.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

PACKAGES = ("rich", "structlog")  # structlog imports rich

_ours: dict[str, ModuleType] = {}  # of earlier runs, so that no further copy is made


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """What is imported inside of `PACKAGES` is not imported for the program, unless the program already had it."""
    before = _loaded()
    lent = {} if before else dict(_ours)
    sys.modules.update(lent)
    try:
        yield
    finally:
        new = {name: module for name, module in _loaded().items() if before.get(name) is not module}
        if not any(map(_is_importing, new.values())):  # by another thread: it would miss its module
            for name in new:
                del sys.modules[name]
            if not before:
                _ours.update(new)


def _loaded() -> dict[str, ModuleType]:
    modules = sys.modules.copy()  # at once: another thread, or the collector of garbage, may have more imported
    return {name: module for name, module in modules.items() if name.partition(".")[0] in PACKAGES}


def _is_importing(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))
