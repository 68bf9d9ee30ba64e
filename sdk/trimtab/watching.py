"""`watch`: decorator and context manager, and the one run that is active in a process."""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from trimtab import config as configuration
from trimtab import lifecycle
from trimtab.errors import ConfigError, HaltTraining, RunActiveError
from trimtab.guard import in_words

if TYPE_CHECKING:
    from trimtab.run import Run
    from trimtab.settings import Config
    from trimtab.types import Backend, Status

F = TypeVar("F", bound=Callable[..., Any])

_lock = threading.Lock()
_active: Run | None = None
_ended = ""  # the name of the last run that is over


class Watch:
    """What `watch` returns when it is called with options: use it as a decorator or with `with`."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._runs: list[Run] = []

    def __call__(self, function: F) -> F:
        return _decorated(function, self._options)

    def __enter__(self) -> Run:
        run = _idle(self._options) if configuration.disabled() else _start(self._options, default_name=None)
        self._runs.append(run)
        return run

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return _end(self._runs.pop(), error)


@overload
def watch(fn: F) -> F: ...


@overload
def watch(
    fn: None = None,
    *,
    run: str | None = None,
    backends: Sequence[str | Backend] | str | None = None,
    overhead: float | None = None,
    gradients_every: int | None = None,
    layers: Sequence[str] | str | None = None,
    directory: str | PathLike[str] | None = None,
    host: str | None = None,
    port: int | None = None,
    targets: str | PathLike[str] | None = None,
    linger: float | None = None,
    resume: bool | None = None,
    act: bool | Literal["process", "alerts"] | None = None,
    replay: str | None = None,
    snapshot_directory: str | PathLike[str] | None = None,
    snapshot_gib: float | None = None,
    snapshot_rng: bool | None = None,
    rules: Sequence[Any] | None = None,
    policies: Sequence[Any] | None = None,
    monitor: str | tuple[str, Literal["min", "max"]] | None = None,
    on_halt: Literal["ask", "unwind"] | None = None,
    alerts: str | None = None,
    alerts_every: float | None = None,
    alerts_token_file: str | PathLike[str] | None = None,
    alerts_ca_file: str | PathLike[str] | None = None,
    webhook_token_file: str | PathLike[str] | None = None,
    grafana: str | None = None,
    grafana_token_file: str | PathLike[str] | None = None,
    grafana_ca_file: str | PathLike[str] | None = None,
    metrics_token_file: str | PathLike[str] | None = None,
    tls_certificate_file: str | PathLike[str] | None = None,
    tls_key_file: str | PathLike[str] | None = None,
    config: str | PathLike[str] | None = None,
) -> Watch: ...


def watch(fn: Any = None, **options: Any) -> Any:
    """Watch the training inside a function or a `with` block.

    Use it bare (`@watch`), with options (`@watch(run="resnet")`), or as a context manager (`with watch() as run:`).
    The function's arguments, return value, name and exceptions pass through.

    Args:
        run: name of the run, of `[A-Za-z0-9._-]`, at most 128. Default: script or function, UTC time, four hex digits.
        backends: names or instances. Default: console, jsonl, prometheus.
        overhead: share of the run's time that watching may cost, from 0 to 0.5. Default: 0.01.
        gradients_every: read gradients every so many steps. Default: chosen to stay within `overhead`.
        layers: patterns of parameter names, as in "blocks.*.weight": the layers to report. Default: all, up to 200.
        directory: where runs are written. Default: `runs`.
        host, port: where /metrics is served. Default: 127.0.0.1, 9464 or the next free port. A port that is asked
            for and taken is an error; 0 is any free one; each rank adds its local rank.
        targets: directory of the file by which Prometheus finds the run. Default: `targets` under `directory`.
        linger: seconds to wait at the end for a last scrape. Default: one scrape interval, if it is known by then.
            `math.inf` waits until Ctrl-C, which ends the waiting and not the program.
        resume: continue the run of the same name: its step count, scales, clipping, budgets, cooldowns and episodes.
        act: who may adjust the run: False (nobody: a dry run, shown and logged), "process" (rules judged in the run),
            "alerts" (alerts from outside) or True (both). Default: False.
        replay: name, directory or log of a run. Its adjustments are made again, each at its own step, and no others,
            whatever `act` says. With the same seeds, data and `gradients_every` the weights are the same.
        snapshot_directory: keep snapshots for rollbacks as files there until the run ends. Default: in memory.
        snapshot_gib: GiB that all snapshots together may take. Default: 4, or a quarter of the free memory if less.
        snapshot_rng: whether a rollback turns the random generators of torch, Python and NumPy back too. Default:
            False, so that training goes on with other batches.
        rules: rules of your own, and changes of shipped ones; see `Rule`. The other shipped rules are judged too.
        policies: exactly the policies to use, "shipped" for all that ship; see `Policy`. Default: those that ship.
        monitor: the metric that the best model is chosen by, such as "loss" or ("accuracy", "max"). Default: the
            validation loss.
        on_halt: "ask" stops the loop through its framework or `should_stop()`. "unwind" raises `HaltTraining` where
            nobody asks. Default: "ask".
        alerts: address of an Alertmanager or a Grafana, which is asked for alerts about this run. Default: none.
        alerts_every: seconds between two questions. Default: 5.
        alerts_token_file, alerts_ca_file: the token for that server, and the certificates to trust there. Default: no
            token, and those that the system trusts.
        webhook_token_file: take alerts that are posted with this token. Default: none are taken.
        grafana: address of a Grafana, to which adjustments and alerts are written as annotations. Default: none.
        grafana_token_file, grafana_ca_file: its token, which it needs, and the certificates to trust there.
        metrics_token_file: serve /metrics to those alone who have this token. Default: to all who reach it.
        tls_certificate_file, tls_key_file: serve over HTTPS with these. Default: HTTP.
        config: a TOML file with any of these.

    Raises:
        ConfigError: an option that cannot be used, or a coroutine or generator function.
        BackendError: a backend that was asked for cannot start.
        RunActiveError: another run is active in this process.
    """
    if fn is None:
        if not configuration.disabled():
            configuration.check(**options)
        return Watch(options)
    if options and callable(fn):
        raise ConfigError(f"watch(function, {next(iter(options))}=...): give options first, as watch(...)(function).")
    return _decorated(fn, {})


def log(values: Mapping[str, Any] | None = None, /, *, phase: str | None = None, **more: Any) -> None:
    """Log numbers to the active run, as `Run.log` does. Does nothing outside of a run."""
    run = _active
    if run is not None:
        run.log(values, phase=phase, **more)


def should_stop() -> bool:
    """Whether a policy or a person asked the active run to stop: `if trimtab.should_stop(): break`.

    False outside of a run. After a halt the first call puts the best weights back, where the halt wants that.
    """
    run = _active
    return run is not None and run.should_stop


def restore_best() -> bool:
    """Put the best state of the active run back into the model, as `Run.restore_best` does. False outside of a run."""
    run = _active
    if run is None and _ended:
        lifecycle.warn_that_over(_ended)
    return run is not None and run.restore_best()


def _decorated(function: F, options: Mapping[str, Any]) -> F:
    name = getattr(function, "__name__", type(function).__name__)
    if isinstance(function, staticmethod | classmethod):
        raise ConfigError(
            f"watch({name}): a {type(function).__name__} is not watched. Put @{type(function).__name__} above @watch."
        )
    if isinstance(function, type):
        raise ConfigError(f"watch({name}): a class is not watched. Put @watch on its method that trains.")
    if not callable(function):
        raise ConfigError(
            f"watch({function!r}): expected a function. Pass options by name, as in @watch(run='resnet')."
        )
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_of_kind(function) for is_of_kind in kinds):
        raise ConfigError(
            f"watch({name}): coroutine and generator functions cannot be watched, since their body does not run when "
            "they are called. Use `with trimtab.watch():` inside of it."
        )

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if configuration.disabled():
            return function(*args, **kwargs)
        run = _start(options, default_name=name)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            if _end(run, error):
                return None
            raise
        _end(run, None)
        return result

    return watched  # type: ignore[return-value]


def _start(options: Mapping[str, Any], *, default_name: str | None) -> Run:
    global _active
    with _lock:
        if _active is not None and not _active.closed:
            raise RunActiveError(
                f"run {_active.name!r} is active in this process, and there can be only one. Close it first, or log to "
                "it with trimtab.log(). If the script calls watch() itself, start it without `trimtab run`."
            )
        run = _new_run(configuration.resolve(default_name=default_name, **options))
        run.start()
        _active = run
    lifecycle.after_fork_in_child(_forget_in_child)
    return run


def _idle(options: Mapping[str, Any]) -> Run:
    """What `with watch() as run:` gives when TRIMTAB_DISABLED is set: a run that does nothing."""
    return _new_run(configuration.unwatched(options), id=os.urandom(8).hex())


def _new_run(config: Config, id: str | None = None) -> Run:
    """Loads every room: three quarters of what importing all of Trimtab takes, and not due before a run begins."""
    from trimtab.run import Run

    return Run(config, id)


def _end(run: Run, error: BaseException | None) -> bool:
    """Close the run. True when `error` is its own `HaltTraining`, which ends here."""
    global _active, _ended
    status, text = _status_of(error)
    try:
        run.close("halted" if status == "completed" and run.halted else status, text)
    finally:
        if _active is run:
            _active, _ended = None, run.name
    return isinstance(error, HaltTraining) and run.halted


def _status_of(error: BaseException | None) -> tuple[Status, str | None]:
    if error is None:
        return "completed", None
    if isinstance(error, HaltTraining):
        return "halted", str(error)
    if isinstance(error, SystemExit):
        return ("completed", None) if error.code in (None, 0) else ("failed", f"SystemExit: {error.code}")
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "KeyboardInterrupt"
    return "failed", in_words(error)


def _forget_in_child() -> None:
    """A forked child neither serves nor writes."""
    global _active, _lock
    run, _active, _lock = _active, None, threading.Lock()
    if run is not None:
        run.abandon()
