"""What torch calls on every step, with the ordinary way written out in it.

Each of these six looks whether what came is what the lane awaits, notes it, and is done; otherwise it asks the lane's
`ways`. Everything here has left the caches between two calls: a line costs 0.1 us, a call or another object that is
touched more than that. So these functions are not built of smaller ones, reach all through the lane, and catch their
own faults, which is the guard's work everywhere else (decision 11).
"""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import Any, TypeAlias

from torch import Tensor
from torch.optim import Optimizer

from trimtab.capture.dynamo import keep_out
from trimtab.capture.lane import BY_HAND, NOT_ORDINARY, OUT, Lane, first_of_list, first_of_tuple
from trimtab.capture.losses import BY_NAME, BuiltinLoss
from trimtab.capture.tracked import rates_of
from trimtab.sample.criteria import MEAN
from trimtab.sample.scalars import read_now

Hook: TypeAlias = Callable[..., Any]

clock = time.perf_counter
size_of = Tensor.size


def next_of_loader(lane: Lane, original: Hook) -> Hook:
    """`__next__` of loaders. What comes is timed whether it is ordinary or not."""

    def __next__(self: Any) -> Any:  # noqa: N807
        asked = clock()
        try:
            batch = original(self)
        except StopIteration:
            lane.ways.exhausted(self)
            raise
        try:
            if lane.awaits is self._trimtab_pass:
                lane.wait_s = clock() - asked
                if not lane.alike:
                    lane.samples = size_of(lane.first_of(batch, 0), 0)
                lane.awaits = lane.plain
                return batch
        except (AttributeError, TypeError, IndexError):  # another kind of iterator, or of batch
            lane.first_of = first_of_tuple if type(batch) is tuple else first_of_list
        except Exception as error:
            lane.ways.fault("loader", error)
        return lane.ways.batch(self, batch, asked)

    return keep_out(__next__, calls_user_code=True)


