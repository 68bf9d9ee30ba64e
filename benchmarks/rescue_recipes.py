"""The healthy training runs that faults are put into: data, model, optimizer, schedule, and what is scored."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import rescue_models as models
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, CyclicLR, LRScheduler, OneCycleLR, StepLR

Scheduler = Callable[[Optimizer, int], LRScheduler]  # from total steps
Schedule = Callable[[float], float]  # from progress, 0 to 1, to a factor on the learning rate
Curriculum = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]  # what of a batch is used at some progress
Objective = Callable[[nn.Module, Tensor, Tensor, float], Tensor]  # the last argument is progress, 0 to 1


def constant(progress: float) -> float:
    return 1.0


def cosine(progress: float) -> float:
    """Cosine to nothing."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def gentle(progress: float) -> float:
    """Cosine to a tenth."""
    return 0.1 + 0.9 * cosine(progress)


def warm_up(share: float, then: Schedule = cosine) -> Schedule:
    """Linear over the first `share` of the run."""
    return lambda progress: min(1.0, (progress + 0.002) / share) * then(progress)


def classify(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    """Mean cross entropy, of images or of each next character."""
    return F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


def smoothed(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    """The same of images, with labels that are a little unsure."""
    return F.cross_entropy(model(inputs), targets, label_smoothing=0.1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a loop needs. `lr` is what the schedule's factor multiplies."""

    name: str
    data: Literal["digits", "text", "source", "cancer", "diabetes", "photographs"]
    model: Callable[[int], nn.Module]  # from the number of classes
    optimizer: Callable[[Iterable[nn.Parameter], float], Optimizer]
    lr: float
    schedule: Schedule = constant
    objective: Objective = classify
    batch_size: int = 32
    accumulate: int = 1
    epochs: int = 12
    steps: int = 40  # of the optimizer, in an epoch
    clip: float | None = None
    shuffle: bool = True
    samples: int | None = None  # train on so many alone
    curriculum: Curriculum | None = None
    scheduler: Scheduler | None = None  # instead of `schedule`
    reconstructs: bool = False  # there is no accuracy: validation has the objective
    score: Literal["accuracy", "loss"] = "accuracy"

    @property
    def total(self) -> int:
        """Optimizer steps in all."""
        return self.epochs * self.steps

    def but(self, **changes: Any) -> Recipe:
        """The same with some fields changed."""
        return dataclasses.replace(self, **changes)


def one_cycle(peak: float) -> Scheduler:
    """Up to `peak` and down again."""
    return lambda optimizer, total: OneCycleLR(optimizer, peak, total_steps=total + 1)


def cyclic(rate: float, period: int, mode: str = "triangular") -> Scheduler:
    """Up to `rate` and down to a twentieth of it, in so many steps, again and again."""

    def make(optimizer: Optimizer, total: int) -> LRScheduler:
        gamma = 0.999 if mode == "exp_range" else 1.0
        cycles = {"step_size_up": period // 2, "mode": mode, "gamma": gamma, "cycle_momentum": False}
        return CyclicLR(optimizer, rate / 20, rate, **cycles)

    return make


def restarts(period: int, growth: int) -> Scheduler:
    """Down along a cosine, and up at once; each way down `growth` times as long as the one before."""
    return lambda optimizer, total: CosineAnnealingWarmRestarts(optimizer, period, growth)


def drops(every: int) -> Scheduler:
    """To a fifth after every so many steps."""
    return lambda optimizer, total: StepLR(optimizer, every, 0.2)


def sgd(momentum: float = 0.9, decay: float = 0.0) -> Callable[[Iterable[nn.Parameter], float], Optimizer]:
    return lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=decay)


def adamw(decay: float = 0.01, beta: float = 0.999) -> Callable[[Iterable[nn.Parameter], float], Optimizer]:
    return lambda parameters, lr: torch.optim.AdamW(parameters, lr, weight_decay=decay, betas=(0.9, beta))


def _gru(classes: int) -> nn.Module:
    return models.Recurrent(classes)


def _lstm(classes: int) -> nn.Module:
    return models.Recurrent(classes, "LSTM")


def _relu(hidden: int, gain: float) -> Callable[[int], nn.Module]:
    """A recurrent network whose gradients grow with every character, and which trains only while they are clipped."""

    def make(classes: int) -> nn.Module:
        model = models.Recurrent(classes, "RNN", hidden=hidden, nonlinearity="relu")
        models.scale_recurrent(model, gain)
        return model

    return make


def _late_norm(classes: int) -> nn.Module:
    return models.Transformer(classes, blocks=2, late_norm=True)


MLP = Recipe(name="mlp", data="digits", model=models.mlp, optimizer=sgd(), lr=0.05, schedule=cosine)
CNN = Recipe(name="cnn", data="digits", model=models.cnn, optimizer=adamw(), lr=3e-3, schedule=warm_up(0.1), epochs=14)
CNN_SGD = CNN.but(name="cnn-sgd", optimizer=sgd(), lr=0.05)
CNN_FAST = CNN.but(name="cnn-fast", lr=0.05, schedule=warm_up(0.25))  # a rate that needs its warm-up
GRU = Recipe(
    name="gru",
    data="text",
    model=_gru,
    optimizer=torch.optim.Adam,
    lr=1e-2,
    schedule=cosine,
    batch_size=8,
    epochs=10,
    score="loss",
)
GRU_SGD = GRU.but(name="gru-sgd", optimizer=sgd(), lr=0.5)
LSTM = GRU.but(name="lstm", model=_lstm)
RELU = GRU.but(name="rnn", model=_relu(64, 2.5), optimizer=sgd(), lr=0.5, clip=0.5)
RELU_NARROW = RELU.but(name="rnn-narrow", model=_relu(40, 4.0))
TRANSFORMER = GRU.but(name="transformer", model=models.Transformer, optimizer=adamw(), lr=4e-3, schedule=warm_up(0.1))
LATE_NORM = GRU.but(name="late-norm", model=_late_norm, lr=0.02, schedule=warm_up(0.25))
NORMED = CNN.but(name="normed-cnn", model=models.normed_cnn, optimizer=sgd(), lr=0.05)
