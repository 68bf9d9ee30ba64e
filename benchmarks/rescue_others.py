"""A set that nothing was tuned on: the same faults, and some healthy loops, in other models on other data."""

from __future__ import annotations

from collections.abc import Iterable

import rescue_models as models
import rescue_other_models as others
import rescue_recipes as recipes
import torch
from rescue_faults import (
    DamagedState,
    DamagedWeight,
    GradientSpike,
    NanInBatch,
    PoisonedBatch,
    ScaledGradients,
    Uncleared,
    WrongLabels,
)
from rescue_healthy import Healthy
from rescue_kinds import BLOWN_UP, RAISED, TOO_HIGH, Kind, few_samples, gently, rate, within
from rescue_recipes import Recipe, adamw, cosine, sgd, warm_up
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer


def _benign(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(inputs), targets)


def _squared(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    return F.mse_loss(model(inputs), targets)


def _coloured(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    return F.mse_loss(model(targets), inputs)


def _rebuilt(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    return F.l1_loss(model(inputs), inputs)


def _nesterov(parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
    return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=5e-4)


def _benign_model(classes: int) -> nn.Module:
    return others.perceptron(30, 64, 64, activation=nn.ReLU)


def _diabetes_model(classes: int) -> nn.Module:
    return others.perceptron(10, 64, 32, activation=nn.Tanh)


def _colouring(classes: int) -> nn.Module:
    return others.Colouring()


def _autoencoder(classes: int) -> nn.Module:
    return others.autoencoder()


def _narrow_gru(classes: int) -> nn.Module:
    return models.Recurrent(classes, hidden=48)


_NUMBERS = Recipe(
    name="numbers",
    data="cancer",
    model=_benign_model,
    optimizer=torch.optim.Adam,
    lr=1e-3,
    schedule=cosine,
    reconstructs=True,
    score="loss",
    batch_size=16,
)
_IMAGES = Recipe(
    name="images", data="digits", model=others.residual, optimizer=_nesterov, lr=0.05, schedule=cosine, epochs=14
)
_SOURCE = Recipe(
    name="source",
    data="source",
    model=others.Dilated,
    optimizer=torch.optim.RAdam,
    lr=3e-3,
    schedule=cosine,
    batch_size=8,
    epochs=10,
    score="loss",
)

RESIDUAL = _IMAGES.but(name="residual", epochs=10)
VISION = _IMAGES.but(
    name="vision", model=others.VisionTransformer, optimizer=adamw(0.05), lr=2e-3, schedule=warm_up(0.1)
)
MIXER = _IMAGES.but(name="mixer", model=others.Mixer, optimizer=torch.optim.Adam, lr=3e-3, objective=recipes.smoothed)
ROWS = _IMAGES.but(name="rows", model=others.Rows, optimizer=torch.optim.NAdam, lr=5e-3)
CANCER = _NUMBERS.but(name="cancer", objective=_benign, steps=26)
DIABETES = _NUMBERS.but(
    name="diabetes",
    data="diabetes",
    model=_diabetes_model,
    optimizer=sgd(),
    lr=0.01,
    objective=_squared,
    steps=20,
    epochs=16,
)
COLOURING = _NUMBERS.but(name="colouring", data="photographs", model=_colouring, lr=2e-3, objective=_coloured)
AUTOENCODER = _NUMBERS.but(
    name="autoencoder",
    data="photographs",
    model=_autoencoder,
    optimizer=adamw(),
    lr=2e-3,
    schedule=warm_up(0.1),
    objective=_rebuilt,
    batch_size=32,
)
DILATED = _SOURCE.but(name="dilated")
NARROW_GRU = _SOURCE.but(name="narrow-gru", model=_narrow_gru, optimizer=torch.optim.RMSprop, lr=2e-3)
GPT = _SOURCE.but(name="gpt", model=models.Transformer, optimizer=adamw(), schedule=warm_up(0.1), clip=1.0)

LABELS = (RESIDUAL, VISION, MIXER, ROWS, CANCER, DIABETES)
INPUTS = (*LABELS, COLOURING, AUTOENCODER)  # that are numbers, which a NaN or a scale can spoil
TEXTS = (DILATED, NARROW_GRU, GPT)
ALL = (*INPUTS, *TEXTS)
SMALL = (RESIDUAL, VISION, ROWS, CANCER, DIABETES, AUTOENCODER, NARROW_GRU, GPT)

KINDS: tuple[Kind, ...] = (
    Kind("rate 10x too high from the start", TOO_HIGH, within(ALL, rate(10))),
    Kind("rate 30x too high from the start", TOO_HIGH, within(ALL, rate(30)), planned=False),
    Kind("rate 100x too high from the start", TOO_HIGH, within(ALL, rate(100))),
    Kind("rate 10x too high from the middle", RAISED, within(gently(*ALL), rate(10), 0.45)),
    Kind("rate 100x too high from the middle", RAISED, within(gently(*ALL), rate(100), 0.45)),
    Kind("poisoned batch", ("loss_spike", "gradient_exploding"), within(gently(*INPUTS), PoisonedBatch, 0.45)),
    Kind("NaN in a batch", ("loss_nonfinite", "gradient_nonfinite"), within(INPUTS, NanInBatch, 0.45)),
    Kind("wrong labels", BLOWN_UP, within(gently(*LABELS, *TEXTS), WrongLabels, 0.8)),
    Kind(
        "gradient spike in one layer",
        ("gradient_exploding",),
        within(gently(*ALL), lambda onset: GradientSpike(onset, layer=1), 0.45),
    ),
    Kind("damaged weight", BLOWN_UP, within(ALL, DamagedWeight, 0.45)),
    Kind("damaged optimizer state", (*BLOWN_UP, "gradient_exploding"), within(ALL, DamagedState, 0.45)),
    Kind("rate 1000x too low", ("loss_stalled", "loss_high"), within(ALL, rate(1e-3)), crawling=True),
    Kind("overfitting", ("overfitting",), tuple(map(few_samples, SMALL)), at_validations=True),
    Kind("zero_grad forgotten", ("gradients_uncleared",), within(ALL, Uncleared), planned=False),
    Kind(
        "gradients not unscaled",
        (*RAISED, "gradient_exploding"),
        within(gently(*ALL), lambda onset: ScaledGradients(onset, 100.0), 0.45),
        planned=False,
    ),
    Kind(
        "gradients of the wrong sign",
        (*BLOWN_UP, "gradient_exploding"),
        within(gently(*ALL), lambda onset: ScaledGradients(onset, -1.0), 0.7),
        planned=False,
    ),
)


def healthy() -> list[Healthy]:
    """Each of the models in sixteen ways."""
    return [
        _each("as it is", ALL),
        _each("constant rate", ALL, schedule=recipes.constant),
        _each("a third of the rate", ALL, factor=1 / 3),
        _each("twice the rate", ALL, factor=2.0),
        Healthy("OneCycle", tuple(each.but(scheduler=recipes.one_cycle(2 * each.lr)) for each in ALL)),
        Healthy("cyclic", tuple(each.but(scheduler=recipes.cyclic(each.lr, 40)) for each in (RESIDUAL, DIABETES))),
        _each("restarts", ALL, scheduler=recipes.restarts(60, 2)),
        _each("drops", ALL, scheduler=recipes.drops(120)),
        _each("small batches", [each for each in ALL if each is not RESIDUAL], factor=1 / 3, batch_size=4),
        _each("accumulation", INPUTS, batch_size=8, accumulate=4),
        _each("in order", ALL, shuffle=False),
        _each("RMSprop", ALL, optimizer=torch.optim.RMSprop, lr=1e-3),
        _each("plain SGD", ALL, optimizer=sgd(0.0), lr=0.1),
        _each("Adagrad", ALL, optimizer=torch.optim.Adagrad, lr=0.02),
        _each("Adadelta", ALL, optimizer=torch.optim.Adadelta, lr=1.0),
        _each("little data", ALL, samples=200, epochs=6),
    ]


def _each(name: str, chosen: Iterable[Recipe], *, factor: float = 1.0, **changes: object) -> Healthy:
    return Healthy(name, tuple(recipe.but(lr=recipe.lr * factor).but(**changes) for recipe in chosen))
