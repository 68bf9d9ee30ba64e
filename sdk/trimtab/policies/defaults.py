"""The policies that ship: few rungs, each decisive, so that a run of some hundred steps can still be saved.

Everything that one unstable run may show (a spike, divergence, updates that are too large, a loss or gradients that
explode or are not finite) climbs together. Going back alone is tried once, where the fault may not come again; after
that gradients are clipped, if it is theirs, and then the rate is taken for the cause. Two more tenths find a good rate
for a run that began a hundred times too high. What cannot be helped is ended with the best state kept.
"""

from __future__ import annotations

from trimtab.actions import (
    FOR_GOOD,
    ClearGradients,
    ClipGradients,
    Halt,
    LimitUpdates,
    RollBack,
    ScaleLearningRate,
    ScaleWeightDecay,
    SkipStep,
)
from trimtab.policies.policy import Policy

_INSTABILITY = "instability"
_PROGRESS = "progress"
_LONG = 100_000  # steps of memory for what is judged once in an epoch

_NONFINITE = (
    SkipStep(),
    SkipStep(),
    RollBack(),
    (RollBack(), ClipGradients(steps=FOR_GOOD)),
    (RollBack(), ScaleLearningRate(0.1), ClipGradients(steps=FOR_GOOD)),
    (RollBack(), ScaleLearningRate(0.1)),
)

# In the order of their precedence among rules of one severity.
POLICIES: tuple[Policy, ...] = (
    Policy(
        on="loss_nonfinite",
        ladder=[*_NONFINITE, Halt("the loss is not finite, and lower rates did not help")],
        cooldown=3,
        group=_INSTABILITY,
    ),
    Policy(
        on="gradient_nonfinite",
        ladder=[*_NONFINITE, Halt("gradients are not finite, and lower rates did not help")],
        cooldown=3,
        group=_INSTABILITY,
    ),
    Policy(on="gradients_uncleared", ladder=[(RollBack(), ClearGradients())], budget=1),
    Policy(
        on="loss_diverged",
        ladder=[
            (RollBack(), ScaleLearningRate(0.2)),
            (RollBack(), ScaleLearningRate(0.1)),
            (RollBack(), ScaleLearningRate(0.1)),
            Halt("the loss diverges at every rate that was tried"),
        ],
        cooldown=10,
        group=_INSTABILITY,
    ),
    Policy(
        on="gradient_exploding",
        ladder=[
            SkipStep(),
            SkipStep(),
            (RollBack(), ClipGradients(steps=FOR_GOOD)),
            (RollBack(), ClipGradients(steps=FOR_GOOD)),  # where the first of them went to a loss that was not finite
            (RollBack(), ScaleLearningRate(0.3), ClipGradients(steps=FOR_GOOD)),
            (RollBack(), ScaleLearningRate(0.1), ClipGradients(steps=FOR_GOOD)),
            Halt("gradients explode at every rate that was tried"),
        ],
        cooldown=10,
        group=_INSTABILITY,
    ),
    Policy(
        on="loss_spike",
        ladder=[
            RollBack(),
            (RollBack(), ScaleLearningRate(0.3)),
            (RollBack(), ScaleLearningRate(0.1)),
            (RollBack(), ScaleLearningRate(0.1)),
        ],
        cooldown=20,
        memory=10,  # one that comes later is of another bad batch: going back alone has helped
        group=_INSTABILITY,
    ),
    Policy(
        on="loss_high",
        ladder=[(RollBack(), LimitUpdates(highest=0.3)), (RollBack(), ScaleLearningRate(0.1))],
        cooldown=50,
        budget=3,
    ),
    Policy(
        on="update_too_large",
        ladder=[(RollBack(), LimitUpdates(most=1.0)), (RollBack(), LimitUpdates())],
        cooldown=10,
        budget=4,
        group=_INSTABILITY,
    ),
    Policy(
        on="loss_oscillating",
        ladder=[ScaleLearningRate(0.3), (RollBack(), ScaleLearningRate(0.3))],
        cooldown=30,
        budget=4,
    ),
    Policy(
        on="overfitting",
        ladder=[
            ScaleWeightDecay(3.0, floor=1e-4, ceiling=0.1),
            Halt("the validation loss rises while the training loss falls"),
        ],
        cooldown=20,
        memory=_LONG,
    ),
    Policy(on="no_improvement", ladder=[Halt("validation has not improved")], memory=_LONG),
    Policy(
        on="loss_stalled",
        ladder=[ScaleLearningRate(3.0)],
        cooldown=200,
        budget=3,
        group=_PROGRESS,
    ),
    Policy(
        on="gradient_vanishing",
        ladder=[ScaleLearningRate(3.0)],
        cooldown=200,
        budget=2,
        group=_PROGRESS,
    ),
)

