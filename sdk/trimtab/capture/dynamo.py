"""Keeps torch.compile out of our functions, without importing `torch._dynamo` (1.7 s).

A hook that Dynamo traces records nothing, adds a graph break, and is recompiled whenever a counter in it moves. The
flag makes Dynamo call the function instead of inlining it; the frame strategy makes the interpreter run its frame as
it is when it is reached from a compiled region.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import CodeType, FunctionType
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])


def keep_out(function: F, *, calls_user_code: bool = False) -> F:
    """Mark `function` as one that Dynamo neither inlines nor compiles. Returns it.

    With `calls_user_code` only the frame itself is skipped, and what it calls is compiled as it would be without us;
    otherwise everything below it is skipped as well.
    """
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    _skip(cast(FunctionType, function).__code__, below=not calls_user_code)
    return function


def leave_alone(code: CodeType) -> Callable[[], None]:
    """Have Dynamo run the frames of `code`, which is somebody else's, as they are. What they call is compiled as ever.

    Returns what undoes it. Nothing is done under torch before 2.7, where it could not be undone.
    """
    if not hasattr(_eval_frame(), "set_code_exec_strategy"):
        return lambda: None
    _skip(code, below=False)
    default = _eval_frame()._FrameAction.DEFAULT
    return lambda: _set_strategy(code, default, default)


def know_again(replaced: Iterable[tuple[Any, Any]]) -> None:
    """Have Dynamo know functions of torch by themselves, where it met those that had replaced them: (theirs, ours).

    It looks them up by name once, and keeps what it finds for good: it would break graphs at torch's own, and hold ours
    and the run. Its table is not made anew, since others have added to it by then.
    """
    look_up: Any = getattr(sys.modules.get("torch._dynamo.trace_rules"), "get_torch_obj_rule_map", None)
    if not hasattr(look_up, "cache_info") or not look_up.cache_info().currsize:  # it has not looked yet
        return
    rules = look_up()
    for original, replacement in replaced:
        if replacement in rules:
            rules[original] = rules.pop(replacement)


def _skip(code: CodeType, *, below: bool) -> None:
    eval_frame = _eval_frame()
    if not hasattr(eval_frame, "set_code_exec_strategy"):
        eval_frame.skip_code(code)
        return
    action = eval_frame._FrameAction
    _set_strategy(code, action.SKIP, action.SKIP if below else action.DEFAULT)


def _set_strategy(code: CodeType, itself: Any, below: Any) -> None:
    eval_frame = _eval_frame()
    eval_frame.set_code_exec_strategy(code, eval_frame._FrameExecStrategy(itself, below))


def _eval_frame() -> Any:
    return torch._C._dynamo.eval_frame
