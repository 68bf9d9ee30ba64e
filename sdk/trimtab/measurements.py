"""What an event says about each metric: the one table between events and series.

A backend that speaks in metrics (Prometheus, StatsD, OTLP) needs nothing but this. Values of counters are totals
since the run began, so an event that was lost loses no count. Histogram values are tuples of new observations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from trimtab import catalog
from trimtab.catalog import MetricSpec
from trimtab.catalog.rules import RULES
from trimtab.types import (
    ACT_MODES,
    STATUSES,
    Adjustment,
    Alert,
    Epoch,
    Event,
    Health,
    Intake,
    Metric,
    RunEnd,
    RunInfo,
    RunStart,
    Status,
    Step,
    Verdicts,
)


class Measurement(NamedTuple):
    """The value of one series now. `labels` are the values of `spec.labels`, in that order."""

    spec: MetricSpec
    labels: tuple[str, ...]
    value: float | tuple[float, ...]


# What only the training itself says. That it hangs, or what an alert server answered, is said by other threads.
_OF_TRAINING = (RunStart, Step, Epoch, Metric, Adjustment, RunEnd)


def measure(event: Event, run: RunInfo) -> Iterator[Measurement]:
    """Yield every measurement that `event` holds. Unknown events hold none."""
    if isinstance(event, _OF_TRAINING):
        yield Measurement(catalog.LAST_ACTIVITY, (), event.ts)
    if isinstance(event, Step):
        yield from _step(event)
        if event.verdicts is not None:
            yield from _verdicts(event.verdicts, run)
    elif isinstance(event, Adjustment):
        yield from _adjustment(event)
    elif isinstance(event, Epoch):
        yield Measurement(catalog.EPOCHS, (), event.epoch)
    elif isinstance(event, Metric):
        for name, value in event.values.items():
            if name not in event.unexported:
                yield Measurement(catalog.LOGGED_VALUE, (name, event.phase or ""), value)
    elif isinstance(event, Health):
        yield from _health(event)
    elif isinstance(event, Alert):
        if event.count is not None:
            yield Measurement(catalog.RULE_FIRED, (event.rule,), event.count)
        yield from _hung(event, run)
    elif isinstance(event, Intake):
        yield from _intake(event)
    elif isinstance(event, RunStart):
        yield from _run_start(event, run)
    elif isinstance(event, RunEnd):
        yield from _status(event.status)


def _hung(event: Alert, run: RunInfo) -> Iterator[Measurement]:
    """A hung run makes no record that its level could be in."""
    rule = RULES.get(event.rule)
    if rule is None or rule.judged != "watchdog" or event.source != "process" or event.value is None:
        return
    level = event.value / (event.threshold or 1.0) if event.state == "firing" else 0.0
    yield Measurement(catalog.RULE_LEVEL, (event.rule, run.run_id), level)


def _run_start(event: RunStart, run: RunInfo) -> Iterator[Measurement]:
    facts = {**run.facts, "run_id": run.run_id, "world_size": run.world_size}
    labels = tuple(str(facts.get(label, "") or "") for label in catalog.RUN_INFO.labels)
    yield Measurement(catalog.RUN_INFO, labels, 1.0)
    yield Measurement(catalog.RUN_START, (run.run_id,), event.ts)
    yield from _status("running")

    act = run.config.act
    mode = act if isinstance(act, str) else "all" if act else "dry_run"
    for each in ACT_MODES:
        yield Measurement(catalog.ACT_MODE, (each,), float(each == mode))
    for backend in event.facts.get("config", {}).get("backends", ()):
        yield Measurement(catalog.BACKEND_INFO, (backend,), 1.0)


def _status(now: Status) -> Iterator[Measurement]:
    for status in STATUSES:
        yield Measurement(catalog.RUN_STATUS, (status,), float(status == now))


def _step(event: Step) -> Iterator[Measurement]:
    of = (event.optimizer,)
    in_phase = (event.phase, event.optimizer)
    for spec, labels, value in (
        (catalog.LOSS, in_phase, event.loss),
        (catalog.LOSS_EMA, in_phase, event.loss_ema),
        (catalog.LOSS_AT_CHANCE, of, event.loss_at_chance),
        (catalog.ACCURACY, (event.phase,), event.accuracy),
        (catalog.GRADIENT_MEAN, of, event.gradient_mean),
        (catalog.GRADIENT_VARIANCE, of, event.gradient_variance),
        (catalog.GRADIENT_NORM, of, event.gradient_norm),
        (catalog.GRADIENT_MAX_ABS, of, event.gradient_max_abs),
        (catalog.GRADIENT_PRECLIP_NORM, of, event.gradient_preclip_norm),
        (catalog.GRADIENT_NOISE_SCALE, of, event.gradient_noise_scale),
    ):
        if value is not None:
            yield Measurement(spec, labels, value)
    if event.phase == "train":
        yield Measurement(catalog.GLOBAL_STEP, (), event.step)
        yield Measurement(catalog.LAST_STEP, (), event.ts)
        yield Measurement(catalog.STEP_DURATION, (), tuple(event.step_durations))
        if event.epoch is not None and event.batch is not None and event.batches:
            yield Measurement(catalog.EPOCH_POSITION, (), event.epoch - 1 + event.batch / event.batches)
    if event.gradient_norm is not None:
        yield Measurement(catalog.LAST_GRADIENT, of, event.ts)
    yield from _groups(catalog.LEARNING_RATE, event.optimizer, event.learning_rate)
    yield from _groups(catalog.WEIGHT_DECAY, event.optimizer, event.weight_decay)
    yield from _layers(event)
    yield from _totals(event)


def _verdicts(verdicts: Verdicts, run: RunInfo) -> Iterator[Measurement]:
    for rule, level in verdicts.rule_levels.items():
        yield Measurement(catalog.RULE_LEVEL, (rule, run.run_id), level)
    for labels, value in verdicts.signals.items():
        yield Measurement(catalog.SIGNAL, labels, value)
    for (optimizer, group), scale in verdicts.learning_rate_scale.items():
        yield Measurement(catalog.LEARNING_RATE_SCALE, (optimizer, str(group)), scale)
    if verdicts.dropout_ratio is not None:
        yield Measurement(catalog.DROPOUT, (), verdicts.dropout_ratio)
    if verdicts.snapshot_age_s is not None:
        yield Measurement(catalog.SNAPSHOT_AGE, (), verdicts.snapshot_age_s)
    for policy, left in verdicts.budgets.items():
        yield Measurement(catalog.POLICY_BUDGET, (policy,), left)


def _adjustment(event: Adjustment) -> Iterator[Measurement]:
    yield Measurement(catalog.ADJUSTMENTS, (event.policy, event.action, event.outcome), event.count)
    if event.budget_remaining is not None:
        yield Measurement(catalog.POLICY_BUDGET, (event.policy,), event.budget_remaining)
    of = (event.policy, event.action, event.outcome, event.optimizer)
    yield Measurement(catalog.LAST_ADJUSTMENT, of, event.ts)
    for spec, settings in ((catalog.ADJUSTMENT_BEFORE, event.before), (catalog.ADJUSTMENT_AFTER, event.after)):
        for setting, value in settings.items():
            if (number := _number(value)) is not None:
                yield Measurement(spec, (*of, setting), number)


def _number(value: object) -> float | None:
    """A setting as a number, where it is one: of several groups with one value each there is no such number."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:  # a whole number beyond every float
        return None


