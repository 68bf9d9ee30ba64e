"""Every metric and, in `rules`, every rule, declared once. The log, `/metrics`, the dashboards, the servers' rules and
the docs are made from these tables.

Names carry the prefix `trimtab_`, base units, and `_total` where they count. Every series has the labels of
`COMMON_LABELS` besides its own. A label's values come from a set that is closed when the run starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

COMMON_LABELS = ("run", "rank")

STEP_DURATION_BUCKETS = (
    1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0, 600.0,
)  # fmt: skip
LEVEL_WINDOW_S = 60.0  # over which the level that is exported is the worst
CLOCK_SKEW_S = 30.0  # by which the clocks of a run and of the servers whose alerts it takes may differ
IN_GRAFANA = "/api/alertmanager/grafana"  # the path under which a Grafana serves the API of Alertmanager
ALERT_PATH = "TrimtabAlertPathAlive"  # the servers' alert that always fires, and so tells that alerts get through


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. `name` is whole, with prefix and, for a counter, `_total`."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()


def _gauge(name: str, unit: str, help: str, *labels: str) -> MetricSpec:
    return MetricSpec(f"trimtab_{name}", "gauge", unit, help, labels)


def _counter(name: str, unit: str, help: str, *labels: str) -> MetricSpec:
    return MetricSpec(f"trimtab_{name}", "counter", unit, help, labels)


RUN_INFO = _gauge(
    "run_info", "", "Constant 1; what the run is.",
    "run_id", "owner", "job", "commit", "framework", "torch", "world_size",
)  # fmt: skip
RUN_START = _gauge("run_start_timestamp_seconds", "seconds", "When the run began.", "run_id")
RUN_STATUS = _gauge("run_status", "", "1 for the state the run is in, 0 for the others.", "status")
LAST_ACTIVITY = _gauge("last_activity_timestamp_seconds", "seconds", "When the training loop last gave a sign of life.")
LAST_STEP = _gauge("last_step_timestamp_seconds", "seconds", "When an optimizer last stepped.")
HUNG_AFTER = _gauge(
    "hung_after_seconds", "seconds", "Seconds without a sign of life after which the run counts as hung."
)

LOSS = _gauge(
    "loss", "", "Mean loss: training over the last record, validation over the last pass.", "phase", "optimizer"
)
LOSS_EMA = _gauge(
    "loss_ema",
    "",
    "Exponential moving average of the training loss (decay 0.98 per step), begun anew by a rollback.",
    "phase",
    "optimizer",
)
LOSS_AT_CHANCE = _gauge(
    "loss_at_chance", "", "Training loss of the best answer that is the same for every input.", "optimizer"
)
ACCURACY = _gauge(
    "accuracy_ratio", "ratio", "Share of correct predictions, where the loss function is about classes.", "phase"
)
LOGGED_VALUE = _gauge("logged_value", "", "A value that the training code logged with trimtab.log().", "name", "phase")

LEARNING_RATE = _gauge("learning_rate", "", "Learning rate that the last step used.", "optimizer", "group")
LEARNING_RATE_SCALE = _gauge(
    "learning_rate_scale",
    "ratio",
    "Factor on the schedule's learning rate, set by policies or a person; 1 is unchanged.",
    "optimizer",
    "group",
)
WEIGHT_DECAY = _gauge("weight_decay", "", "Weight decay that the last step used.", "optimizer", "group")
DROPOUT = _gauge("dropout_ratio", "ratio", "Largest dropout ratio in the models that are trained, where there is one.")

GRADIENT_MEAN = _gauge(
    "gradient_mean",
    "",
    "Mean of all gradient elements, as the optimizer applied them: unscaled and clipped.",
    "optimizer",
)
GRADIENT_VARIANCE = _gauge("gradient_variance", "", "Variance of all gradient elements, as applied.", "optimizer")
GRADIENT_NORM = _gauge("gradient_norm", "", "2-norm of the whole gradient, after clipping, as applied.", "optimizer")
GRADIENT_MAX_ABS = _gauge("gradient_max_abs", "", "Largest magnitude of a gradient element.", "optimizer")
GRADIENT_PRECLIP_NORM = _gauge(
    "gradient_preclip_norm", "", "2-norm of the gradient before clipping, as clip_grad_norm_ computed it.", "optimizer"
)
GRADIENT_NOISE_SCALE = _gauge(
    "gradient_noise_scale", "samples",
    "Batch size beyond which larger batches bring little; needs gradient accumulation.", "optimizer",
)  # fmt: skip
GRADIENT_INTERVAL = _gauge(
    "gradient_interval_steps", "steps", "Number of steps between two readings of gradient statistics."
)
LAST_GRADIENT = _gauge(
    "last_gradient_timestamp_seconds", "seconds", "When gradient statistics were last recorded.", "optimizer"
)
LAYER_GRADIENT_MEAN = _gauge("layer_gradient_mean", "", "Mean of one parameter's gradient.", "layer", "depth")
LAYER_GRADIENT_VARIANCE = _gauge(
    "layer_gradient_variance", "", "Variance of one parameter's gradient.", "layer", "depth"
)
LAYER_GRADIENT_NORM = _gauge("layer_gradient_norm", "", "2-norm of one parameter's gradient.", "layer", "depth")
LAYER_UPDATE_RATIO = _gauge(
    "layer_update_ratio",
    "ratio",
    "2-norm of what a step changed, over the 2-norm of the weights before it.",
    "layer",
    "depth",
)

STEPS = _counter("steps_total", "steps", "Optimizer steps that changed the parameters.", "optimizer")
GLOBAL_STEP = _gauge("global_step", "steps", "Steps of the optimizer that stepped most often.")
SKIPPED_STEPS = _counter(
    "skipped_steps_total", "steps", "Optimizer steps that were skipped, by reason.", "optimizer", "reason"
)
SAMPLES = _counter("samples_total", "samples", "Training samples seen.")
EPOCH_POSITION = _gauge(
    "epoch_position", "epochs", "Epochs completed, plus the share of the current one where the loader knows its length."
)
EPOCHS = _counter("epochs_total", "epochs", "Epochs completed.")
STEP_DURATION = MetricSpec(
    "trimtab_step_duration_seconds", "histogram", "seconds", "Time from the end of one step to the end of the next."
)
DATA_WAIT = _counter("data_wait_seconds_total", "seconds", "Time that training waited for the DataLoader.")
NONFINITE = _counter(
    "nonfinite_total", "", "NaN or Inf seen, by kind: losses, readings of gradients, logged values.", "kind"
)

RULE_LEVEL = _gauge(
    "rule_level", "ratio", f"Worst level of a rule over the last {LEVEL_WINDOW_S:g} s: a rule fires at 1.",
    "rule", "run_id",
)  # fmt: skip
RULE_FIRED = _counter("rule_fired_total", "episodes", "Episodes in which a rule fired.", "rule")
SIGNAL = _gauge("signal", "", "Newest value of a signal: larger is worse, 0 is healthy.", "signal", "optimizer")
ACT_MODE = _gauge("act_mode", "", "1 for the setting of act= that holds, 0 for the others.", "mode")
ADJUSTMENTS = _counter(
    "adjustments_total",
    "adjustments",
    "Adjustments, by outcome: applied, dry_run, silenced, refused, failed.",
    "policy",
    "action",
    "outcome",
)
LAST_ADJUSTMENT = _gauge(
    "last_adjustment_timestamp_seconds", "seconds", "When such an adjustment was last made, or would have been.",
    "policy", "action", "outcome", "optimizer",
)  # fmt: skip
ADJUSTMENT_BEFORE = _gauge(
    "adjustment_before", "", "Value of a setting before the last such adjustment.",
    "policy", "action", "outcome", "optimizer", "setting",
)  # fmt: skip
ADJUSTMENT_AFTER = _gauge(
    "adjustment_after", "", "Value of the setting after it.", "policy", "action", "outcome", "optimizer", "setting"
)
POLICY_BUDGET = _gauge(
    "policy_budget_remaining", "adjustments", "Adjustments that a policy may still make in this training.", "policy"
)
SNAPSHOT_AGE = _gauge("snapshot_age_seconds", "seconds", "Age of the newest snapshot that a rollback could use.")

ALERTS_RECEIVED = _counter(
    "alerts_received_total", "alerts", "Alerts that came in from outside, by outcome.", "source", "outcome"
)
ALERT_SOURCE_LAST_SUCCESS = _gauge(
    "alert_source_last_success_timestamp_seconds",
    "seconds",
    "When an alert source last answered; 0 means never.",
    "source",
)

OVERHEAD_SECONDS = _counter(
    "overhead_seconds_total", "seconds", "Time that Trimtab itself took, by its own measurement."
)
OVERHEAD_RATIO = _gauge("overhead_ratio", "ratio", "Share of the run's time that Trimtab took.")
BACKEND_INFO = _gauge("backend_info", "", "Constant 1 for each backend of the run.", "backend")
DROPPED = _counter("dropped_total", "events", "Events that a backend did not get, by reason.", "backend", "reason")
BACKEND_ERRORS = _counter("backend_errors_total", "errors", "Exceptions that a backend raised.", "backend")

METRICS: tuple[MetricSpec, ...] = tuple(v for v in list(globals().values()) if isinstance(v, MetricSpec))
