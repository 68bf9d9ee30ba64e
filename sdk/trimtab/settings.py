"""Every setting of a run: the one noun that `import trimtab` needs. All others cost 10 ms more, and wait for a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

Act: TypeAlias = Literal[False, "process", "alerts", True]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting of a run, resolved from arguments, environment, file and defaults (see `config`)."""

    run: str
    backends: tuple[Any, ...] = ("console", "jsonl", "prometheus")  # names, or what `types.Backend` describes
    backends_requested: bool = False  # False: the default set, of which an unusable one is skipped with one line
    serving_requested: bool = False  # somebody said where, to whom or over what: that it is not served is an error
    overhead: float = 0.01
    gradients_every: int | None = None
    layers: tuple[str, ...] | None = None
    directory: Path = Path("runs")
    host: str = "127.0.0.1"
    port: int = 9464
    port_requested: bool = False  # False: the default port, and the next free one will do
    resume: bool = False
    act: Act = False
    replay: str | None = None  # a run whose adjustments are made again: its name, directory or log
    snapshot_directory: Path | None = None  # None: snapshots are kept in memory
    snapshot_gib: float | None = None  # that all of them may take; None: see `actuators.memory`
    snapshot_rng: bool = False  # a rollback turns random generators back too
    rules: tuple[Any, ...] = ()  # beside those that ship; see `trimtab.rules`
    policies: tuple[Any, ...] | None = None  # None: those that ship; see `trimtab.policies`
    monitor: tuple[str, Literal["min", "max"]] = ("loss", "min")
    on_halt: Literal["ask", "unwind"] = "ask"
    alerts: str | None = None  # address of an Alertmanager or a Grafana that is asked for alerts about the run
    alerts_every: float = 5.0  # seconds
    alerts_token_file: Path | None = None
    alerts_ca_file: Path | None = None
    webhook_token_file: Path | None = None
    grafana: str | None = None  # address of a Grafana that annotations are written to
    grafana_token_file: Path | None = None
    grafana_ca_file: Path | None = None
    metrics_token_file: Path | None = None
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    targets: Path | None = None  # where files for Prometheus' discovery go; None: `targets` under `directory`
    linger: float | None = None  # seconds to be scraped in at the end; None: one scrape interval, where it is known
    files: Mapping[str, str] = field(default_factory=dict, hash=False)  # setting to the file that it is from
    notices: tuple[str, ...] = ()  # what the user should be told about the settings, in sentences
