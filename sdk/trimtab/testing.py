"""What authors of backends need in their tests: sample runs and events, a backend that records, and a contract suite.

    from trimtab.testing import BackendContract

    class TestMyBackend(BackendContract):
        def make_backend(self, tmp_path):
            return MyBackend(tmp_path / "out")

The suite is plain pytest; nothing here imports it.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from trimtab.types import (
    Adjustment,
    Alert,
    Backend,
    Config,
    Epoch,
    Event,
    Health,
    Intake,
    LayerStatistics,
    Metric,
    Notice,
    PhaseSummary,
    RunEnd,
    RunInfo,
    RunStart,
    Step,
    Totals,
    Verdicts,
)

E = TypeVar("E", bound=Event)

SAMPLE_TIME = 1_767_225_600.25  # 2026-01-01T00:00:00.250000Z
PATIENCE_S = 10.0


class RecordingBackend:
    """A backend that keeps every event in `events`, in order, and the run in `run`. `closed` says whether it ended."""

    address: str | None = None

    def __init__(self) -> None:
        self.run: RunInfo | None = None
        self.events: list[Event] = []
        self.closed = False

    def start(self, run: RunInfo) -> None:
        self.run = run

    def write(self, events: Sequence[Event]) -> None:
        self.events.extend(events)

    def close(self) -> None:
        self.closed = True

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, for example `of(Step)`."""
        return [event for event in self.events if isinstance(event, kind)]


def sample_run(directory: Path, *, rank: int = 0, world_size: int = 1, run: str = "sample", **config: Any) -> RunInfo:
    """A run for `Backend.start`. Its files go to `directory / run`; `config` sets fields of `Config`; any free port."""
    settings: dict[str, Any] = {"run": run, "directory": directory, "port": 0, **config}
    return RunInfo(
        run=run,
        run_id=f"{run}-20260101T000000Z-0a1b",
        rank=rank,
        local_rank=rank,
        world_size=world_size,
        directory=directory / run,
        config=Config(**settings),
        facts={"torch": "2.13.0", "host": "node-1", "owner": "sam", "command": ["train.py", "--epochs", "2"]},
    )


def sample_step(step: int = 1, **fields: Any) -> Step:
    """A training step as a healthy run reports it. `fields` replaces any field of `Step`, as in `loss=0.25`."""
    defaults: dict[str, Any] = {
        "ts": SAMPLE_TIME + step / 10,
        "micro_steps": 1,
        "epoch": 1,
        "loss": 2.0 / step,
        "loss_ema": 2.0 / step,
        "loss_at_chance": 2.3,
        "accuracy": 0.5,
        "samples": 32,
        "learning_rate": (0.001,),
        "weight_decay": (0.01,),
        "gradient_steps": 1,
        "gradient_mean": 1e-4,
        "gradient_variance": 0.25,
        "gradient_norm": 1.5,
        "gradient_max_abs": 0.75,
        "gradient_preclip_norm": 3.0,
        "gradient_noise_scale": 512.0,
        "step_seconds": 0.1,
        "data_wait_seconds": 0.01,
        "step_durations": (0.1,),
        "batch": step,
        "batches": 100,
        "totals": Totals(steps=step, samples=32 * step, data_wait_seconds=0.01 * step),
    }
    return Step(step=step, **{**defaults, **fields})


