"""Judges a log of ours, by the levels that it recorded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from trimtab import logs
from trimtab.errors import ConfigError
from trimtab.lint.findings import Bar, Judgement, Levels, LevelTally, shipped, worst_of
from trimtab.lint.points import LogPoint

UNENDED = "no end in the log"
UNSEEN = "no level in the log: the run was too short, or held nothing to judge by"


@dataclass(slots=True)
class Record:
    """The last run of a log of ours, but for its steps."""

    run: str = ""
    run_id: str = ""
    steps: int = 0
    status: str = UNENDED
    has_steps: bool = False
    has_levels: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    alerts: list[logs.Alert] = field(default_factory=list)
    adjustments: list[logs.Adjustment] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Record:
        log = cls()
        try:
            for record in logs.records(path):
                if record.run_id != log.run_id:
                    log = cls(run=record.run, run_id=record.run_id)
                log.add(record)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}. Give a log that can be read.") from error
        if not log.run_id:
            raise ConfigError(
                f"{path}: no record of a run is in it. Give a log that the jsonl backend wrote, a trainer_state.json, "
                "a .csv, or event files of TensorBoard."
            )
        return log

    def add(self, record: logs.Record) -> None:
        self.steps = max(self.steps, record.step)
        if isinstance(record, logs.Step):
            self.has_steps = True
            self.has_levels = self.has_levels or bool(record.levels)
        elif isinstance(record, logs.Alert):
            self.alerts.append(record)
        elif isinstance(record, logs.Adjustment):
            self.adjustments.append(record)
        elif isinstance(record, logs.RunStart):
            self.facts, self.status = record.facts, UNENDED
        elif isinstance(record, logs.RunEnd):
            self.status = record.status

    def bars(self) -> dict[str, Bar]:
        """How each rule was judged: as the run said when it began, else as its alerts say, else as it ships.

        Raises:
            ConfigError: what the run said is not how a rule is judged.
        """
        bars = shipped()
        for alert in self.alerts:
            if alert.source == "process" and alert.threshold is not None and alert.threshold > 0:
                shipping = bars.get(alert.rule, Bar(1.0))
                bars[alert.rule] = dataclasses.replace(shipping, threshold=alert.threshold, severity=alert.severity)
        config = self.facts.get("config")
        said = config.get("rules") if isinstance(config, dict) else None
        for rule, how in said.items() if isinstance(said, dict) else ():
            known = dataclasses.asdict(bars.get(rule, Bar(1.0)))
            try:
                bars[rule] = msgspec.convert({**known, **how} if isinstance(how, dict) else how, Bar)
            except msgspec.ValidationError as error:
                raise ConfigError(
                    f"run {self.run}: its log says of {rule} what no rule is judged by ({error}). Give another log."
                ) from error
        return bars


def judge_record(path: Path, record: Record, asked: Mapping[str, float | None]) -> Judgement:
    """Judge the run that `record` is the outline of. Raises ConfigError for a rule that there is not."""
    tally = LevelTally(record.bars(), asked)
    for step in logs.records(path):
        if isinstance(step, logs.Step) and step.run_id == record.run_id and step.levels:
            tally.add(Levels(step.step, step.optimizer, worst_of(step.levels)))
    for alert in record.alerts:
        if alert.source == "process" and alert.state == "firing":
            value = math.inf if alert.value is None or math.isnan(alert.value) else alert.value
            tally.fired(alert.rule, alert.optimizer, alert.step, value)
    judged = Judgement(record.run, "log", record.steps, record.status)
    tally.conclude(judged, UNSEEN)
    applied = [adjustment for adjustment in record.adjustments if adjustment.outcome == "applied"]
    if applied:
        judged.notes.append(
            f"Adjusted from step {applied[0].step:,} on ({applied[0].action} by {applied[0].policy}, {len(applied)} in "
            "all): what comes after it is the adjusted run."
        )
    return judged


def points_of(path: Path, run_id: str) -> Iterator[LogPoint]:
    """The records of a log of ours that holds no levels, as points."""
    for record in logs.records(path):
        if not isinstance(record, logs.Step) or record.run_id != run_id:
            continue
        if record.phase == "validation":
            yield LogPoint(record.step, validation_loss=record.loss, validation_accuracy=record.accuracy)
        else:
            rate = record.learning_rate[0] if record.learning_rate else None
            yield LogPoint(record.step, record.loss, record.gradient_norm, rate, optimizer=record.optimizer)
