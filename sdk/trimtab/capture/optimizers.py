"""Step hooks on every optimizer of the process: the outermost pair of a thread is one step.

Three things make a step more than a pair of hooks. An optimizer that wraps or subclasses another fires twice: only
the outermost pair counts. Under a closure the gradients exist only after the closure has run: it is replaced by one
that reports when it first returns. Optimizers that step inside `backward`, one a parameter, are one optimizer.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from threading import get_ident
from types import CodeType, FrameType
from typing import Any, Protocol, TypeAlias

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from trimtab.capture.dynamo import keep_out, leave_alone
from trimtab.capture.hooks import after_step_of, before_step_of
from trimtab.capture.lane import Lane
from trimtab.capture.patches import Patches
from trimtab.capture.surround import Surrounded, Surrounding, Wrapping


class StepListener(Protocol):
    """What a step tells. Every call is made by the thread that steps."""

    def before_step(self, optimizer: Optimizer, gradients_ready: bool) -> None:
        """The step begins. Under a closure the gradients are not ready, and `closure_returned` follows."""
        ...

    def closure_returned(self, optimizer: Optimizer) -> None:
        """The closure has returned for the first time in this step."""
        ...

    def after_step(self, optimizer: Optimizer) -> None:
        """The parameters are updated."""
        ...


Call: TypeAlias = tuple[int, CodeType]  # a frame by its id: held itself, it would hold all that a failed step left


def watch_loading(patches: Patches, loadable: type[Optimizer | nn.Module], on_loaded: Callable[[Any], object]) -> None:
    """Call `on_loaded(each)` after every `load_state_dict` of an optimizer, or of a module."""
    original: Any = loadable.load_state_dict

    def load_state_dict(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        on_loaded(self)
        return result

    patches.replace(loadable, "load_state_dict", keep_out(functools.wraps(original)(load_state_dict)))


class OptimizerHooks:
    """The hook pair, process-wide while attached; last in line where an optimizer has pre-hooks of its own."""

    def __init__(self, listener: StepListener, lane: Lane) -> None:
        self._listener = listener
        self._lane = lane
        self._running: dict[int, Call] = {}  # thread to the running `step` call of its outermost optimizer
        self._handles: list[RemovableHandle] = []
        self._own_hooks: dict[int, RemovableHandle] = {}  # hook id of ours on an instance
        self._surrounded: dict[int, Surrounded] = {}
        self._under_closure: set[int] = set()  # ids of optimizers whose closure has just returned
        self._unmark: list[Callable[[], None]] = []

    def attach(self, hook: Wrapping, guard: Wrapping) -> None:
        """Register the pair. `hook` and `guard` wrap what is called so that it cannot raise."""
        lane = self._lane
        before = keep_out(hook("step pre-hook", self._before))
        after = keep_out(hook("step post-hook", self._after))
        lane.ways.set_steps(before, after)
        self._after_first = keep_out(hook("step post-hook", self._leave))
        self._guard = guard
        self._last = keep_out(hook("step pre-hook", self._before_last))
        self._closure_returned = guard("step closure", self._listener.closure_returned)
        self._handles = [
            register_optimizer_step_pre_hook(before_step_of(lane)),
            register_optimizer_step_post_hook(after_step_of(lane)),
        ]
        self._unmark = [leave_alone(code) for code in _hook_loops()]

    def detach(self) -> None:
        """Remove every hook, also those on instances."""
        for surrounded in self._surrounded.values():
            surrounded.remove()
        self._surrounded = {}
        for handle in [*self._handles, *self._own_hooks.values()]:
            handle.remove()
        self._handles, self._own_hooks = [], {}
        for unmark in self._unmark:
            unmark()
        self._unmark = []

    def surround(self, optimizer: Optimizer, surrounding: Surrounding) -> None:
        """From now on call `surrounding` around every update, also around one whose hooks are running. Once each."""
        self._lane.leave()
        known = self._surrounded.get(id(optimizer))
        if known is None or not known.is_about(optimizer):
            self._surrounded[id(optimizer)] = Surrounded(optimizer, surrounding, self._after_first, self._guard)

    def under_closure(self, optimizer: Optimizer) -> bool:
        """Whether its step has been under way for a while: the listener is being told that its closure returned."""
        return id(optimizer) in self._under_closure

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        thread, step = get_ident(), _running_step()
        if self._lane.left_in_step is not None:
            self._take_over(optimizer, step)
        outer = self._running.get(thread)
        if outer is not None and _is_on_stack(outer, step):
            surrounded = self._find(optimizer) if self._surrounded else None
            if surrounded is not None and self._be_last(optimizer):
                surrounded.leave(optimizer)
            return None
        self._running[thread] = _call(step)
        if (optimizer._optimizer_step_pre_hooks or self._surrounded) and self._be_last(optimizer):
            return None
        if len(args) == 1 and not kwargs:
            self._listener.before_step(optimizer, True)
            if self._surrounded and (surrounded := self._find(optimizer)) is not None:
                surrounded.begin(optimizer, True)
            return None
        return self._begin(optimizer, args, kwargs)

    def _begin(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        gradients_ready = not callable(closure) or isinstance(closure, nn.Module)
        self._listener.before_step(optimizer, gradients_ready)
        surrounded = self._find(optimizer)
        if surrounded is not None:
            surrounded.begin(optimizer, gradients_ready)
        if closure is None or gradients_ready:
            return None
        reporting = self._reporting(optimizer, closure)
        if len(args) > 1:
            return (args[0], reporting, *args[2:]), kwargs
        return args, {**kwargs, "closure": reporting}

    def _before_last(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._running.get(get_ident()) == _call(_running_step()):
            return self._begin(optimizer, args, kwargs)
        return self._enter(optimizer, False)

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        thread = get_ident()
        if self._lane.was_left_in_step(optimizer) or self._running.get(thread) == _call(_running_step()):
            self._running.pop(thread, None)
            self._listener.after_step(optimizer)
            self._lane.enter(optimizer)
        elif self._surrounded:
            self._enter(optimizer, False)

    def _leave(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        surrounded = self._find(optimizer)
        if surrounded is not None:
            is_outermost = self._running.get(get_ident()) == _call(_running_step())
            (surrounded.end if is_outermost else surrounded.leave)(optimizer)

    def _take_over(self, optimizer: Optimizer, step: FrameType) -> None:
        """The lane was left in the middle of a step, which this one may be nested in. Find that step's frame."""
        outer, caller = None, step.f_back
        while caller is not None:
            if caller.f_code is step.f_code:
                outer = caller
            caller = caller.f_back
        if outer is not None:
            self._running[get_ident()] = _call(outer)
            self._lane.left_in_step = None
        else:  # it raised, or another thread is in it
            self._lane.was_left_in_step(optimizer)

    def _find(self, optimizer: Optimizer) -> Surrounded | None:
        found = self._surrounded.get(id(optimizer))
        return found if found is not None and found.is_about(optimizer) else None

    def _enter(self, optimizer: Optimizer, gradients_ready: bool) -> None:
        surrounded = self._find(optimizer)
        if surrounded is not None:
            surrounded.enter(optimizer, gradients_ready)

    def _be_last(self, optimizer: Optimizer) -> bool:
        """Put a hook of ours behind the optimizer's own pre-hooks, which may clip. True when it will be called."""
        hooks = optimizer._optimizer_step_pre_hooks
        if not hooks and self._find(optimizer) is None:
            return False
        own = next((key for key in hooks if key in self._own_hooks), None)
        if own is not None and len(hooks) == 1 and self._find(optimizer) is None:  # the user's are gone
            self._own_hooks.pop(own).remove()
            return False
        if own is None:
            handle = optimizer.register_step_pre_hook(self._last)
            self._own_hooks[handle.id] = handle
        elif next(reversed(hooks)) != own:
            hooks[own] = hooks.pop(own)
        return True

    def _reporting(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        report, first = self._closure_returned, True

        def reporting_closure(*args: Any, **kwargs: Any) -> Any:  # some line searches say what they ask for
            nonlocal first
            surrounded = self._find(optimizer)
            if surrounded is not None:
                surrounded.leave(optimizer)
            value = closure(*args, **kwargs)
            if first:
                first = False
                self._under_closure.add(id(optimizer))
                try:
                    report(optimizer)
                finally:
                    self._under_closure.discard(id(optimizer))
            self._enter(optimizer, True)
            return value

        return keep_out(reporting_closure, calls_user_code=True)


def _running_step() -> FrameType:
    """The frame that called our hook: torch's wrapper of `step`."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("trimtab."):
        frame = frame.f_back
    return frame


def _call(frame: FrameType) -> Call:
    return id(frame), frame.f_code


def _is_on_stack(call: Call, step: FrameType) -> bool:
    """Whether `call` is still running above `step`. It is not after a step that raised, which skips post-hooks."""
    caller = step.f_back
    while caller is not None:
        if _call(caller) == call:
            return True
        caller = caller.f_back
    return False


def _hook_loops() -> list[CodeType]:
    """Torch's wrapper of every `step`, which calls the hooks in a loop.

    Dynamo can break inside of no loop: it would look at this frame for each optimizer, and give it up.
    """
    inner = Optimizer.profile_hook_step.__code__.co_consts
    return [code for code in inner if isinstance(code, CodeType) and code.co_name == "wrapper"]
