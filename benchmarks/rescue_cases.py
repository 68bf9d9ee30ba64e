"""The faults that the bars are for: which goes into which runs, and which rules are meant to name it."""

from __future__ import annotations

import rescue_models as models
import rescue_recipes as recipes
import torch
from rescue_faults import (
    DamagedState,
    DamagedWeight,
    GradientSpike,
    LayerAnew,
    NanInBatch,
    OneBatch,
    PoisonedBatch,
    ScaledGradients,
    Uncleared,
    WrongLabels,
)
from rescue_kinds import BLOWN_UP, RAISED, TOO_HIGH, Kind, but, few_samples, gently, rate, within
from rescue_loop import Fault
from rescue_recipes import (
    CNN,
    CNN_FAST,
    CNN_SGD,
    GRU,
    GRU_SGD,
    LATE_NORM,
    LSTM,
    MLP,
    NORMED,
    RELU,
    RELU_NARROW,
    TRANSFORMER,
    Recipe,
    constant,
    cosine,
)


def _deep(depth: int, optimizer: object, lr: float) -> Recipe:
    model = lambda classes: models.deep_sigmoid(classes, depth=depth)  # noqa: E731
    return MLP.but(name=f"sigmoid-{depth}", model=model, optimizer=optimizer, lr=lr, schedule=constant)


KINDS: tuple[Kind, ...] = (
    Kind("rate 10x too high from the start", TOO_HIGH, within((CNN_SGD, GRU_SGD), rate(10))),
    Kind("rate 100x too high from the start", TOO_HIGH, within((CNN, TRANSFORMER), rate(100))),
    Kind("rate 10x too high from the middle", RAISED, within(gently(CNN_SGD, GRU_SGD), rate(10), 0.45)),
    Kind("rate 100x too high from the middle", RAISED, within((MLP, TRANSFORMER), rate(100), 0.45)),
    Kind(
        "no warm-up",
        TOO_HIGH,
        but((CNN_FAST, LATE_NORM), schedule=cosine),
    ),
    Kind("poisoned batch", ("loss_spike", "gradient_exploding"), within(gently(MLP, CNN_SGD), PoisonedBatch, 0.45)),
    Kind("NaN in a batch", ("loss_nonfinite", "gradient_nonfinite"), within((MLP, CNN), NanInBatch, 0.45)),
    Kind("wrong labels", BLOWN_UP, within(gently(MLP, GRU_SGD), WrongLabels, 0.8)),
    Kind(
        "gradient spike in one layer",
        ("gradient_exploding",),
        (
            *within(gently(CNN_SGD), lambda onset: GradientSpike(onset, layer=1), 0.45),
            *within(gently(GRU_SGD), lambda onset: GradientSpike(onset, layer=3), 0.45),
        ),
    ),
    Kind(
        "exploding recurrent gradients",
        ("gradient_exploding", "gradient_nonfinite", "loss_nonfinite"),
        but((RELU, RELU_NARROW), clip=None),
    ),
    Kind("damaged weight", BLOWN_UP, within((MLP, TRANSFORMER), DamagedWeight, 0.45)),
    Kind(
        "damaged optimizer state",
        (*BLOWN_UP, "gradient_exploding"),
        within((MLP, TRANSFORMER), DamagedState, 0.45),
    ),
    Kind(
        "vanishing gradients",
        ("gradient_vanishing",),
        within((_deep(6, recipes.sgd(), 0.1), _deep(8, torch.optim.Adam, 1e-3)), Fault),
        crawling=True,
    ),
    Kind("rate 1000x too low", ("loss_stalled", "loss_high"), within((MLP, TRANSFORMER), rate(1e-3)), crawling=True),
    Kind("overfitting", ("overfitting",), (few_samples(CNN), few_samples(GRU)), at_validations=True),
    Kind("momentum too high", TOO_HIGH, but((MLP, GRU_SGD), optimizer=recipes.sgd(0.995)), planned=False),
    Kind("zero_grad forgotten", ("gradients_uncleared",), within((MLP, LSTM), Uncleared), planned=False),
    # Defined before anything was changed that they may depend on, and run once.
    Kind(
        "gradients not unscaled",
        (*RAISED, "gradient_exploding"),
        within(gently(NORMED, GRU_SGD), lambda onset: ScaledGradients(onset, 100.0), 0.45),
        held_out=True,
        planned=False,
    ),
    Kind(
        "gradients of the wrong sign",
        (*BLOWN_UP, "gradient_exploding"),
        within(gently(NORMED, LSTM), lambda onset: ScaledGradients(onset, -1.0), 0.7),
        held_out=True,
        planned=False,
    ),
    Kind(
        "a layer drawn anew",
        (*BLOWN_UP, "gradient_exploding"),
        within((NORMED, LSTM), LayerAnew, 0.7),
        held_out=True,
        planned=False,
    ),
    Kind(
        "one batch over and over",
        ("overfitting",),
        within(gently(GRU, LSTM), OneBatch, 0.5),
        held_out=True,
        planned=False,
        at_validations=True,
    ),
)
