"""Every metric and every rule, declared once. The log, `/metrics`, the dashboards, the servers' rules and the docs are
made from these tables.

Names carry the prefix `trimtab_`, base units, and `_total` where they count. Every series has the labels of
`COMMON_LABELS` besides its own. A label's values come from a set that is closed when the run starts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

COMMON_LABELS = ("run", "rank")

STEP_DURATION_BUCKETS = (
    1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0, 600.0,
)  # fmt: skip
EVER = sys.maxsize  # a reach: nothing since the run began was good
LEVEL_WINDOW_S = 60.0  # over which the level that is exported is the worst
ALERT_PATH = "TrimtabAlertPathAlive"  # the servers' alert that always fires, and so tells that alerts get through


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
    steady: bool = False  # judged only while the learning rate is neither warming up nor all but gone
    reach: int = 0  # steps before the first point in which the trouble may have begun
    descent: bool = False  # presumes a loss that comes down: not judged where optimizers work against each other
    min_delta: float = 0.0  # of a count since the best: what is no improvement, in the unit of the metric
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
LAST_ACTIVITY = _gauge("last_activity_timestamp_seconds", "seconds", "When the training itself last said anything.")
LAST_STEP = _gauge("last_step_timestamp_seconds", "seconds", "When an optimizer last stepped.")
HUNG_AFTER = _gauge("hung_after_seconds", "seconds", "Without a step for so long, the run counts as hung.")

LOSS = _gauge(
    "loss", "", "Mean loss: training over the last record, validation over the last pass.", "phase", "optimizer"
)
LOSS_EMA = _gauge("loss_ema", "", "Exponential moving average of the training loss, 0.98 a step.", "phase", "optimizer")
LOSS_AT_CHANCE = _gauge(
    "loss_at_chance", "", "Training loss of knowing no more than how often each label comes.", "optimizer"
)
ACCURACY = _gauge("accuracy_ratio", "ratio", "Share of right predictions, where the loss tells classes.", "phase")
LOGGED_VALUE = _gauge("logged_value", "", "A value that the training code logged.", "name", "phase")

LEARNING_RATE = _gauge("learning_rate", "", "Learning rate that the last step used.", "optimizer", "group")
LEARNING_RATE_SCALE = _gauge(
    "learning_rate_scale", "ratio", "What policies multiply the schedule's learning rate by.", "optimizer", "group"
)
WEIGHT_DECAY = _gauge("weight_decay", "", "Weight decay that the last step used.", "optimizer", "group")
DROPOUT = _gauge("dropout_ratio", "ratio", "Largest dropout ratio in the models that are trained, where there is one.")

GRADIENT_MEAN = _gauge("gradient_mean", "", "Mean of all gradient elements, unscaled, as applied.", "optimizer")
GRADIENT_VARIANCE = _gauge("gradient_variance", "", "Variance of all gradient elements, as applied.", "optimizer")
GRADIENT_NORM = _gauge("gradient_norm", "", "2-norm of the whole gradient, after clipping, as applied.", "optimizer")
GRADIENT_MAX_ABS = _gauge("gradient_max_abs", "", "Largest magnitude of a gradient element.", "optimizer")
GRADIENT_PRECLIP_NORM = _gauge(
    "gradient_preclip_norm", "", "Norm that clip_grad_norm_ found before it clipped.", "optimizer"
)
GRADIENT_NOISE_SCALE = _gauge(
    "gradient_noise_scale", "samples",
    "Samples in a batch beyond which larger ones bring little, where gradients are accumulated.", "optimizer",
)  # fmt: skip
GRADIENT_INTERVAL = _gauge("gradient_interval_steps", "steps", "Gradient statistics are taken every so many steps.")
LAST_GRADIENT = _gauge(
    "last_gradient_timestamp_seconds", "seconds", "When gradient statistics were last recorded.", "optimizer"
)
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
EPOCH_POSITION = _gauge(
    "epoch_position", "epochs", "Epochs gone through, with the share of this one, where the loader knows its length."
)
EPOCHS = _counter("epochs_total", "epochs", "Epochs completed.")
STEP_DURATION = MetricSpec(
    "trimtab_step_duration_seconds", "histogram", "seconds", "Time from the end of one step to the end of the next."
)
DATA_WAIT = _counter("data_wait_seconds_total", "seconds", "Time that training waited for the loader.")
NONFINITE = _counter("nonfinite_total", "", "NaN or Inf seen, by what held it.", "kind")

RULE_LEVEL = _gauge(
    "rule_level", "ratio", f"Worst level of a rule over the last {LEVEL_WINDOW_S:g} s; 1 is at its threshold.",
    "rule", "run_id",
)  # fmt: skip
RULE_FIRED = _counter("rule_fired_total", "episodes", "Episodes in which a rule fired.", "rule")
SIGNAL = _gauge("signal", "", "Newest value of a signal: larger is worse, 0 is healthy.", "signal", "optimizer")
ACT_MODE = _gauge("act_mode", "", "1 for who may adjust the run, 0 for the others.", "mode")
ADJUSTMENTS = _counter(
    "adjustments_total", "adjustments", "Adjustments, by what became of them.", "policy", "action", "outcome"
)
LAST_ADJUSTMENT = _gauge(
    "last_adjustment_timestamp_seconds", "seconds", "When such an adjustment was last made, or would have been.",
    "policy", "action", "outcome", "optimizer",
)  # fmt: skip
ADJUSTMENT_BEFORE = _gauge(
    "adjustment_before", "", "A setting before the last such adjustment.",
    "policy", "action", "outcome", "optimizer", "setting",
)  # fmt: skip
ADJUSTMENT_AFTER = _gauge(
    "adjustment_after", "", "The setting after it.", "policy", "action", "outcome", "optimizer", "setting"
)
POLICY_BUDGET = _gauge("policy_budget_remaining", "adjustments", "Adjustments that a policy has left.", "policy")
SNAPSHOT_AGE = _gauge("snapshot_age_seconds", "seconds", "Age of the newest snapshot that a rollback could use.")

ALERTS_RECEIVED = _counter(
    "alerts_received_total", "alerts", "Alerts that came in, by what became of them.", "source", "outcome"
)
ALERT_SOURCE_LAST_SUCCESS = _gauge(
    "alert_source_last_success_timestamp_seconds",
    "seconds",
    "When an alert source was last heard; 0 is never.",
    "source",
)

OVERHEAD_SECONDS = _counter("overhead_seconds_total", "seconds", "Time that Trimtab took, as it measured itself.")
OVERHEAD_RATIO = _gauge("overhead_ratio", "ratio", "Share of the run's time that Trimtab took.")
BACKEND_INFO = _gauge("backend_info", "", "Constant 1 for each backend that takes what the run says.", "backend")
DROPPED = _counter("dropped_total", "events", "Events that a backend did not get.", "backend", "reason")
BACKEND_ERRORS = _counter("backend_errors_total", "errors", "Exceptions that a backend raised.", "backend")

METRICS: tuple[MetricSpec, ...] = tuple(v for v in list(globals().values()) if isinstance(v, MetricSpec))


RULES: dict[str, RuleSpec] = {
    rule.name: rule
    for rule in (
        RuleSpec(
            name="loss_nonfinite",
            signal="loss_nonfinite",
            judged="step",
            threshold=1.0,
            severity="critical",
            relative=False,
            meaning="The training loss is NaN or infinite. Once such a gradient is applied, every weight is NaN.",
            advice="Look at the batch first, then at logarithms, divisions and square roots near zero, and at the "
            "range of half precision. One bad batch can be left out; if it comes again, lower the learning rate.",
        ),
        RuleSpec(
            name="gradient_nonfinite",
            signal="gradient_nonfinite",
            judged="gradients",
            threshold=1.0,
            severity="critical",
            relative=False,
            meaning="A gradient holds NaN or Inf, though the loss may not; or GradScaler skipped three steps in a row.",
            advice="Common causes: the square root or norm of zero, a masked row of a softmax, overflow in half "
            "precision. `torch.autograd.detect_anomaly()` names the operation. Leave the step out.",
        ),
        RuleSpec(
            name="loss_spike",
            signal="loss_spike_score",
            judged="step",
            threshold=25.0,
            severity="warning",
            reach=3,
            descent=True,
            meaning="The loss jumped by a multiple of all that it had ever come down, or by seven tenths of it for "
            "three steps: a poisoned batch, damaged weights or optimizer state, or a learning rate far too high.",
            advice="Go back to a state from before the spike and on with other data (PaLM, arXiv 2204.02311, 5.1). If "
            "it comes again, lower the learning rate or the second beta of Adam, or clip gradients. Where losses "
            "hardly vary from batch to batch, as with large language models, a threshold of 1 finds what matters.",
        ),
        RuleSpec(
            name="loss_diverged",
            signal="loss_divergence",
            judged="step",
            threshold=0.6,
            hold=20,
            severity="critical",
            relative=False,
            descent=True,
            meaning="The loss has lost six tenths of all that it had come down, or more, for 20 steps; or a sixth of "
            "it by the mean of 50 steps, while validation has lost as much of its own gain.",
            advice="Go back to a good state and on with a lower learning rate (OPT-175B, arXiv 2205.01068, 2.5); where "
            "the loss creeps up over hundreds of steps, with less momentum. If it rises again at any rate, look at "
            "what changed in the data: labels, order, preprocessing.",
        ),
        RuleSpec(
            name="loss_oscillating",
            signal="loss_oscillation",
            judged="step",
            threshold=0.4,
            hold=20,
            severity="warning",
            descent=True,
            meaning="The loss swings to and fro by four tenths of all that it has come down: steps are too long.",
            advice="Lower the learning rate, or enlarge the batch.",
        ),
        RuleSpec(
            name="update_too_large",
            signal="update_excess",
            judged="gradients",
            threshold=0.5,
            severity="warning",
            relative=False,
            reach=64,
            descent=True,
            meaning="A step changed most layers by half of their own size, or the last few did so together, and the "
            "loss got worse: what the weights held is overwritten. The learning rate is far too high.",
            advice="Begin again with a learning rate ten times lower, or with a warm-up. A thousandth for each step is "
            "usual.",
        ),
        RuleSpec(
            name="loss_stalled",
            signal="loss_crawl",
            judged="gradients",
            threshold=10.0,
            hold=8,
            severity="warning",
            steady=True,
            descent=True,
            meaning="The loss has not come down since the run began, and each step changes the weights by less than a "
            "ten-thousandth: training is too slow to see.",
            advice="Raise the learning rate, tenfold at first; see that the scheduler does not start at nothing and "
            "that the parameters that should learn are those in the optimizer.",
        ),
        RuleSpec(
            name="loss_high",
            signal="loss_stuck",
            judged="step",
            threshold=0.75,
            hold=8,
            severity="warning",
            reach=EVER,
            steady=True,
            descent=True,
            meaning="The loss is still where it began or at chance: it exploded at the start and came back, it has not "
            "moved for 750 steps, or after long steps it rests where knowing how often each label comes would bring "
            "it.",
            advice="After an explosion or long steps start again with a learning rate three to ten times lower, or "
            "with a warm-up. Otherwise look whether labels belong to their inputs, whether gradients reach the "
            "weights, and whether the rate is too low.",
        ),
        RuleSpec(
            name="gradient_exploding",
            signal="gradient_spike_score",
            judged="gradients",
            threshold=2.3,
            severity="warning",
            meaning="The gradient norm is ten times the largest that there ever was, or three times and stays there.",
            advice="Leave the step out or clip it. If it comes again, clip at a few times the usual norm, and lower "
            "the learning rate; in recurrent nets clipping is the rule.",
        ),
        RuleSpec(
            name="gradient_vanishing",
            signal="vanishing_share",
            judged="gradients",
            threshold=0.3,
            hold=10,
            severity="warning",
            steady=True,
            meaning="Three layers in ten get less than a thousandth of the gradient of the best one: they do not "
            "learn.",
            advice="Use ReLU or GELU in place of sigmoid and tanh, residual connections, normalisation, an "
            "initialisation that keeps variances. A higher learning rate helps a little.",
        ),
        RuleSpec(
            name="overfitting",
            signal="generalization_gap",
            judged="validation",
            threshold=0.15,
            hold=3,
            severity="warning",
            relative=False,
            meaning="Validation has been getting worse for three passes, by more than it ever came back from, and is "
            "worse than training by more than a seventh of all that it had gained.",
            advice="More data or augmentation first; then weight decay, dropout, a smaller model; or stop at the best.",
        ),
        RuleSpec(
            name="no_improvement",
            signal="validations_since_best",
            judged="validation",
            threshold=10.0,
            severity="info",
            relative=False,
            meaning="The monitored metric has not improved for ten validation passes. Most healthy runs end so: this "
            "rule acts only when you give it the severity warning.",
            advice="Stop and keep the best weights, or lower the learning rate.",
        ),
        RuleSpec(
            name="layer_dead",
            signal="dead_share",
            judged="gradients",
            threshold=0.05,
            hold=50,
            severity="info",
            relative=False,
            meaning="A layer has had no gradient at all for fifty readings, while others have: dead units, a detached "
            "branch, or a parameter that the loss does not use.",
            advice="Look for `detach()` and `no_grad()` on the way, and for ReLUs whose input is always negative; or "
            "freeze the layer, if that is what you want.",
        ),
        RuleSpec(
            name="run_hung",
            signal="hung_seconds_ratio",
            judged="watchdog",
            threshold=1.0,
            severity="critical",
            relative=False,
            meaning="No step has ended for ten minutes and for twenty times the usual. Advice only: a hung run has no "
            "step at which it could be adjusted.",
            advice="Look at the stack in the log, at the loader's workers, at the other ranks.",
        ),
        RuleSpec(
            name="input_bound",
            signal="data_wait_share",
            judged="record",
            threshold=0.5,
            hold=10,
            severity="info",
            relative=False,
            meaning="Training spends more than half of its time waiting for data.",
            advice="More `num_workers`, `pin_memory`, `persistent_workers`, cheaper transforms, or data nearer by.",
        ),
        RuleSpec(
            name="overhead_exceeded",
            signal="overhead_excess",
            judged="record",
            threshold=2.0,
            hold=10,
            severity="info",
            relative=False,
            meaning="Watching takes twice the share of time that it was given.",
            advice="Give a larger `overhead=`, fewer layers, or a longer `gradients_every=`.",
        ),
        RuleSpec(
            name="backend_failing",
            signal="backend_errors",
            judged="record",
            threshold=1.0,
            severity="info",
            relative=False,
            meaning="A backend has raised since the last record, and lost what it was given.",
            advice="The first error of each kind is in the log, with its place. Training is not affected.",
        ),
    )
}


def alert_name(rule: str) -> str:
    """What servers call the alert about a rule that ships: `TrimtabLossDiverged` for `loss_diverged`."""
    return "Trimtab" + "".join(part.capitalize() for part in rule.split("_"))