# What these say is true of any training, whatever its loss and its gradients are otherwise.
NONFINITE = ("loss_nonfinite", "gradient_nonfinite")
UNMISTAKABLE = (*NONFINITE, "gradients_uncleared")

REASONS: dict[str, str] = {
    "loss_nonfinite": "One bad batch does no harm if its step is skipped; running statistics that it made NaN are put "
    "back. Two in a row mean that the weights are bad: go back. If it happens again, clip gradients for the rest of "
    "the run, which is what recurrent networks need that explode from the start. A lower rate comes only after that: "
    "at it they would learn too slowly.",
    "gradient_nonfinite": "As for the loss. A step that GradScaler skips does not count, unless it is the third in a "
    "row. Gradients of which nobody sees the NaN before the weights have it are learned from: for 1,000 steps after "
    "going back each step's are looked at (on the CPU, and in a run of one rank; elsewhere all would have to wait).",
    "gradients_uncleared": "The cause is known for certain, and is neither the rate nor the weights. So the call that "
    "is missing is made for you, beginning with the weights from before.",
    "loss_diverged": "Divergence lasts, so its cause is still there: go back, and lower the rate at once (OPT-175B, "
    "arXiv 2205.01068). If going back twice, to two snapshots, leaves the loss as high at once, or once to one that is "
    "known to have been good, it is not the rate's fault: what is asked of the model has changed. Then the rate is "
    "given back, and the run halted with its best state only if training does harm, as with wrong labels.",
    "gradient_exploding": "A single spike is skipped before it does harm. If spikes go on, the weights are damaged: "
    "go back, and clip for the rest of the run. The limit is the usual norm (ZClip, arXiv 2504.02507); for SGD, "
    "while no usual norm is known, the norm that moves the weights by 5 % (as AGC, arXiv 2102.06171). If clipping "
    "does not help, the rate is too high.",
    "loss_spike": "Go back to before the spike and continue with other batches, as PaLM did by hand (arXiv "
    "2204.02311, 5.1). If the next comes at once, the rate is too high; if training went well for some steps in "
    "between, it is of another bad batch. A spike alone never halts a run.",
    "loss_high": "The first steps have moved the weights to where no gradient leads back. So go back to the "
    "beginning, and lower the rate by as much as the steps were too long, to 0.3 of it or less. If that does not "
    "help, to a tenth of that. Where the loss has not exploded, is not known to be at chance, and no step moved a "
    "typical layer by 3 %, nothing is done: there may be little to learn, as in data that is mostly noise. Nor where "
    "validation gets better from pass to pass: with rare labels single batches swing by more than there is to learn.",
    "update_too_large": "Weights after such steps are no good start for a lower rate, so go back to before them. The "
    "rate is multiplied by 0.05 to 0.2, as the steps were measured to be too long; for Adam and similar optimizers "
    "by 0.01 to 0.2. If steps of SGD are longer than the weights themselves, the first rung leaves them to gradient "
    "clipping.",
    "loss_oscillating": "The rate is too high for where training is now. Lower it without going back first; then from "
    "before the swings.",
    "overfitting": "A little more weight decay, once. If validation goes on getting worse, the best state is in the "
    "past: halt with it. Stronger answers were tried: ten times the decay made a network worse by a fifth, dropout "
    "by a quarter.",
    "no_improvement": "The rule waits for ten passes before it fires. It has the severity info, since most healthy "
    "runs end like this, so by default it does not act. For early stopping with the best state kept, name this "
    "policy (`policies=['shipped', 'no_improvement']`), or give the rule the severity warning.",
    "loss_stalled": "A bounded raise: threefold each time, tenfold in all. A run that needs more has another problem.",
    "gradient_vanishing": "At a higher rate early layers learn sooner. The raise is bounded, since it does not remove "
    "the cause. It waits until the loss is known to be no better than chance, and does not come down: a run that "
    "learns, or whose loss has no known chance (an L1 loss, reinforcement learning), is only warned. So is one of "
    "which layers have no gradient at all: no rate wakes units that died.",
}

# Shipped rules without a policy: there is nothing in the run that an action could put right.
ADVICE_ONLY: dict[str, str] = {
    "layer_dead": "The cause is the initialisation or the architecture. A policy of your own may clip or lower the "
    "rate.",
    "run_hung": "A hung run has no step at which it could be adjusted.",
    "input_bound": "Only the DataLoader's settings help.",
    "overhead_exceeded": "Trimtab already reads gradients less often by itself, unless `gradients_every` is set.",
    "backend_failing": "Training does not depend on backends.",
}
