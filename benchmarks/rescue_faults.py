"""What goes wrong in a run. Where it goes wrong is said in `rescue_cases`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rescue_loop import Fault
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass
class Rate(Fault):
    """The learning rate is `factor` times what it should be, from `onset` on."""

    factor: float = 1.0

    def learning_rate(self, step: int) -> float:
        return self.factor if step >= self.onset else 1.0


@dataclass
class PoisonedBatch(Fault):
    """One batch on quite another scale, with labels that mean nothing."""

    scale: float = 100.0

    def batch(self, step: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if step != self.onset:
            return inputs, targets
        source = torch.Generator().manual_seed(self.onset)
        targets = targets.flatten()[torch.randperm(targets.numel(), generator=source)].view_as(targets)
        return (inputs * self.scale if inputs.is_floating_point() else inputs), targets


@dataclass
class NanInBatch(Fault):
    """One NaN in one batch of images."""

    def batch(self, step: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if step == self.onset:
            inputs = inputs.clone()
            inputs.view(-1)[7] = float("nan")
        return inputs, targets


@dataclass
class WrongLabels(Fault):
    """From `onset` on labels belong to other samples."""

    def batch(self, step: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if step < self.onset:
            return inputs, targets
        source = torch.Generator().manual_seed(step)
        return inputs, targets.flatten()[torch.randperm(targets.numel(), generator=source)].view_as(targets)


@dataclass
class Uncleared(Fault):
    """From `onset` on nobody calls `zero_grad`."""

    def clears(self, step: int) -> bool:
        return step < self.onset


@dataclass
class GradientSpike(Fault):
    """The gradient of one layer is `scale` times itself, for `steps` steps."""

    scale: float = 1e4
    steps: int = 1
    layer: int = 0  # among the weights of two dimensions and more

    def gradients(self, step: int, model: nn.Module) -> None:
        if self.onset <= step < self.onset + self.steps:
            _weights(model)[self.layer].grad.mul_(self.scale)


@dataclass
class DamagedWeight(Fault):
    """Some elements of one weight become as large as a flipped bit of the exponent makes them."""

    value: float = 100.0
    share: float = 0.02
    layer: int = -1

    def state(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        if step == self.onset:
            weight = _weights(model)[self.layer].detach().view(-1)
            count = max(1, int(self.share * len(weight)))
            where = torch.randperm(len(weight), generator=torch.Generator().manual_seed(step))[:count]
            weight[where] = self.value


@dataclass
class DamagedState(Fault):
    """Momentum is multiplied; second moments are all but lost."""

    momentum: float = 1e3
    second: float = 1e-10

    def state(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        if step != self.onset:
            return
        for state in optimizer.state.values():
            if "momentum_buffer" in state:
                state["momentum_buffer"].mul_(self.momentum)
            for name in ("exp_avg_sq", "square_avg"):
                if name in state:
                    state[name].mul_(self.second)


@dataclass
class OneBatch(Fault):
    """From `onset` on the loader gives the same batch over and over."""

    _kept: tuple[Tensor, Tensor] | None = None

    def batch(self, step: int, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if step < self.onset:
            return inputs, targets
        self._kept = self._kept or (inputs, targets)
        return self._kept


@dataclass
class LayerAnew(Fault):
    """One layer forgets what it learned: its weights are drawn anew, as torch's linear layers draw theirs."""

    layer: int = -1

    def state(self, step: int, model: nn.Module, optimizer: Optimizer) -> None:
        if step == self.onset:
            weight = _weights(model)[self.layer].detach()
            bound = weight[0].numel() ** -0.5
            source = torch.Generator().manual_seed(step)
            weight.copy_((2 * torch.rand(weight.shape, generator=source) - 1) * bound)


@dataclass
class ScaledGradients(Fault):
    """From `onset` on all gradients are `factor` times themselves: a loss scale not divided out, or a wrong sign."""

    factor: float = 1.0

    def gradients(self, step: int, model: nn.Module) -> None:
        if step >= self.onset:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(self.factor)


def _weights(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.dim() > 1]
