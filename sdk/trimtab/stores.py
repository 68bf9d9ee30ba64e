"""Where the ranks of a job can leave each other a word: the launcher's store, and that of their process group."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from typing import Any

_TIMEOUT = datetime.timedelta(seconds=10)


def of_launcher(environ: Mapping[str, str]) -> Any:
    """Torchrun's, which needs no process group. Raises RuntimeError where it does not answer within ten seconds."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in its __all__

    return TCPStore(environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), is_master=False, timeout=_TIMEOUT)


def of_group() -> Any:
    """The process group's. Raises ValueError where there is none, AttributeError where this torch hides it."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()  # there is no public way to it


def key(word: str, environ: Mapping[str, str] = os.environ) -> str:
    """Under which `word` stands. A launcher that starts the ranks again may keep the store, with the words before."""
    return f"trimtab/{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{word}"
