"""Every metric and every rule, declared once. The log, `/metrics`, the dashboards, the servers' rules and the docs are
made from these tables.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSpec:
    """One rule: a signal (larger is worse, 0 is healthy), a threshold, and for how long.

    The level is the signal over the threshold, as the smallest of the last `hold` judged points: 1 means "at it".
    """

    name: str
    signal: str  # by name, see `trimtab.signals`
    judged: Literal["step", "gradients", "validation", "record", "watchdog"]  # what one point is
    threshold: float
    hold: int = 1  # judged points
    clear: float = 0.8  # the level under which, for `hold` points, an episode ends
    severity: Literal["info", "warning", "critical"]
    relative: bool = True  # suspended for a settle time after the user's own learning rate changed by 2x
    meaning: str  # one or two sentences
    advice: str


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
RUN_STATUS = _gauge("run_status", "", "1 for the state the run is in, 0 for the others.", "status")
LAST_ACTIVITY = _gauge("last_activity_timestamp_seconds", "seconds", "When the run last said anything.")
LAST_STEP = _gauge("last_step_timestamp_seconds", "seconds", "When an optimizer last stepped.")
HUNG_AFTER = _gauge("hung_after_seconds", "seconds", "Without a step for so long, the run counts as hung.")

LOSS = _gauge(
    "loss", "", "Mean loss: training over the last record, validation over the last pass.", "phase", "optimizer"
)
LOSS_EMA = _gauge("loss_ema", "", "Exponential moving average of the training loss, 0.98 a step.", "phase", "optimizer")
ACCURACY = _gauge("accuracy_ratio", "ratio", "Share of right predictions, where the loss tells classes.", "phase")
LOGGED_VALUE = _gauge("logged_value", "", "A value that the training code logged.", "name", "phase")

LEARNING_RATE = _gauge("learning_rate", "", "Learning rate that the last step used.", "optimizer", "group")
LEARNING_RATE_SCALE = _gauge(
    "learning_rate_scale", "ratio", "What policies multiply the schedule's learning rate by.", "optimizer", "group"
)
WEIGHT_DECAY = _gauge("weight_decay", "", "Weight decay that the last step used.", "optimizer", "group")

GRADIENT_MEAN = _gauge("gradient_mean", "", "Mean of all gradient elements, unscaled, as applied.", "optimizer")
GRADIENT_VARIANCE = _gauge("gradient_variance", "", "Variance of all gradient elements, as applied.", "optimizer")
GRADIENT_NORM = _gauge("gradient_norm", "", "2-norm of the whole gradient, after clipping, as applied.", "optimizer")
GRADIENT_MAX_ABS = _gauge("gradient_max_abs", "", "Largest magnitude of a gradient element.", "optimizer")
GRADIENT_PRECLIP_NORM = _gauge(
    "gradient_preclip_norm", "", "Norm that clip_grad_norm_ found before it clipped.", "optimizer"
)
GRADIENT_INTERVAL = _gauge("gradient_interval_steps", "steps", "Gradient statistics are taken every so many steps.")
LAYER_GRADIENT_MEAN = _gauge("layer_gradient_mean", "", "Mean of one parameter's gradient.", "layer", "depth")
LAYER_GRADIENT_VARIANCE = _gauge(
    "layer_gradient_variance", "", "Variance of one parameter's gradient.", "layer", "depth"
)
LAYER_GRADIENT_NORM = _gauge("layer_gradient_norm", "", "2-norm of one parameter's gradient.", "layer", "depth")
LAYER_UPDATE_RATIO = _gauge(
    "layer_update_ratio", "ratio", "2-norm of what a step changed over that of the weights.", "layer", "depth"
)

STEPS = _counter("steps_total", "steps", "Optimizer steps that changed the parameters.", "optimizer")
GLOBAL_STEP = _gauge("global_step", "steps", "Steps of the optimizer that stepped most often.")
SKIPPED_STEPS = _counter("skipped_steps_total", "steps", "Steps that were not taken.", "optimizer", "reason")
SAMPLES = _counter("samples_total", "samples", "Training samples seen.")
EPOCHS = _counter("epochs_total", "epochs", "Epochs completed.")
STEP_DURATION = MetricSpec(
    "trimtab_step_duration_seconds", "histogram", "seconds", "Time from the end of one step to the end of the next."
)
DATA_WAIT = _counter("data_wait_seconds_total", "seconds", "Time that training waited for the loader.")
NONFINITE = _counter("nonfinite_total", "", "NaN or Inf seen, by what held it.", "kind")

RULE_LEVEL = _gauge(
    "rule_level", "ratio", "Worst level of a rule over the last 60 s; 1 is at its threshold.", "rule", "run_id"
)
RULE_FIRED = _counter("rule_fired_total", "episodes", "Episodes in which a rule fired.", "rule")
SIGNAL = _gauge("signal", "", "Newest value of a signal: larger is worse, 0 is healthy.", "signal", "optimizer")
ACT_MODE = _gauge("act_mode", "", "1 for who may adjust the run, 0 for the others.", "mode")
ADJUSTMENTS = _counter(
    "adjustments_total", "adjustments", "Adjustments, by what became of them.", "policy", "action", "outcome"
)
POLICY_BUDGET = _gauge("policy_budget_remaining", "adjustments", "Adjustments that a policy has left.", "policy")
SNAPSHOT_AGE = _gauge("snapshot_age_seconds", "seconds", "Age of the newest snapshot that a rollback could use.")

OVERHEAD_SECONDS = _counter("overhead_seconds_total", "seconds", "Time that Trimtab took, as it measured itself.")
OVERHEAD_RATIO = _gauge("overhead_ratio", "ratio", "Share of the run's time that Trimtab took.")
DROPPED = _counter("dropped_total", "events", "Events that a backend did not get.", "backend", "reason")
BACKEND_ERRORS = _counter("backend_errors_total", "errors", "Exceptions that a backend raised.", "backend")

METRICS: tuple[MetricSpec, ...] = tuple(v for v in list(globals().values()) if isinstance(v, MetricSpec))
