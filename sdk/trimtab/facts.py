"""What a run is: versions, machine, owner, commit, command line. Read once, when the run starts."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from trimtab.commits import commit

FRAMEWORKS = ("lightning", "pytorch_lightning", "transformers", "accelerate", "fastai", "ignite", "composer")
JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "TORCHELASTIC_RUN_ID", "HOSTNAME")

# What a secret is named like. A tokenizer is none.
_NAMED = r"(?:pass|secret|token(?!i[sz]er)|(?:api|access|private)[-_]?key|credential|auth)"
_SECRET = re.compile(_NAMED, re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/?#]+(?=@)")  # in a URL, as is the next
_IN_QUERY = re.compile(rf"([?&][^=&#]*{_NAMED}[^=&#]*=)[^&#]+", re.IGNORECASE)
_KEY = re.compile(r"""(?<![\w./@-])["']?([\w.-]+)["']?\s*[:=]\s*""")  # of a header, of JSON, of settings in one text
_VALUE = re.compile(r""""[^"]*"|'[^']*'|[^\s"',;&}\]][^"',;&}\]]*""")
REMOVED = "<removed>"


def collect(environ: Mapping[str, str] = os.environ, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The facts of this process. About 1 ms; starts no other process."""
    directory = _working_directory()
    return {
        "trimtab": version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": without_secrets(_command(sys.argv if argv is None else argv)),
        "host": platform.node(),
        "pid": os.getpid(),
        "owner": _owner(),
        "job": next((environ[v] for v in JOB_VARIABLES if environ.get(v)), ""),
        "commit": "" if directory is None else commit(directory),
        "framework": next((name for name in FRAMEWORKS if name in sys.modules), "torch"),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "directory": "" if directory is None else str(directory),
    }


def rank_of(environ: Mapping[str, str] = os.environ) -> tuple[int, int, int]:
    """Rank, local rank and world size, as torchrun, Slurm or Open MPI tell them, else as the process group does.

    0, 0, 1 where there is neither. A rank without a world that has room for it, such as `RANK=1` alone, was left in a
    shell, and is none. What `torch.multiprocessing.spawn` starts has a process group alone, also below a launcher that
    started a single process. Of those that Lightning starts itself, the first began as the only one; the others know
    their rank by now, but not yet a group, and take themselves for the only ones too.
    """
    names = (
        ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"),
        ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"),
        ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"),
    )
    if not environ.keys().isdisjoint(("RANK", "SLURM_STEP_ID", "OMPI_COMM_WORLD_RANK")):
        found = [next((environ[n] for n in group if _is_number(environ.get(n, ""))), None) for group in names]
        rank, local_rank, world_size = (int(value or 0) for value in found)
        if world_size > max(1, rank):
            return rank, local_rank, world_size
    in_group, size = group() or (_started_by_lightning(environ), 1)
    return in_group, in_group, size


def _started_by_lightning(environ: Mapping[str, str]) -> int:
    """The rank of a process of the first node, 0 where Lightning did not start it: elsewhere it tells no rank."""
    local_rank = environ.get("LOCAL_RANK", "")
    return int(local_rank) if environ.get("NODE_RANK") == "0" and _is_number(local_rank) else 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()  # which alone takes `²` for one


def group() -> tuple[int, int] | None:
    """Rank and world size by the process group, None where there is none of several ranks."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return None
    return distributed.get_rank(), distributed.get_world_size()


def has_joined_rpc() -> bool:
    """Whether this process takes part in torch.distributed.rpc, or did: torch keeps its autograd until the end."""
    try:
        distributed.autograd._get_debug_info()  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # it is not built in, or was never initialised
        return False
    return True


def without_secrets(command: Sequence[str]) -> list[str]:
    """The command line without the values of what is named like a secret, and without credentials in URLs."""
    kept: list[str] = []
    hide = False
    for argument in command:
        name, equals, _ = argument.partition("=")
        if hide and not argument.startswith("-"):
            kept.append(REMOVED)
            hide = False
        elif equals and "://" not in name and _SECRET.search(name):
            kept.append(f"{name}={REMOVED}")
        else:
            kept.append(_within(argument))
            hide = argument.startswith("-") and not equals and _SECRET.search(argument) is not None
    return kept


def _within(argument: str) -> str:
    """A text without the secrets in it: those of a URL, of a header, of settings in one argument."""
    text = _IN_QUERY.sub(rf"\1{REMOVED}", _CREDENTIALS.sub(REMOVED, argument))
    kept, end = "", 0
    for key in _KEY.finditer(text):
        value = _VALUE.match(text, key.end()) if key.start() >= end and _SECRET.search(key[1]) else None
        if value is not None:
            kept, end = f"{kept}{text[end : key.end()]}{REMOVED}", value.end()
    return kept + text[end:]


def version() -> str:
    """Trimtab's own."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("trimtab")
    except PackageNotFoundError:
        return "unknown"


def _command(argv: Sequence[object]) -> list[str]:
    """As texts: a program may put a path or a number into `sys.argv`, and one that embeds Python has no executable."""
    return [str(each) for each in (sys.executable or "python", *argv)]


def _working_directory() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it is gone
        return None


def _owner() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without a user entry
        return ""