def loss_of(lane: Lane, loss: BuiltinLoss, original: Hook) -> Hook:
    """A loss function."""

    def loss_function(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        try:
            if (
                lane.awaits is loss
                and type(output) is Tensor  # not the fake one of a compiler
                and output.requires_grad
                and args[loss.reduction] == MEAN
                and lane.model().training
            ):
                if lane.first is loss:
                    lane.samples = size_of(args[loss.target], 0)
                lane.awaits = output
                return output
        except (AttributeError, TypeError, IndexError):  # the model is gone, or an argument was left out
            pass
        except Exception as error:
            lane.ways.fault("loss", error)
        if kwargs and not kwargs.keys() <= BY_NAME:
            return output
        return lane.ways.loss(loss, output, args)

    return keep_out(loss_function, calls_user_code=True)


def backward_of(lane: Lane, original: Hook) -> Hook:
    """`torch.autograd.backward`. The optimizer may be awaited while it runs already."""

    @functools.wraps(original)
    def backward(
        tensors: Any,
        grad_tensors: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        grad_variables: Any = None,
        inputs: Any = None,
    ) -> Any:
        try:
            awaits = lane.awaits
            ordinary = (
                ((awaits is tensors and tensors._version == 0) or (awaits is BY_HAND and _may_be_loss(lane, tensors)))
                and lane.probe.grad is None
                and grad_tensors is None
                and grad_variables is None
            )
            if ordinary:
                lane.loss = loss = read_now(tensors)
                ordinary = loss - loss == 0.0  # or else its step is judged at once
            if ordinary:
                lane.awaits = lane.optimizer()
        except Exception as error:
            no_value = getattr(tensors, "is_meta", False)
            ordinary = False if no_value else lane.ways.fault("backward", error)
        if ordinary:
            return original(tensors, None, retain_graph, create_graph, inputs=inputs)
        return lane.ways.backward(tensors, grad_tensors, retain_graph, create_graph, grad_variables, inputs)

    return keep_out(backward, calls_user_code=True)


@keep_out
def _may_be_loss(lane: Lane, tensors: Any) -> bool:
    """Whether it can be what is trained on, in a loop that calls no loss function. If not, another backward follows."""
    return type(tensors) is Tensor and tensors.is_cpu and tensors.numel() == 1 and lane.thread == get_ident()


def clipped_of(lane: Lane) -> Hook:
    """What `clip_grad_norm_` tells when it has the norm, before it writes to the gradients."""

    def clipped(gradients: Any, norm_type: float, norm: Any) -> Any:
        try:
            is_awaited = lane.awaits is not OUT and lane.awaits is lane.optimizer() and lane.thread == get_ident()
            if is_awaited and type(norm) is Tensor:
                norms, row = lane.ledger.preclip_norms, len(lane.rows)
                is_first = not norms or norms[-1][0] < row  # of this step
                if is_first and norm_type == 2.0 and norm.is_cpu and type(gradients) is list:
                    lane.clipped = weakref.ref(gradients[0])
                    norms.append((row, read_now(norm)))
                    return None
        except IndexError:  # there are none
            pass
        except Exception as error:
            lane.ways.fault("clipping", error)
        return lane.ways.clipped(gradients, norm_type, norm)

    return keep_out(clipped)


def before_step_of(lane: Lane) -> Hook:
    """The step pre-hook."""

    def before_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            if lane.awaits is optimizer and lane.probe.grad is not None and not kwargs and len(args) == 1:
                groups = optimizer.param_groups
                lane.rates = (groups[0]["lr"],) if len(groups) == 1 else rates_of(groups)
                lane.awaits = args
                return None
        except (IndexError, KeyError):  # no group, or one without a rate
            pass
        except Exception as error:
            lane.ways.fault("step pre-hook", error)
        return lane.ways.before_step(optimizer, args, kwargs)

    return keep_out(before_step)


def after_step_of(lane: Lane) -> Hook:
    """The step post-hook."""

    def after_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            if lane.awaits is args:
                now = clock()
                rows, samples, loss = lane.rows, lane.samples, lane.loss
                seconds, lane.ended_at = now - lane.ended_at, now
                rows.append((loss, None, None, None, samples or 1, 1, samples, seconds, lane.wait_s, lane.epoch))
                lane.awaits = lane.first
                if len(rows) >= lane.full or now >= lane.close_at:
                    lane.pause(optimizer, now)
                return None
        except Exception as error:
            lane.ways.fault("step post-hook", error)
        return lane.ways.after_step(optimizer, args, kwargs)

    return keep_out(after_step)


class Ways:
    """Where a hook goes that is not ordinary: the general ways, which leave the lane first, and that of a fault.

    A step that the meter times, or that is looked at, comes here too. Its ordinary way is then gone once more, with
    the user's part of it left out.
    """

    __slots__ = (
        "_lane", "_unhide", "after_step", "backward", "batch", "before_step", "clipped", "exhausted", "fault", "loss",
    )  # fmt: skip

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._unhide = keep_out(lane.guard.wrap("lane", lane.unhide))
        caught = lane.guard.caught_by(lane.close)

        def fault(place: str, error: Exception) -> bool:
            caught(place, error)
            return False

        self.fault = keep_out(fault)

    def set_loader(self, batch_came: Hook, exhausted: Hook) -> None:
        """`batch_came(iterator, batch, asked)`, `exhausted(iterator)`."""
        lane, unhide = self._lane, self._unhide

        def batch(iterator: Any, batch: Any, asked: float) -> Any:
            if lane.trying == get_ident():
                return NOT_ORDINARY
            came = clock()
            if lane.awaits is OUT or not unhide(next_of_loader(lane, lambda _: batch), iterator):
                batch_came(iterator, batch, asked)
            else:
                lane.wait_s = came - asked
            return batch

        self.batch, self.exhausted = keep_out(batch), exhausted

    def set_loss(self, called: Hook) -> None:
        """`called(loss, output, args)`."""
        lane, unhide = self._lane, self._unhide
        look = lane.guard.wrap("loss", lane.look)

        def loss(loss: BuiltinLoss, output: Any, args: tuple[Any, ...]) -> Any:
            if lane.trying == get_ident():
                return NOT_ORDINARY
            if type(output) is not Tensor:
                return output
            if lane.awaits is OUT or not unhide(loss_of(lane, loss, lambda *_: output), *args):
                called(loss, output, args)
            elif lane.looks:
                look(loss, output, args)
            return output

        self.loss = keep_out(loss)

    def set_backward(self, original: Hook, general: Hook) -> None:
        """`general` takes what `original` takes, and calls it."""
        lane, unhide = self._lane, self._unhide
        ordinary = backward_of(lane, lambda *_, **__: None)

        def backward(tensors: Any, grad_tensors: Any, *args: Any) -> Any:
            if lane.trying == get_ident():
                return NOT_ORDINARY
            if lane.awaits is OUT or not unhide(ordinary, tensors, grad_tensors, *args):
                return general(tensors, grad_tensors, *args)
            return original(tensors, grad_tensors, *args)

        self.backward = keep_out(backward, calls_user_code=True)

    def set_steps(self, before: Hook, after: Hook) -> None:
        """Both take what torch gives to hooks."""
        self.before_step = self._way(before_step_of(self._lane), before)
        self.after_step = self._way(after_step_of(self._lane), after)

    def set_clipping(self, clipped: Hook) -> None:
        """`clipped(gradients, norm_type, norm)`."""
        self.clipped = self._way(clipped_of(self._lane), clipped)

    def _way(self, ordinary: Hook, general: Hook) -> Hook:
        lane, unhide = self._lane, self._unhide

        def way(*args: Any) -> Any:
            if lane.trying == get_ident():
                return NOT_ORDINARY
            if lane.awaits is OUT or not unhide(ordinary, *args):
                return general(*args)
            return None

        return keep_out(way)
