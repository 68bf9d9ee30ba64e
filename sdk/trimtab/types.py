"""The nouns: what a run is, what it says, and who may listen. This module imports no other of ours but the settings.

Events flow from the training thread over the bus to the backends. They are immutable and hold plain Python values
only: no tensor ever leaves `sample`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from trimtab.settings import Act as Act
from trimtab.settings import Config as Config

Phase: TypeAlias = Literal["train", "validation"]
Status: TypeAlias = Literal["running", "completed", "halted", "interrupted", "failed"]

Severity: TypeAlias = Literal["info", "warning", "critical"]
AlertState: TypeAlias = Literal["firing", "resolved"]
AlertSource: TypeAlias = Literal["process", "alertmanager", "grafana", "webhook"]
Outcome: TypeAlias = Literal["applied", "dry_run", "silenced", "refused", "failed"]

ACT_MODES = ("dry_run", "process", "alerts", "all")
STATUSES: tuple[Status, ...] = ("running", "completed", "halted", "interrupted", "failed")

_UNLOGGED = {"logged": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """Who is speaking: handed to every backend when it starts."""

    run: str
    run_id: str
    rank: int
    local_rank: int
    world_size: int
    directory: Path  # of this run: <config.directory>/<run>, absolute
    config: Config
    facts: Mapping[str, Any]  # versions, command line, host, owner, job, commit, framework

    @property
    def log(self) -> Path:
        """Where the `jsonl` backend writes what this rank says."""
        return self.directory / f"rank-{self.rank}.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatistics:
    """The gradient of one named parameter, on one step."""

    depth: int  # position in the model's own order, from 0
    mean: float
    variance: float
    norm: float
    max_abs: float
    update_ratio: float | None = None  # 2-norm of what the step changed over that of the weights


class Strides(NamedTuple):
    """How far steps of one optimizer move its layers, as shares of their own size; 0 is not known."""

    measured: float = 0.0  # a typical layer, by those that are too long
    furthest: float = 0.0  # any layer, in the same time
    first: float = 0.0  # a typical layer, by a first step at the present rate


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientReading:
    """What rules judge of one step's gradients."""

    norm: float  # of the whole, as it is about to be applied
    finite: bool
    layer_norms: Mapping[str, float]  # parameter name to 2-norm, in the model's own order
    update_ratios: Mapping[str, float] = field(default_factory=dict)  # of the newest step on which they were taken
    update_rate: float | None = None  # the learning rate of that step, by the schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A rule began to fire, or ceased to: the rising and the falling edge of an episode."""

    rule: str
    optimizer: str  # empty where the rule is about none
    episode: int  # numbered per rule and optimizer, from 1
    state: AlertState
    severity: Severity
    value: float  # of the signal, as it is judged: the least of its last `hold` points
    threshold: float
    level: float
    step: int  # global, of the judged point
    since: int  # the step of the first point that the level rests on

    @property
    def key(self) -> tuple[str, str]:
        """Whose episode it is: the rule, and the optimizer."""
        return self.rule, self.optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSummary:
    """Means over one pass, weighted by samples."""

    loss: float | None = None
    accuracy: float | None = None
    samples: int | None = None  # behind the loss
    accuracy_samples: int | None = None  # behind the accuracy, where it was not taken on every batch
    criterion: float | None = None  # the loss function's own mean: the same quantity in both phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something the run says. `ts` is in seconds since the epoch, UTC; `step` is the global step."""

    name: ClassVar[str]
    ts: float
    step: int

    def fields(self) -> Iterator[tuple[str, Any]]:
        """The event's own values as they are logged, without the ones that are not known (None)."""
        for name in _logged_fields(type(self)):
            value = getattr(self, name)
            if value is not None:
                yield name, value


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart(Event):
    """The first event of a run."""

    name: ClassVar[str] = "run_start"
    facts: Mapping[str, Any]  # versions, command line without secrets, host, owner, job, commit, config
    addresses: Mapping[str, str] = field(default_factory=dict)  # backend name to where its output is


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Event):
    """One optimizer step, or several folded into one record, or one validation pass.

    With `steps` over 1 every value is the mean over the steps it stands for, `loss_min` and `loss_max` are their
    extremes, and `learning_rate`, `weight_decay` and the totals are those of the last. A mean over a step whose loss
    is NaN is NaN: nothing is filtered. Gradient statistics are means over the `gradient_steps` sampled ones.
    """

    name: ClassVar[str] = "step"
    steps: int = 1
    micro_steps: float | None = None
    optimizer: str = ""
    epoch: int | None = None
    phase: Phase = "train"
    loss: float | None = None
    loss_min: float | None = None
    loss_max: float | None = None
    loss_ema: float | None = None
    loss_at_chance: float | None = None  # of the best answer that is the same for every input, where labels tell it
    accuracy: float | None = None
    samples: int | None = None
    learning_rate: Sequence[float | None] | None = None
    weight_decay: Sequence[float | None] | None = field(default=None, metadata=_UNLOGGED)
    gradient_steps: int | None = None
    gradient_mean: float | None = None
    gradient_variance: float | None = None
    gradient_norm: float | None = None
    gradient_max_abs: float | None = None
    gradient_preclip_norm: float | None = None
    gradient_noise_scale: float | None = None  # samples in a batch beyond which larger ones bring little
    gradient_nonfinite: int | None = None  # sampled steps whose gradients held NaN or Inf
    skipped: Mapping[str, int] | None = None  # reason to count, since the last record
    step_seconds: float | None = None
    data_wait_seconds: float | None = None
    levels: Mapping[str, float] | None = None  # rule to its worst level over these steps; 1 is at the threshold
    layers: Mapping[str, LayerStatistics] | None = None
    # What follows is for live views and metrics, not for the log.
    step_durations: Sequence[float] = field(default=(), metadata=_UNLOGGED)
    batch: int | None = field(default=None, metadata=_UNLOGGED)  # batches of this epoch so far
    batches: int | None = field(default=None, metadata=_UNLOGGED)  # ... and in all, where the loader knows
    totals: Totals | None = field(default=None, metadata=_UNLOGGED)
    verdicts: Verdicts | None = field(default=None, metadata=_UNLOGGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What rules and policies say when a record is made, of the whole run."""

    rule_levels: Mapping[str, float]  # worst over a trailing window; 0 after a fence, until that window is over
    signals: Mapping[tuple[str, str], float]  # signal and optimizer to its newest value
    learning_rate_scale: Mapping[tuple[str, int], float]  # optimizer and group
    dropout_ratio: float | None = None  # the largest of any module; None where there is no dropout
    snapshot_age_s: float | None = None
    budgets: Mapping[str, int] = field(default_factory=dict)  # policy to adjustments that it has left


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counters since the run began; a lost event loses no count. `steps` and `skipped` are this optimizer's."""

    steps: int = 0
    samples: int = 0
    epochs: int = 0
    data_wait_seconds: float = 0.0
    skipped: Mapping[str, int] = field(default_factory=dict)
    nonfinite: Mapping[str, int] = field(default_factory=dict)  # kind (loss, gradient, logged) to count


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch(Event):
    """An epoch has ended, with its validation if there is one. `seconds` since the end of the epoch before it.

    Of several optimizers `train` is of the one that the epoch before told of, at first of that which steps the most
    elements of parameters.
    """

    name: ClassVar[str] = "epoch"
    epoch: int  # from 1
    train: PhaseSummary | None = None
    validation: PhaseSummary | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric(Event):
    """What the user logged."""

    name: ClassVar[str] = "metric"
    values: Mapping[str, float]
    phase: str | None = None
    # Names beyond those that metrics may have.
    unexported: frozenset[str] = field(default=frozenset(), metadata=_UNLOGGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Something the user should be told, once, in a sentence."""

    name: ClassVar[str] = "notice"
    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert(Event):
    """A rule began to fire or ceased to, here or at a server."""

    name: ClassVar[str] = "alert"
    rule: str
    optimizer: str = ""  # empty where the rule is about none: validation, the run itself
    episode: int  # numbered per rule and optimizer, from 1; 0 where it is about none of ours
    state: AlertState
    source: AlertSource = "process"
    severity: Severity
    value: float | None = None  # of the rule's signal: the least of its last `hold` points
    threshold: float | None = None
    outcome: str | None = None  # what became of it, in a word, where it came from outside
    count: int | None = field(default=None, metadata=_UNLOGGED)  # of the episodes of a rule of ours since the run began


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment(Event):
    """A policy, or a person, changed the run, or would have."""

    name: ClassVar[str] = "adjustment"
    moment: Literal["before_step", "after_step"] = "after_step"  # whether the step of that number was applied by then
    policy: str  # its name, or "person"
    action: str
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the action, where they are not its defaults
    rule: str = ""
    episode: int | None = None
    optimizer: str = ""
    before: Mapping[str, Any] = field(default_factory=dict)  # what the action changes, by name
    after: Mapping[str, Any] = field(default_factory=dict)
    outcome: Outcome
    reason: str = ""
    count: int = field(default=1, metadata=_UNLOGGED)  # of this policy, action and outcome since the run began
    budget_remaining: int | None = field(default=None, metadata=_UNLOGGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Event):
    """What watching costs, and what was lost. Counts are totals since the run began."""

    name: ClassVar[str] = "health"
    overhead_seconds: float
    overhead_ratio: float
    gradient_interval_steps: int
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # backend to reason to events lost
    backend_errors: Mapping[str, int] = field(default_factory=dict)
    hung_after_seconds: float | None = None  # without a sign of life: see `watchdog`
    moved_on_at: float | None = field(default=None, metadata=_UNLOGGED)  # `ts` of it, where nothing else tells of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake(Event):
    """What came in from alert servers. Counts are totals since the run began."""

    name: ClassVar[str] = "intake"
    received: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # source to outcome to alerts
    last_success: Mapping[str, float] = field(default_factory=dict)  # source to when it was heard last, as `ts`; or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd(Event):
    """The last event of a run."""

    name: ClassVar[str] = "run_end"
    status: Status
    seconds: float  # since the run began
    error: str | None = None
    totals: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Backend(Protocol):
    """Where events go: a file, a service, a screen. Each backend has a thread of its own; training never waits for it.

    An exception from `start` means that the backend cannot be used. One from `write` or `close` is counted, reported
    once, and costs that batch only. After `fork` nothing is called in the child.

    A backend may also have:

    - `address`, a string: where its output is found;
    - `busy_seconds`, a float: processor time that threads of its own have used, which counts as overhead;
    - `linger()`, if others read it: called at the end, when everything was written, unless the run was interrupted, in
      the thread that ends the run. It may wait for readers.
    """

    def start(self, run: RunInfo) -> None:
        """Open what is needed, or raise with a clear sentence. Called once, in the thread that starts the run."""
        ...

    def write(self, events: Sequence[Event]) -> None:
        """Take a batch, oldest first; about one a second. When this returns, the batch is stored or sent."""
        ...

    def close(self) -> None:
        """Release everything. May be called twice, or without `start`."""
        ...


def nonfinite_paths(value: Any, prefix: str = "") -> Iterator[str]:
    """The dotted paths of every NaN and Inf inside nested mappings, sequences and dataclasses."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield prefix
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from nonfinite_paths(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from nonfinite_paths(item, f"{prefix}.{index}" if prefix else str(index))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for spec in dataclasses.fields(value):
            yield from nonfinite_paths(getattr(value, spec.name), f"{prefix}.{spec.name}" if prefix else spec.name)


_LOGGED: dict[type[Event], tuple[str, ...]] = {}


def _logged_fields(kind: type[Event]) -> tuple[str, ...]:
    names = _LOGGED.get(kind)
    if names is None:
        specs = dataclasses.fields(kind)
        names = tuple(s.name for s in specs if s.metadata.get("logged", True) and s.name not in ("ts", "step"))
        _LOGGED[kind] = names
    return names
