"""Finds backends: ours and everybody's, through the entry points of the group `trimtab.backends`.

Nothing is looked up or imported before `load` or `installed` is called. The names of our own backends are taken: an
entry point of another distribution under one of them is ignored, and listed as such.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from trimtab.errors import BackendError, BackendUnavailable, ConfigError, did_you_mean
from trimtab.guard import Guard, in_words
from trimtab.settings import Config

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from trimtab.types import Backend, RunInfo

GROUP = "trimtab.backends"
BUILT_IN = ("console", "grafana", "jsonl", "prometheus")
OF_A_SETTING = "grafana"  # comes with the setting of that name, so whoever has it asked for it
SERVES = "prometheus"  # asked for by whoever says where, to whom or over what it serves
_OURS = "trimtab"
_OUR_BACKENDS = "trimtab_backends"  # the package that they are in


@dataclass(frozen=True, slots=True)
class Installed:
    """A backend that some distribution offers. `problem` is empty, or says why it cannot be used."""

    name: str
    distribution: str
    version: str
    problem: str


def load(config: Config) -> tuple[dict[str, Backend], list[str]]:
    """The backends of `config`, made but not started, by name, and a sentence for each that was skipped.

    Instances are named after their class, with a number where the name is one of ours or was given already. Of the
    default set, what cannot be used is skipped; what the user asked for raises.

    Raises:
        ConfigError: no installed distribution offers a backend of that name.
        BackendUnavailable: it needs a package that is not installed; the message holds the command.
        BackendError: it cannot be imported or made, or it is not a backend, or two distributions offer it.
    """
    backends: dict[str, Backend] = {}
    notices: list[str] = []
    named = {item for item in config.backends if isinstance(item, str)}
    for item in config.backends:
        if not isinstance(item, str):
            ours = type(item).__module__.partition(".")[0] == _OUR_BACKENDS
            taken = named.union(backends, () if ours else BUILT_IN)
            backends[_unique(_class_name(item), taken)] = item
            continue
        try:
            backends.setdefault(item, _make(find(item)))
        except (BackendError, ConfigError) as error:
            if _is_asked_for(item, config):
                raise
            notices.append(f"{error} Going on without it.")
    return backends, notices


def start(backends: Mapping[str, Backend], info: RunInfo) -> tuple[dict[str, Backend], list[str]]:
    """Start each for the run. Returns those that run, by name, and a sentence for each that was skipped.

    Raises as `load` does; then those that had started are closed.
    """
    started: dict[str, Backend] = {}
    notices: list[str] = []
    for name, backend in backends.items():
        try:
            problem = Guard.attempt(partial(backend.start, info))
        except BaseException:  # Ctrl-C while it connects: what it has opened so far is closed too
            close({**started, name: backend})
            raise
        if problem is None:
            started[name] = backend
            continue
        error = explain(name, problem)
        if _is_asked_for(name, info.config):
            close(started)
            raise error from problem
        notices.append(f"{error} Going on without it.")
    return started, notices


def close(started: Mapping[str, Backend]) -> None:
    """Close backends of a run that does not come to pass."""
    for backend in started.values():
        Guard.attempt(backend.close)


def installed() -> list[Installed]:
    """Every backend on offer, by name. Imports and makes each, which is what tells whether it can be used."""
    return [
        Installed(entry.name, _distribution(entry), entry.dist.version if entry.dist else "", _problem(entry))
        for entry in sorted(entry_points(), key=lambda entry: (entry.name, _distribution(entry)))
    ]


def entry_points(name: str | None = None) -> list[EntryPoint]:
    """Those of our group. The import waits until here: it takes as long as the rest of ours together."""
    from importlib.metadata import entry_points

    return [entry for entry in entry_points(group=GROUP) if name is None or entry.name == name]


def find(name: str) -> EntryPoint:
    """The entry point behind a backend's name; imports nothing. Raises as `load` does. Costs about 4 ms."""
    offers = [entry for entry in entry_points(name=name) if not _usurps(entry)]
    if not offers:
        if name in BUILT_IN:
            raise BackendUnavailable(f"backend {name!r}: Trimtab itself is not installed. Run: pip install {_OURS}")
        known = {entry.name for entry in entry_points()} | set(BUILT_IN)
        raise ConfigError(f"backend {name!r} is not installed. {did_you_mean(name, known)}")
    if len(offers) > 1:
        both = " and ".join(sorted(map(_distribution, offers)))
        raise BackendError(f"backend {name!r} is offered by {both}. Uninstall one of them.")
    return offers[0]


def explain(name: str, error: BaseException) -> BackendError:
    """What to raise or tell when backend `name` failed with `error`: with the install command where that helps."""
    if isinstance(error, BackendError):
        return error
    if isinstance(error, ModuleNotFoundError):
        command = _install_command(name)
        return BackendUnavailable(f"backend {name!r} needs the package {error.name!r}, which is missing. {command}")
    return BackendError(f"backend {name!r} cannot start: {in_words(error)}")


def is_backend(value: object) -> bool:
    """Whether `value` has what a backend needs."""
    from trimtab.types import Backend

    return isinstance(value, Backend) and not isinstance(value, type)


def _is_asked_for(name: str, config: Config) -> bool:
    return config.backends_requested or name == OF_A_SETTING or (name == SERVES and config.serving_requested)


def _make(entry: EntryPoint) -> Backend:
    try:
        backend: Backend = entry.load()()
    except Exception as error:
        raise explain(entry.name, error) from error
    if not is_backend(backend):
        raise BackendError(
            f"backend {entry.name!r}: {entry.value} is no backend, which has start(), write() and close(). "
            f"Tell the authors of {_distribution(entry)}."
        )
    return backend


def _problem(entry: EntryPoint) -> str:
    if _usurps(entry):
        return f"the name {entry.name!r} belongs to {_OURS}"
    try:
        _make(find(entry.name))
    except BackendError as error:
        return str(error)
    return ""


def _usurps(entry: EntryPoint) -> bool:
    return entry.name in BUILT_IN and _distribution(entry) != _OURS


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else ""


def _install_command(name: str) -> str:
    """Installing the distribution again brings the dependencies that it declares, and nothing else."""
    for entry in entry_points(name=name):
        if entry.dist and not _usurps(entry):
            extras = f"[{','.join(entry.extras)}]" if entry.extras else ""
            return f"Run: pip install '{entry.dist.name}{extras}'"
    return "Install it with pip."


def _class_name(backend: Any) -> str:
    name = type(backend).__name__
    return (name.removesuffix("Backend") or name).lower()


def _unique(name: str, taken: Collection[str]) -> str:
    candidates: Iterator[str] = (name if n == 1 else f"{name}-{n}" for n in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)
