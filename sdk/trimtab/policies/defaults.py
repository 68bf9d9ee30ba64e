"""The policies that ship: few rungs, each decisive, so that a run of some hundred steps can still be saved.

Everything that one unstable run may show (a spike, divergence, exploding or non-finite gradients) climbs together:
going back alone is tried once, for the fault that does not come again; the second time the rate is taken for the
cause. Two more tenths find a good rate for a run that began a hundred times too high. What cannot be helped is ended
with the best state kept.
"""

from __future__ import annotations

from trimtab.actions import (
    FOR_GOOD,
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

REASONS: dict[str, str] = {
    "loss_nonfinite": "A step with NaN in it is left out, since one bad batch does no harm then, and running "
    "statistics that it made NaN are put back. Two in a row mean that the weights are bad: back to good ones. If it "
    "comes again gradients are clipped for good, as in recurrent nets that explode from the start; a lower rate comes "
    "after that, since it would stay too low there.",
    "gradient_nonfinite": "As for the loss. A step that GradScaler skips by itself is not counted.",
    "loss_diverged": "Divergence lasts, so its cause does too: back and slower at once (OPT-175B, arXiv 2205.01068). "
    "Labels that are wrong for good cannot be helped by any rate: then the run ends with its best state.",
    "gradient_exploding": "One spike is left out before it does harm. Where they go on, the weights are "
    "damaged: back to good ones, and from then on clipped to what is usual (ZClip, arXiv 2504.02507), or for SGD, "
    "where nothing was usual, to what moves the weights by a twentieth (as AGC, arXiv 2102.06171); where clipping does "
    "not hold, the rate is too high.",
    "loss_spike": "Back to before the spike and on with fresh data, as PaLM did by hand (arXiv 2204.02311, 5.1). A "
    "spike alone never ends a run.",
    "loss_high": "Still at chance: the first steps have thrown the weights where no gradient leads back. To the "
    "beginning, and down by as much as steps were measured to be too long, to three tenths at least; then a tenth.",
    "update_too_large": "What such steps leave behind is no start for a lower rate: back to before them, and down by "
    "as much as steps were measured to be too long: to between a fifth and a twentieth, for Adam and its like to "
    "between a fifth and a hundredth. Steps of SGD that are longer than the weights are a matter of clipping.",
    "loss_oscillating": "The rate is too high for the valley: less of it without going back, and then from before the "
    "swings.",
    "overfitting": "A little more weight decay once; if validation goes on rising, the best state is behind. Neither "
    "more of it nor dropout: nets that were trained without were worse off by a fifth and a quarter.",
    "no_improvement": "The patience is in the rule, which is of severity info: most healthy runs end so. To stop "
    "early, with the best state kept, name this policy (`policies=['shipped', 'no_improvement']`), or raise the rule "
    "to warning.",
    "loss_stalled": "A bounded raise: three times, ten times in all. What needs more than that has another cause.",
    "gradient_vanishing": "A higher rate reaches early layers sooner; it is bounded, since it is no cure.",
}

# Shipped rules without a policy: there is nothing in the run that an action could put right.
ADVICE_ONLY: dict[str, str] = {
    "layer_dead": "Initialisation or architecture; a policy of yours may clip or slow down.",
    "run_hung": "A run that hangs has no step boundary at which to act.",
    "input_bound": "Only the loader's settings help.",
    "overhead_exceeded": "Trimtab takes its statistics less often by itself.",
    "backend_failing": "Training does not depend on it.",
}
