"""Names of runs, and their ids: what is allowed, what a run is called when nobody named it, how ranks agree on both."""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from trimtab import stores

LONGEST = 128
RESERVED = (".", "..", "targets")  # the last is where runs leave files for Prometheus
EACH_ITS_OWN = "Each rank writes a run of its own. Set TRIMTAB_RUN to the same name on every rank to make them one."
EXPECTED = f"letters, digits, '.', '_' and '-', at most {LONGEST} of them, and not 'targets'"

_VALID = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST}}}")
_SUFFIX = len("-20261123T021906Z-0000")

_NO_STORE = (RuntimeError, OSError, KeyError, ValueError, ImportError, AttributeError)  # what asking one may raise

_runs_started = itertools.count()
_ids_given = Counter[str]()  # by the name of the run


def is_valid(name: str) -> bool:
    """Whether a run may have this name, which is a directory, a label value and part of a file name."""
    return _VALID.fullmatch(name) is not None and name not in RESERVED


def fresh(of: str) -> str:
    """`<of>-<UTC time>-<four hex digits>`, with what a name cannot hold replaced by `-`."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", of).strip("-.")[: LONGEST - _SUFFIX]
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"{stem or 'run'}-{moment}-{os.urandom(2).hex()}"


def of_script() -> str:
    """The name of the program: of its module after `-m`, of the notebook, else of its file, else `python`."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name != "__main__":  # which is in a directory or a zip file that has a name
        return str(spec.name).removesuffix(".__main__").rpartition(".")[2]
    path = Path(sys.argv[0] if sys.argv else "")
    if path.name == "__main__.py":
        path = path.parent
    if path.stem == "ipykernel_launcher":
        path = Path(os.environ.get("JPY_SESSION_NAME") or "notebook")  # as Jupyter's server says it
    return path.stem if path.name not in ("", "-", "-c") else "python"


def agree(name: str, environ: Mapping[str, str] = os.environ) -> tuple[str, str | None]:
    """The one name for all ranks of a job, and what to tell the user where that cannot be had.

    Under torchrun the first rank to ask the launcher's store names the run. That needs no process group, so a rank
    that is not watched is never waited for; a store that does not answer is given up after ten seconds. All other
    ranks ask the store of their process group, where they have one by now.
    """
    try:
        return _first(name, f"run/{next(_runs_started)}", environ), None
    except _NO_STORE:
        return name, EACH_ITS_OWN


def new_id(run: str, environ: Mapping[str, str] = os.environ) -> str:
    """An id for the run of this name, which no other run has: the same on all ranks, where they can agree on a name.

    But for an elastic restart with as many ranks as before, which torchrun does not count: it goes on under its id.
    """
    own, before = os.urandom(8).hex(), _ids_given[run]
    _ids_given[run] += 1
    try:
        return _first(own, f"id/{environ.get('WORLD_SIZE')}/{run}/{before}", environ)
    except _NO_STORE:
        return own


def _first(word: str, of: str, environ: Mapping[str, str]) -> str:
    """What the first rank to ask has said: `word`, where that is this one or there is no other."""
    from trimtab import facts  # which loads torch

    unannounced = all(environ.get(variable, "1") in ("", "1") for variable in _world_sizes(environ))
    if unannounced and facts.group() is None:
        return word
    has_launcher = not unannounced and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = stores.of_launcher(environ) if has_launcher else stores.of_group()
    return str(store.compare_set(stores.key(of, environ), "", word).decode())


def _world_sizes(environ: Mapping[str, str]) -> tuple[str, ...]:
    slurm = ("SLURM_NTASKS",) if "SLURM_STEP_ID" in environ else ()  # without a step it is the batch script itself
    return ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", *slurm)
