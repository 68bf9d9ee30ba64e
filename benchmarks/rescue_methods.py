"""What others have against a run that goes wrong: nothing, early stopping, a scheduler, the best weights, a guard."""

from __future__ import annotations

import copy
import math
import statistics
from collections import deque
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from rescue_loop import Method, Validation
from torch import Tensor, nn
from torch.optim import Optimizer

PATIENCE = 3  # validations; Lightning's default
GUARD_WINDOW, GUARD_WARM_UP = 100, 10  # gradient norms
UPDATES_EVERY = 8  # steps, as Trimtab does with `gradients_every=1`


class KeepBest(Method):
    """The weights with the lowest validation loss, put back at the end."""

    def __init__(self) -> None:
        self.best = math.inf
        self._weights: dict[str, Tensor] | None = None

    def validated(self, at: Validation, model: nn.Module) -> None:
        if at.loss < self.best:
            self.best, self._weights = at.loss, copy.deepcopy(model.state_dict())

    def finish(self, model: nn.Module) -> None:
        if self._weights is not None:
            model.load_state_dict(self._weights)


class Guard(KeepBest):
    """The guard that anyone can write: skip what is absurd, clip what is unusual, keep the best weights."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: deque[float] = deque(maxlen=GUARD_WINDOW)
        self.skipped = self.clipped = 0

    def may_step(self, loss: Tensor, model: nn.Module, optimizer: Optimizer) -> bool:
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
        if not (math.isfinite(norm) and math.isfinite(loss.item())):
            self.skipped += 1
            return False
        usual = statistics.median(self.norms) if len(self.norms) >= GUARD_WARM_UP else math.inf
        self.norms.append(norm)
        if norm > 20 * usual:
            self.skipped += 1
            return False
        if norm > 3 * usual:
            self.clipped += 1
            nn.utils.clip_grad_norm_(model.parameters(), 3 * usual)
        return True


class Plateau(KeepBest):
    """torch's ReduceLROnPlateau, told the validation loss, and the best weights at the end.

    It is given a rate of its own, by which the schedule is multiplied: on the optimizer's, the schedule would undo what
    it does. Its patience is cut from 10 validations to 1, for these runs are short.
    """

    def __init__(self) -> None:
        super().__init__()
        self._optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        self._scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(self._optimizer, patience=1)

    def learning_rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def validated(self, at: Validation, model: nn.Module) -> None:
        super().validated(at, model)
        self._scheduler.step(at.loss)


def stops_after(losses: Sequence[float]) -> int:
    """After how many validations Lightning's own callback stops a run: all, where it does not.

    The callback runs outside of Lightning: a stand-in for the trainer holds what it reads and sets.
    """
    from lightning.pytorch.callbacks import EarlyStopping
    from lightning.pytorch.trainer.states import TrainerFn

    callback = EarlyStopping("loss", patience=PATIENCE)
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        sanity_checking=False,
        fast_dev_run=False,
        should_stop=False,
        current_epoch=0,
        world_size=1,
        global_rank=0,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
        callback_metrics={},
    )
    for index, loss in enumerate(losses):
        trainer.callback_metrics = {"loss": torch.tensor(loss)}
        trainer.current_epoch = index
        callback.on_validation_end(trainer, None)
        if trainer.should_stop:
            return index + 1
    return len(losses)


class Tracing(Method):
    """Watches and writes down: loss and gradient norms of each step, as rules would see them, and how far every eighth
    step moved the weights."""

    def __init__(self) -> None:
        self.steps: dict[str, Any] = {"loss": [], "learning_rate": [], "gradient_norm": [], "layers": {}, "updates": {}}
        self._before: dict[str, Tensor] = {}

    def may_step(self, loss: Tensor, model: nn.Module, optimizer: Optimizer) -> bool:
        norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
        step = len(self.steps["loss"])
        self.steps["loss"].append(loss.item())
        self.steps["learning_rate"].append(optimizer.param_groups[0]["lr"])
        self.steps["gradient_norm"].append(math.sqrt(sum(norm * norm for norm in norms.values())))
        for name, norm in norms.items():
            self.steps["layers"].setdefault(name, []).append(norm)
        self._compare(step, model)
        return True

    def _compare(self, step: int, model: nn.Module) -> None:
        """The update ratios of the step before, where its weights were kept; keep those of this one in turn."""
        if self._before:
            moved = {name: (p.detach() - self._before[name]).norm() for name, p in model.named_parameters()}
            known = {name: weight.norm() for name, weight in self._before.items()}
            ratios = {name: (moved[name] / norm).item() for name, norm in known.items() if norm}
            self.steps["updates"][step] = ratios
        self._before = {}
        if step % UPDATES_EVERY == 0:
            self._before = {name: p.detach().clone() for name, p in model.named_parameters()}
