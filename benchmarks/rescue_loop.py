"""One training loop, as a user writes it, with places where a fault comes in and where a method watches."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from rescue_data import DATA, Data
from rescue_recipes import Recipe
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer


@dataclass
class Fault:
    """Nothing happens. What goes wrong is said by overriding what is needed; `step` counts from 0."""

    onset: int = 0

    def learning_rate(self, step: int) -> float:
        """A factor on what the schedule says."""
        return 1.0

    def batch(self, step: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What the loader gives."""
        return inputs, targets

    def clears(self, step: int) -> bool:
        """Whether gradients are cleared before `backward`."""
        return True

    def gradients(self, step: int, model: nn.Module) -> None:
        """After `backward`."""

    def state(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        """After the step."""


class Method:
    """Who watches: nobody. A method overrides what it does."""

    @contextlib.contextmanager
    def watching(self, model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
        """Around the whole loop."""
        yield

    def learning_rate(self) -> float:
        """A factor on what the schedule says."""
        return 1.0

    def may_step(self, loss: Tensor, model: nn.Module, optimizer: Optimizer) -> bool:
        """After the gradients are there; False leaves the step out."""
        return True

    def validated(self, at: Validation, model: nn.Module) -> None:
        """After each validation."""

    def should_stop(self) -> bool:
        """Asked after each step."""
        return False

    def finish(self, model: nn.Module) -> None:
        """After the loop, while the run is still watched; may put weights back."""


@dataclass(frozen=True)
class Validation:
    """One pass over what is held out. `step` is the number of optimizer steps before it."""

    step: int
    loss: float
    accuracy: float | None
    train_loss: float  # the mean over the epoch before


@dataclass
class Trained:
    """What became of a run."""

    steps: int = 0
    validations: list[Validation] = field(default_factory=list)
    final: Validation | None = None
    last: Validation | None = None  # of the weights as the loop left them, before the method put any back


def train(recipe: Recipe, seed: int, fault: Fault, method: Method) -> Trained:
    """Train and validate. The same seed gives the same run, bit for bit."""
    torch.manual_seed(seed)
    data = DATA[recipe.data]()
    loader = data.loader(recipe.batch_size, shuffle=recipe.shuffle, samples=recipe.samples)
    model = recipe.model(data.classes)
    optimizer = recipe.optimizer(model.parameters(), recipe.lr)
    trained = Trained()

    def factor(step: int) -> float:
        return recipe.schedule(min(1.0, step / recipe.total)) * fault.learning_rate(step) * method.learning_rate()

    if recipe.scheduler is not None:
        scheduler = recipe.scheduler(optimizer, recipe.total)
    else:
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    batches = _forever(loader)
    with method.watching(model, optimizer):
        for _ in range(recipe.epochs):
            model.train()
            total, stopped = 0.0, False
            for _ in range(recipe.steps):
                total += _step(recipe, fault, method, model, optimizer, batches, trained.steps)
                scheduler.step()
                trained.steps += 1
                if stopped := method.should_stop():
                    break
            if stopped:
                break
            validation = validate(recipe, data, model, trained.steps, total / recipe.steps)
            trained.validations.append(validation)
            method.validated(validation, model)
        last = copy.deepcopy(model.state_dict())
        method.finish(model)
    generator = torch.get_rng_state()  # an objective may draw
    trained.final = validate(recipe, data, model, trained.steps, float("nan"))
    model.load_state_dict(last)
    torch.set_rng_state(generator)
    trained.last = validate(recipe, data, model, trained.steps, float("nan"))
    return trained


def _step(
    recipe: Recipe,
    fault: Fault,
    method: Method,
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterator[Any],
    step: int,
) -> float:
    """One step of the optimizer. Returns its mean loss."""
    total = torch.zeros(())
    if fault.clears(step):
        optimizer.zero_grad()
    for _ in range(recipe.accumulate):
        inputs, targets = fault.batch(step, *next(batches))
        progress = step / recipe.total
        if recipe.curriculum is not None:
            inputs, targets = recipe.curriculum(inputs, targets, progress)
        loss = recipe.objective(model, inputs, targets, progress) / recipe.accumulate
        loss.backward()
        total += loss.detach()
    fault.gradients(step, model)
    if recipe.clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    if method.may_step(total, model, optimizer):
        optimizer.step()
    fault.state(step, model, optimizer)
    return total.item()


def validate(recipe: Recipe, data: Data, model: nn.Module, step: int, train_loss: float) -> Validation:
    """Loss and, where there are classes, accuracy on what is held out."""
    model.eval()
    with torch.no_grad():
        if recipe.reconstructs:
            loss = recipe.objective(model, data.inputs, data.targets, 1.0)
            return Validation(step, loss.item(), None, train_loss)
        logits, targets = model(data.inputs).flatten(0, -2), data.targets.flatten()
        loss = F.cross_entropy(logits, targets)
        accuracy = (logits.argmax(-1) == targets).float().mean()
    return Validation(step, loss.item(), accuracy.item(), train_loss)


def _forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader
