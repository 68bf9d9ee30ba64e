"""Every rule that ships: by which signal and threshold, what it means, what to do."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

EVER = sys.maxsize  # a reach: nothing since the run began was good
RISING = -1  # ... or nothing since the mean of the loss over 50 steps began to rise


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
    at_chance: bool = False  # calls a run slow (see `Findings.is_slow`) only where the loss rests at chance
    min_delta: float = 0.0  # of a count since the best: what is no improvement, in the unit of the metric
    meaning: str  # one or two sentences, true of any threshold and hold: users change them, and servers show it
    by_default: str = ""  # what that is in numbers, by the threshold and the hold that ship
    advice: str


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
            meaning="The training loss is NaN or infinite. If the gradient of such a loss is applied, NaN spreads to "
            "every weight.",
            advice="Look at the batch first: its inputs and its labels. Then look at logarithms, divisions and square "
            "roots near zero, and at overflow in half precision. A single bad batch can be skipped. If it happens "
            "again, lower the learning rate.",
        ),
        RuleSpec(
            name="gradient_nonfinite",
            signal="gradient_nonfinite",
            judged="gradients",
            threshold=1.0,
            severity="critical",
            relative=False,
            meaning="A gradient contains NaN or Inf, although the loss may be finite; or GradScaler skipped three "
            "steps in a row.",
            advice="Common causes: the square root or the norm of zero, a softmax over a row that is fully masked, "
            "overflow in half precision. `torch.autograd.detect_anomaly()` names the operation. Skip the step.",
        ),
        RuleSpec(
            name="gradients_uncleared",
            signal="uncleared_steps",
            judged="step",
            threshold=15.0,
            severity="critical",
            relative=False,
            reach=14,
            meaning="Gradients are not cleared between steps: each step applies what all backwards before it have "
            "brought, and the loss that is shown is the sum of theirs.",
            by_default="15 steps in a row had each more backwards than the one before.",
            advice="Call optimizer.zero_grad() once a step. Where several models are trained, look whether each "
            "optimizer has its own call.",
        ),
        RuleSpec(
            name="loss_spike",
            signal="loss_spike_score",
            judged="step",
            threshold=25.0,
            severity="warning",
            reach=3,
            descent=True,
            meaning="The loss jumped, in one step or for three in a row. Typical causes are a bad batch, damaged "
            "weights or optimizer state, and a learning rate that is far too high.",
            by_default="in one step by 25 times its improvement so far, or for three steps in a row by 70 % of it.",
            advice="Go back to a checkpoint from before the spike and continue with other batches (PaLM, arXiv "
            "2204.02311, 5.1). If it happens again, lower the learning rate or Adam's beta2, or clip gradients. If "
            "your loss hardly varies from batch to batch, as with large language models, set the threshold to 1.",
        ),
        RuleSpec(
            name="loss_diverged",
            signal="loss_divergence",
            judged="step",
            threshold=0.6,
            hold=20,
            severity="critical",
            relative=False,
            reach=RISING,
            descent=True,
            meaning="The loss has been so high, for many steps in a row, that much of its improvement is lost. Or it "
            "rises slowly, and validation has lost as large a share of its own improvement.",
            by_default="for 20 steps in a row 60 % of the improvement is lost; or the mean of the loss over 50 steps "
            "has lost 15 % of it, and validation as large a share of its own.",
            advice="Go back to a good checkpoint and continue with a lower learning rate (OPT-175B, arXiv 2205.01068, "
            "2.5). If the loss rises slowly over hundreds of steps, lower the momentum. If it rises again at any "
            "learning rate, look for a change in the data: labels, order, preprocessing.",
        ),
        RuleSpec(
            name="loss_oscillating",
            signal="loss_oscillation",
            judged="step",
            threshold=0.4,
            hold=20,
            severity="warning",
            descent=True,
            meaning="The loss goes up and down, by much of its improvement so far, for many steps in a row: the steps "
            "are too long.",
            by_default="by 40 % of its improvement, for 20 steps in a row.",
            advice="Lower the learning rate, or use a larger batch.",
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
            meaning="One step, or the last six measured ones together, changed a typical layer by much of its own "
            "size, and the loss got worse. What the weights had learned is overwritten: the learning rate is far too "
            "high.",
            by_default="one step by 50 % of its size, or six together by 30 %.",
            advice="Start again with a learning rate ten times lower, or with a warm-up. A change of 0.1 % per step "
            "is usual.",
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
            meaning="The loss has not come down since the run began, and each step changes the weights by very "
            "little: training is too slow to see any progress.",
            by_default="by less than 0.01 %.",
            advice="Raise the learning rate, tenfold at first. Check that the scheduler does not start at zero, and "
            "that the optimizer holds the parameters that you want to train.",
        ),
        RuleSpec(
            name="loss_high",
            signal="loss_stuck",
            judged="step",
            threshold=0.75,
            hold=8,
            clear=0.4,  # near its threshold the doubt goes up and down with a loss that slowly comes down
            severity="warning",
            reach=EVER,
            steady=True,
            descent=True,
            meaning="The loss is still where it began, or not better than the best answer that is the same for "
            "every input. It exploded in the first steps and came back, or it has not moved for long, or steps that "
            "were far too long have left it at chance.",
            by_default="it has not moved for 750 steps.",
            advice="After an explosion or long steps, start again with a learning rate 3 to 10 times lower, or with a "
            "warm-up. Otherwise check that labels belong to their inputs, that the targets of a regression have a mean "
            "of about 0 and a deviation of about 1, that gradients reach the weights, and that the learning rate is "
            "not too low.",
        ),
        RuleSpec(
            name="gradient_exploding",
            signal="gradient_spike_score",
            judged="gradients",
            threshold=2.3,
            severity="warning",
            meaning="The gradient norm is many times the largest one so far, or it has grown fast at each of three "
            "readings in a row.",
            by_default="10 times the largest one so far, or grown more than threefold at each of three readings.",
            advice="Skip this step or clip its gradient. If it happens again, clip at a few times the usual norm, and "
            "lower the learning rate. Recurrent networks nearly always need clipping.",
        ),
        RuleSpec(
            name="gradient_vanishing",
            signal="vanishing_share",
            judged="gradients",
            threshold=0.3,
            hold=10,
            severity="warning",
            steady=True,
            at_chance=True,
            meaning="In many layers the gradient is less than a thousandth of that of the largest layer: they do not "
            "learn.",
            by_default="in 30 % of the layers, at each of 10 readings in a row.",
            advice="Use ReLU or GELU in place of sigmoid and tanh, residual connections, normalisation layers, and an "
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
            meaning="For several validation passes in a row the validation loss has been worse than its best, by more "
            "than it ever recovered from, and worse than the training loss by a part of what it had gained.",
            by_default="for three passes in a row, by 15 % of what it had gained.",
            advice="Get more data or augmentation first. Then try more weight decay, dropout or a smaller model. Or "
            "stop, and keep the best weights.",
        ),
        RuleSpec(
            name="no_improvement",
            signal="validations_since_best",
            judged="validation",
            threshold=10.0,
            severity="info",
            relative=False,
            meaning="The monitored metric has not improved for many validation passes. Most healthy runs end like "
            "this, so the rule only reports, unless you give it the severity warning or name its policy.",
            by_default="for ten passes.",
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
            meaning="Some layers have had a gradient of exactly zero for many readings in a row, while others had "
            "one. Such a layer has dead units, or its branch is detached, or the loss does not use it.",
            by_default="at least 5 % of the layers, for 50 readings in a row.",
            advice="Look for `detach()` and `no_grad()` in the forward pass, and for ReLUs whose input is always "
            "negative. If the layer is not meant to learn, freeze it with `requires_grad_(False)`.",
        ),
        RuleSpec(
            name="run_hung",
            signal="hung_seconds_ratio",
            judged="watchdog",
            threshold=1.0,
            severity="critical",
            relative=False,
            meaning="No step has ended for long, and for many times the usual step time. This is only reported: a "
            "hung run has no step at which it could be adjusted.",
            by_default="for ten minutes, and for twenty times the usual step time.",
            advice="The log says where the training thread stands. Look there, at the DataLoader workers and at the "
            "other ranks.",
        ),
        RuleSpec(
            name="input_bound",
            signal="data_wait_share",
            judged="record",
            threshold=0.5,
            hold=10,
            severity="info",
            relative=False,
            meaning="Training spends too much of its time waiting for data.",
            by_default="more than half of it, in 10 records in a row.",
            advice="Try more `num_workers`, `persistent_workers=True`, `pin_memory=True`, cheaper transforms, or "
            "faster storage.",
        ),
        RuleSpec(
            name="overhead_exceeded",
            signal="overhead_excess",
            judged="record",
            threshold=2.0,
            hold=10,
            severity="info",
            relative=False,
            meaning="Trimtab takes more time than `overhead=` allows.",
            by_default="more than twice the share, in 10 records in a row.",
            advice="Allow more time (`overhead=`), name fewer layers (`layers=`), or read gradients less often (a "
            "larger `gradients_every=`).",
        ),
        RuleSpec(
            name="backend_failing",
            signal="backend_errors",
            judged="record",
            threshold=1.0,
            severity="info",
            relative=False,
            meaning="A backend raised an exception within the last five seconds. The events that it was given are "
            "lost.",
            advice="The log has the first error of each kind, with its place in the code. Training is not affected.",
        ),
    )
}


def alert_name(rule: str) -> str:
    """What servers call the alert about a rule that ships: `TrimtabLossDiverged` for `loss_diverged`."""
    return "Trimtab" + "".join(part.capitalize() for part in rule.split("_"))