def _groups(spec: MetricSpec, optimizer: str, values: object) -> Iterator[Measurement]:
    for group, value in enumerate(values if isinstance(values, (list, tuple)) else ()):
        if value is not None:
            yield Measurement(spec, (optimizer, str(group)), value)


def _layers(event: Step) -> Iterator[Measurement]:
    for name, layer in (event.layers or {}).items():
        labels = (name, str(layer.depth))
        yield Measurement(catalog.LAYER_GRADIENT_MEAN, labels, layer.mean)
        yield Measurement(catalog.LAYER_GRADIENT_VARIANCE, labels, layer.variance)
        yield Measurement(catalog.LAYER_GRADIENT_NORM, labels, layer.norm)
        if layer.update_ratio is not None:
            yield Measurement(catalog.LAYER_UPDATE_RATIO, labels, layer.update_ratio)


def _totals(event: Step) -> Iterator[Measurement]:
    totals = event.totals
    if totals is None:
        return
    yield Measurement(catalog.SAMPLES, (), totals.samples)
    yield Measurement(catalog.EPOCHS, (), totals.epochs)
    yield Measurement(catalog.DATA_WAIT, (), totals.data_wait_seconds)
    for kind, count in totals.nonfinite.items():
        yield Measurement(catalog.NONFINITE, (kind,), count)
    if event.phase == "train":
        yield Measurement(catalog.STEPS, (event.optimizer,), totals.steps)
        for reason, count in totals.skipped.items():
            yield Measurement(catalog.SKIPPED_STEPS, (event.optimizer, reason), count)


def _health(event: Health) -> Iterator[Measurement]:
    if event.moved_on_at is not None:
        yield Measurement(catalog.LAST_ACTIVITY, (), event.moved_on_at)
    yield Measurement(catalog.OVERHEAD_SECONDS, (), event.overhead_seconds)
    yield Measurement(catalog.OVERHEAD_RATIO, (), event.overhead_ratio)
    yield Measurement(catalog.GRADIENT_INTERVAL, (), event.gradient_interval_steps)
    if event.hung_after_seconds is not None:
        yield Measurement(catalog.HUNG_AFTER, (), event.hung_after_seconds)
    for backend, reasons in event.dropped.items():
        for reason, count in reasons.items():
            yield Measurement(catalog.DROPPED, (backend, reason), count)
    for backend, count in event.backend_errors.items():
        yield Measurement(catalog.BACKEND_ERRORS, (backend,), count)


def _intake(event: Intake) -> Iterator[Measurement]:
    for source, outcomes in event.received.items():
        for outcome, count in outcomes.items():
            yield Measurement(catalog.ALERTS_RECEIVED, (source, outcome), count)
    for source, moment in event.last_success.items():
        yield Measurement(catalog.ALERT_SOURCE_LAST_SUCCESS, (source,), moment)
