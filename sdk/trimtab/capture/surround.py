"""Puts something around the update itself, inside of all hooks of the user's.

Nobody else's code runs between `enter` and `leave`: ours is the last pre-hook and the first post-hook of the optimizer,
a closure is let out, and `state_dict()` and an exception, which skips post-hooks, end it too. An optimizer that nothing
surrounds has none of these hooks.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, Protocol, TypeAlias

from torch.optim import Optimizer

from trimtab.capture.dynamo import keep_out

Wrapping: TypeAlias = Callable[[str, Callable[..., Any]], Callable[..., Any]]


class Surrounding(Protocol):
    """What is around an update. Every call is made by the thread that steps."""

    def begin(self, optimizer: Optimizer, gradients_ready: bool) -> None:
        """The update begins. Under a closure the gradients are not there yet."""
        ...

    def enter(self, optimizer: Optimizer, gradients_ready: bool) -> None:
        """The update goes on: after a closure, with new gradients, or after a nested hook, with those it had."""
        ...

    def leave(self, optimizer: Optimizer) -> None:
        """The user's closure or hook is about to run, in the middle of the update."""
        ...

    def end(self, optimizer: Optimizer) -> None:
        """The update is over, or was broken off. May be called without `begin`, and twice."""
        ...


class Surrounded:
    """One optimizer that something surrounds, until `remove`."""

    def __init__(self, optimizer: Optimizer, surrounding: Surrounding, after: Callable[..., None], guard: Wrapping):
        """`after` becomes the first post-hook of the optimizer."""
        self.begin = guard("step surrounding", surrounding.begin)
        self.enter = guard("step surrounding", surrounding.enter)
        self.leave = guard("step surrounding", surrounding.leave)
        self.end = guard("step surrounding", surrounding.end)
        self._optimizer = weakref.ref(optimizer)
        last = optimizer.register_step_post_hook(after)
        hooks: Any = optimizer._optimizer_step_post_hooks
        hooks.move_to_end(last.id, last=False)
        self._handles = [last]
        if hasattr(optimizer, "_optimizer_state_dict_pre_hooks"):  # some wrappers call no super().__init__
            self._handles.append(optimizer.register_state_dict_pre_hook(self.leave, prepend=True))
        own_step = vars(optimizer).get("step")  # a scheduler puts one there
        step = _ending(optimizer, own_step, self.end)
        vars(optimizer)["step"] = step
        self._has_own_step = own_step is not None
        self._step = weakref.ref(step.__func__)  # weakly, as what it wraps may hold the optimizer

    def is_about(self, optimizer: Optimizer) -> bool:
        """Whether it is this one: an id may be that of another by now."""
        return self._optimizer() is optimizer

    def remove(self) -> None:
        """End what is under way, and take every hook off. What was put over our `step` since stays, and passes on."""
        for handle in self._handles:
            handle.remove()
        optimizer = self._optimizer()
        if optimizer is None:
            return
        self.end(optimizer)
        step: Any = getattr(vars(optimizer).get("step"), "__func__", None)
        is_ours = step is not None and step is self._step()
        if not is_ours:
            return
        if self._has_own_step:
            vars(optimizer)["step"] = step.__wrapped__
        else:
            del vars(optimizer)["step"]


def _ending(optimizer: Optimizer, own_step: Any, end: Callable[..., Any]) -> MethodType:
    """`optimizer.step`, which calls `end` however it returns. As a method, since schedulers ask for its function.

    It holds the optimizer weakly: a cycle would keep its state in memory after the user has dropped it.
    """
    held = weakref.ref(optimizer)

    @functools.wraps(type(optimizer).step if own_step is None else own_step)
    def step(_: Any, *args: Any, **kwargs: Any) -> Any:
        optimizer: Any = held()
        function = own_step if own_step is not None else functools.partial(type(optimizer).step, optimizer)
        try:
            return function(*args, **kwargs)
        finally:
            end(optimizer)

    return MethodType(keep_out(step, calls_user_code=True), weakref.proxy(optimizer))