def sample_events() -> list[Event]:
    """The events of a short run, with each kind of event and each field of `Step` at least once."""
    layers = {
        "0.weight": LayerStatistics(depth=0, mean=0.1, variance=0.2, norm=0.3, max_abs=0.4, update_ratio=0.001),
        "0.bias": LayerStatistics(depth=1, mean=0.0, variance=0.0, norm=0.0, max_abs=0.0),
    }
    once = {"scaler": 1}
    totals = Totals(steps=5, samples=160, epochs=1, data_wait_seconds=0.05, skipped=once, nonfinite={"loss": 1})
    verdicts = Verdicts(
        rule_levels={"loss_spike": 1.5, "loss_diverged": 0.0},
        signals={("loss_spike_score", "0"): 9.0},
        learning_rate_scale={("0", 0): 0.5},
        dropout_ratio=0.1,
        snapshot_age_s=2.5,
        budgets={"loss_spike": 2, "loss_diverged": 3},
    )
    of_rule: dict[str, Any] = {"rule": "loss_spike", "optimizer": "0", "episode": 1}
    folded = {"steps": 4, "loss_min": 0.4, "loss_max": 1.0, "gradient_nonfinite": 0, "skipped": once}
    at: dict[str, Any] = {"ts": SAMPLE_TIME + 1, "step": 5}
    return [
        RunStart(
            ts=SAMPLE_TIME,
            step=0,
            facts={"torch": "2.13.0", "config": {"backends": ["jsonl"]}},
            addresses={"jsonl": "runs/sample/rank-0.jsonl"},
        ),
        sample_step(1),
        sample_step(
            5,
            layers=layers,
            levels={"loss_spike": 1.5},
            totals=totals,
            verdicts=verdicts,
            step_durations=(0.1,) * 4,
            **folded,
        ),
        Alert(**at, **of_rule, state="firing", severity="warning", value=9.0, threshold=6.0, count=1),
        Adjustment(
            **at,
            **of_rule,
            policy="loss_spike",
            action="scale_learning_rate",
            before={"learning_rate_scale": 1.0},
            after={"learning_rate_scale": 0.5},
            outcome="dry_run",
            reason="act is off",
            budget_remaining=2,
        ),
        Step(**at, phase="validation", loss=0.75, accuracy=0.8, samples=32, totals=totals),
        Epoch(
            **at,
            epoch=1,
            train=PhaseSummary(loss=0.9, accuracy=0.6, samples=160),
            validation=PhaseSummary(loss=0.75, accuracy=0.8, samples=32),
            seconds=0.5,
        ),
        Metric(**at, values={"perplexity": 12.3}, phase="validation"),
        Notice(**at, kind="unseen_optimizer", text="An optimizer was built before the run and is not seen."),
        Health(
            **at,
            overhead_seconds=0.004,
            overhead_ratio=0.008,
            gradient_interval_steps=4,
            dropped={"jsonl": {"error": 2}},
            backend_errors={"jsonl": 1},
            hung_after_seconds=600.0,
        ),
        Intake(**at, received={"alertmanager": {"accepted": 1}}, last_success={"alertmanager": SAMPLE_TIME}),
        RunEnd(**at, status="completed", seconds=0.5, totals={"steps": 5}),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Event):
    """A kind of event that no backend knows: a later version of Trimtab may send some."""

    name: ClassVar[str] = "unknown"
    surprise: float = 1.0


class _Unreadable(Mapping[str, float]):
    """Values that fail when they are read, as the values of a faulty event would."""

    def __getitem__(self, key: str) -> float:
        raise ValueError("this event is faulty on purpose")

    def __iter__(self) -> Iterator[str]:
        raise ValueError("this event is faulty on purpose")

    def __len__(self) -> int:
        return 1


def faulty_event() -> Metric:
    """An event whose values raise `ValueError` when they are read."""
    return Metric(ts=SAMPLE_TIME, step=1, values=_Unreadable())


