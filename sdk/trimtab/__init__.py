"""Trimtab watches PyTorch training from inside.

    import trimtab

    @trimtab.watch
    def train(): ...
"""

from trimtab.errors import BackendError, BackendUnavailable, ConfigError, RunActiveError, TrimtabError
from trimtab.run import Run
from trimtab.watch import log, should_stop, watch

__all__ = [
    "BackendError",
    "BackendUnavailable",
    "ConfigError",
    "Run",
    "RunActiveError",
    "TrimtabError",
    "log",
    "should_stop",
    "watch",
]
