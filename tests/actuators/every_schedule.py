"""Every scheduler of torch, and an optimizer that says what it used."""

import inspect

import torch
from torch.optim import lr_scheduler as schedulers

SCHEDULES = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda t: 0.93),
    "StepLR": lambda o: schedulers.StepLR(o, 3, 0.3),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 5, 9], 0.3),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 1 / 3, 6),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.1, 1.0, 7),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.83),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 11, 2.0),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 4, 2),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, 3),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.3, total_steps=20),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.1, 1.0, 4), schedulers.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, 1.0, 4), schedulers.CosineAnnealingLR(o, 6)], [4]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.02, anneal_epochs=5),
}


def every_class():
    """The names of all schedulers that torch has, but for the base."""
    found = {
        c.__name__ for c in vars(schedulers).values() if inspect.isclass(c) and issubclass(c, schedulers.LRScheduler)
    }
    return found - {"LRScheduler", "_LRScheduler"}


class Recording(torch.optim.Optimizer):
    """Changes nothing, and keeps the learning rates and decays that each step read."""

    def __init__(self, parameters, lr=0.1, **options):
        super().__init__(parameters, {"lr": lr, "momentum": 0.9, "weight_decay": 0.01, **options})
        self.used, self.decays = [], []

    def step(self, closure=None):
        value = closure() if closure is not None else None
        self.used.append([value_of(group["lr"]) for group in self.param_groups])
        self.decays.append([group["weight_decay"] for group in self.param_groups])
        return value


def value_of(rate):
    return rate.item() if isinstance(rate, torch.Tensor) else rate


def parameters(count=2):
    return [torch.nn.Parameter(torch.ones(3)) for _ in range(count)]


def groups(lr=0.1):
    """Two groups, of which the second has a rate of its own."""
    first, second = parameters()
    return [{"params": [first], "lr": lr}, {"params": [second], "lr": lr / 7}]


def advance(scheduler):
    """One step of the schedule; one on a plateau is told a metric that does not improve."""
    if isinstance(scheduler, schedulers.ReduceLROnPlateau):
        scheduler.step(1.0)
    else:
        scheduler.step()
    return [value_of(rate) for rate in scheduler.get_last_lr()]
