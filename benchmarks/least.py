"""What a watcher in Python cannot be cheaper than: four functions that call on, a loss, a time and a list.

It knows nothing of what it sees, checks nothing, and tells nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class Least:
    """Hears of each loss function, each backward, and each step before it and after it."""

    def __init__(self) -> None:
        self.losses: list[tuple[float, float]] = []
        self._undo: list[Callable[[], None]] = []

    def attach(self) -> None:
        """Until `detach`."""
        loss, losses, clock = 0.0, self.losses, time.perf_counter
        cross_entropy, backward = torch._C._nn.cross_entropy_loss, torch.autograd.backward

        def loss_function(*args: Any, **kwargs: Any) -> Any:
            return cross_entropy(*args, **kwargs)

        def with_loss(tensors: Any, *args: Any, **kwargs: Any) -> None:
            nonlocal loss
            loss = tensors.item()
            backward(tensors, *args, **kwargs)

        def before(*_: Any) -> None:
            pass

        def after(*_: Any) -> None:
            losses.append((loss, clock()))

        def put_back() -> None:
            torch._C._nn.cross_entropy_loss, torch.autograd.backward = cross_entropy, backward

        torch._C._nn.cross_entropy_loss, torch.autograd.backward = loss_function, with_loss
        hooks = register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)
        self._undo = [put_back, *(hook.remove for hook in hooks)]

    def detach(self) -> None:
        """Put everything back."""
        for undo in self._undo:
            undo()
