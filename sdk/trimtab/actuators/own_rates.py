"""Optimizers of torch that step by something else than the learning rate of their groups, or by more than it.

ASGD reads the rate only to compute that of the next step, which it keeps for each parameter (`eta`): scaling the
group's would act a step late, and by another factor. So `eta` is scaled for the length of the step, and nothing else.
Adafactor uses the least of its rate and 1 / sqrt(t); its decay uses the rate alone. What it would have used is scaled.
Rprop reads the rate on its first step, and then finds its own steps: it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import ASGD, LBFGS, Adafactor, Optimizer, RMSprop, Rprop

from trimtab.actuators.groups import Group, Placed


def refusal(optimizers: Sequence[Optimizer], factor: float) -> str:
    """Why a learning rate times `factor` would not be what these use; empty where it would."""
    for optimizer in optimizers:
        if isinstance(optimizer, Rprop):
            return "Rprop reads its learning rate on the first step only: each weight has a step size of its own."
        if isinstance(optimizer, Adafactor):
            for group in optimizer.param_groups:
                bound = _bound(optimizer, group)
                if min(float(group["lr"]), bound) * factor > bound:
                    return f"Adafactor steps by 1 / sqrt(t) at most, {bound:.3g} now, however high its learning rate."
    return ""


def note(optimizers: Sequence[Optimizer], factor: float) -> str:
    """What the user should know where `refusal` has nothing to say today."""
    if any(isinstance(each, LBFGS) and each.param_groups[0]["line_search_fn"] for each in optimizers):
        return "The line search of LBFGS begins at its learning rate, and may end at the same point."
    if factor > 1 and any(isinstance(optimizer, Adafactor) for optimizer in optimizers):
        return "Adafactor steps by 1 / sqrt(t) at most: once that is less, the scale has no effect."
    return ""


def decay(optimizers: Sequence[Optimizer]) -> float:
    """The decay of RMSprop's average of squares, which begins at 0: its n-th step is longer by 1 / sqrt(1 - decay^n).

    0 for any other; and with momentum, by which later steps are as long as the first.
    """
    plain = [each for each in optimizers if isinstance(each, RMSprop)]
    decays = [group["alpha"] for each in plain for group in each.param_groups if not group["momentum"]]
    return max((float(each) for each in decays if 0.0 <= each < 1.0), default=0.0)


def has_own(optimizer: Optimizer) -> bool:
    """Whether `place` is to be called instead of scaling the rate of the groups."""
    return isinstance(optimizer, ASGD | Adafactor)


def place(placed: Placed, optimizer: Optimizer, group: Group, scale: float) -> None:
    """Put `scale` times what this step would have used in its place."""
    if isinstance(optimizer, ASGD):
        for eta in _etas(optimizer, group):
            placed.write(eta, scale)
    else:
        own = float(group["lr"])
        used = min(own, _bound(optimizer, group))
        placed.put(group, "lr", used * scale)
        if used != own and group["weight_decay"]:
            placed.put(group, "weight_decay", group["weight_decay"] * (own / used))


def shown(optimizer: Optimizer, rate: Any, scale: float) -> Any:
    """The learning rate that a step used, from what stood in its group."""
    return rate * scale if isinstance(optimizer, ASGD) else rate


def _etas(optimizer: ASGD, group: Group) -> list[Tensor]:
    """Of every parameter that this step moves. One that never moved gets its state now, as the step would do it."""
    unused: list[list[Any]] = [[] for _ in range(6)]
    optimizer._init_group(group, *unused)  # type: ignore[no-untyped-call]
    return unused[4]


def _bound(optimizer: Optimizer, group: Group) -> float:
    """1 / sqrt(t) of the step that is about to be made, by the parameter of the group that has made most."""
    states = [optimizer.state[p] for p in group["params"] if p in optimizer.state]
    taken = max((float(state["step"]) for state in states if "step" in state), default=0.0)
    return 1 / math.sqrt(taken + 1)
