"""What is called on every step: the ordinary way of each hook, in as few lines as can be.

Each `ordinary_...` makes a function that looks whether what came is what the lane awaits, and otherwise asks
`otherwise`. A line costs 0.1 us here, since everything around it has left the caches, and a call more than that. So
these functions catch their own faults, which is the guard's work everywhere else (decision 11).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor
from torch.optim import Optimizer

from trimtab.capture.dynamo import keep_out
from trimtab.capture.lane import OUT, Lane, first_of_list, first_of_tuple
from trimtab.capture.losses import Loss
from trimtab.sample.scalars import read_now

MEAN = 1
NOT_ORDINARY = object()

Hook: TypeAlias = Callable[..., Any]
Fault: TypeAlias = Callable[[str, Exception], object]

clock = time.perf_counter
size_of = Tensor.size


def both_ways(make: Callable[[Lane, Fault, Hook], Hook], lane: Lane, general: Hook) -> Hook:
    """A hook that goes the ordinary way that `make` makes, or leaves the lane and goes the `general` one."""
    fault = lane.guard.caught_by(lane.close)
    timed = lane.guard.wrap("lane", lane.timed)
    ordinary = make(lane, fault, lambda *_: NOT_ORDINARY)

    def otherwise(*args: Any) -> Any:
        if lane.awaits is not OUT and timed(ordinary, *args):
            return None
        return general(*args)

    return keep_out(make(lane, fault, otherwise))


def ordinary_batch(lane: Lane, fault: Fault, otherwise: Hook) -> Hook:
    """A batch came from a loader."""

    def batch_came(iterator: Any, batch: Any, asked: float) -> Any:
        try:
            if lane.awaits is iterator._trimtab_pass:
                got = clock()
                lane.samples = size_of(lane.first_of(batch, 0), 0)
                lane.wait_s = got - asked
                lane.awaits = lane.plain
                return None
        except (AttributeError, TypeError, IndexError):  # another kind of iterator, or of batch
            lane.first_of = first_of_tuple if type(batch) is tuple else first_of_list
        except Exception as error:
            fault("loader", error)
        return otherwise(iterator, batch, asked)

    return batch_came


def ordinary_loss(lane: Lane, fault: Fault, otherwise: Hook) -> Hook:
    """A loss function has returned."""

    def loss_called(loss: Loss, output: Tensor, args: tuple[Any, ...]) -> Any:
        try:
            if lane.awaits is loss and output.requires_grad and args[loss.reduction] == MEAN and lane.model().training:
                if lane.first is loss:
                    lane.samples = size_of(args[loss.target], 0)
                lane.awaits = output
                return None
        except (AttributeError, IndexError):  # the model is gone, or an argument left out
            pass
        except Exception as error:
            fault("loss", error)
        return otherwise(loss, output, args)

    return loss_called


def ordinary_backward(lane: Lane, fault: Fault, otherwise: Hook) -> Hook:
    """Backward is about to run. The optimizer may step already while it does."""

    def before_backward(tensors: Any, grad_tensors: Any) -> Any:
        try:
            if lane.awaits is tensors and grad_tensors is None and lane.probe.grad is None and tensors.is_cpu:
                lane.loss = read_now(tensors)
                lane.awaits = lane.optimizer()
                return None
        except Exception as error:
            fault("backward", error)
        return otherwise(tensors, grad_tensors)

    return before_backward


def ordinary_before_step(lane: Lane, fault: Fault, otherwise: Hook) -> Hook:
    """The optimizer is about to step."""

    def before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            if (
                lane.awaits is optimizer
                and lane.probe.grad is not None
                and not kwargs
                and len(args) == 1
                and not optimizer._optimizer_step_pre_hooks
            ):
                (group,) = optimizer.param_groups
                lane.rate = group["lr"]
                lane.awaits = args
                return None
        except (ValueError, KeyError):  # another number of groups, or one without a rate
            pass
        except Exception as error:
            fault("step pre-hook", error)
        return otherwise(optimizer, args, kwargs)

    return before_step


def ordinary_after_step(lane: Lane, fault: Fault, otherwise: Hook) -> Hook:
    """The optimizer has stepped."""

    def after_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            if lane.awaits is args:
                now = clock()
                rows, samples = lane.rows, lane.samples
                rows.append(
                    (
                        lane.loss, None, None, None, 1, samples, samples or 1, now - lane.ended_at, lane.wait_s,
                        lane.epoch,
                    )
                )  # fmt: skip
                lane.ended_at = now
                lane.awaits = lane.first
                if len(rows) >= lane.full or now >= lane.ledger.close_at:
                    lane.pause(optimizer, now)
                return None
        except Exception as error:
            fault("step post-hook", error)
        return otherwise(optimizer, args, kwargs)

    return after_step