class BackendContract:
    """The tests that every backend must pass. Subclass it, and define `make_backend`."""

    def make_backend(self, tmp_path: Path) -> Backend:
        """A new backend, not started. It must write under `tmp_path`, and serve on loopback."""
        raise NotImplementedError(f"{type(self).__name__}: give it a make_backend(self, tmp_path) that returns yours")

    def started(self, tmp_path: Path) -> Backend:
        backend = self.make_backend(tmp_path)
        backend.start(sample_run(tmp_path))
        return backend

    def written(self, tmp_path: Path, *events: Event) -> None:
        backend = self.started(tmp_path)
        backend.write(events)
        backend.close()

    def test_it_has_the_methods_of_a_backend(self, tmp_path: Path) -> None:
        assert isinstance(self.make_backend(tmp_path), Backend)

    def test_it_says_where_its_output_is_or_nothing(self, tmp_path: Path) -> None:
        backend = self.started(tmp_path)
        address = getattr(backend, "address", None)
        backend.close()
        assert address is None or isinstance(address, str)

    def test_no_events(self, tmp_path: Path) -> None:
        self.written(tmp_path)

    def test_every_kind_of_event(self, tmp_path: Path) -> None:
        self.written(tmp_path, *sample_events())

    def test_every_field_may_be_missing(self, tmp_path: Path) -> None:
        self.written(tmp_path, *map(_bare, sample_events()))

    def test_nan_and_infinity(self, tmp_path: Path) -> None:
        for value in (float("nan"), float("inf"), float("-inf")):
            self.written(tmp_path, *(_with_every_float(event, value) for event in sample_events()))

    def test_an_unknown_kind_of_event_is_no_error(self, tmp_path: Path) -> None:
        self.written(tmp_path, UnknownEvent(ts=SAMPLE_TIME, step=1), sample_step(2))

    def test_close_twice(self, tmp_path: Path) -> None:
        backend = self.started(tmp_path)
        backend.close()
        backend.close()

    def test_close_without_start(self, tmp_path: Path) -> None:
        self.make_backend(tmp_path).close()

    def test_a_faulty_event_costs_its_batch_at_most(self, tmp_path: Path) -> None:
        backend = self.started(tmp_path)
        with ThreadPoolExecutor(max_workers=1) as lane:
            lane.submit(backend.write, [sample_step(1), faulty_event(), sample_step(2)]).exception()
            lane.submit(backend.write, [sample_step(3)]).result(PATIENCE_S)
        backend.close()

    def test_a_fork_disturbs_neither_side(self, tmp_path: Path) -> None:
        backend = self.started(tmp_path)
        backend.write([sample_step(1)])
        assert _exit_code_of_idle_child() == 0, "a forked child hung or died although nothing was called in it"
        backend.write([sample_step(2)])
        backend.close()

    def test_close_leaves_no_thread_and_no_file_open(self, tmp_path: Path) -> None:
        self.written(tmp_path, *sample_events())  # once before, for what is opened or imported only once
        gc.collect()
        before = _held()
        self.written(tmp_path, *sample_events())
        until = time.monotonic() + PATIENCE_S
        while _is_more(_held(), before) and time.monotonic() < until:
            threading.Event().wait(0.01)
        assert not _is_more(_held(), before), "close() left threads or descriptors behind"


def _bare(event: Event) -> Event:
    """The same event, with every optional field at its default."""
    defaults: dict[str, Any] = {}
    for spec in dataclasses.fields(event):
        if spec.default is not dataclasses.MISSING:
            defaults[spec.name] = spec.default
        elif spec.default_factory is not dataclasses.MISSING:
            defaults[spec.name] = spec.default_factory()
    return dataclasses.replace(event, **defaults)


def _with_every_float(event: Event, value: float) -> Event:
    """The same event, with `value` in place of every number with a fraction but the time."""
    changes = {s.name: _floats_replaced(getattr(event, s.name), value) for s in dataclasses.fields(event)}
    return dataclasses.replace(event, **{**changes, "ts": event.ts})


def _floats_replaced(given: Any, value: float) -> Any:
    if isinstance(given, float):
        return value
    if isinstance(given, dict):
        return {key: _floats_replaced(item, value) for key, item in given.items()}
    if isinstance(given, (list, tuple)):
        return tuple(_floats_replaced(item, value) for item in given)
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        changes = {s.name: _floats_replaced(getattr(given, s.name), value) for s in dataclasses.fields(given)}
        return dataclasses.replace(given, **changes)
    return given


def _exit_code_of_idle_child() -> int | None:
    """Fork a child that drops what it inherited and exits. Returns its exit code, None if it had to be killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork of a process with threads, which is the point
        child = os.fork()
    if child == 0:
        gc.collect()
        os._exit(0)
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        threading.Event().wait(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _held() -> tuple[int, int]:
    """How many threads and descriptors this process has; descriptors count where the system tells."""
    descriptors = Path("/proc/self/fd")
    return threading.active_count(), len(os.listdir(descriptors)) if descriptors.exists() else 0


def _is_more(held: tuple[int, int], before: tuple[int, int]) -> bool:
    """Of either. There may be fewer, where a thread of an earlier test has ended since."""
    return any(now > then for now, then in zip(held, before, strict=True))
