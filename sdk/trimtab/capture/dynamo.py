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


def take_for(replaced: Iterable[tuple[Any, Any]]) -> None:
    """Have Dynamo treat functions of ours as those of torch that they have replaced: (theirs, ours).

    What it knows of torch's functions is by object, and collected when it is asked first: before the run, or in it.
    """
    known = _known_functions()
    known.update({ours: known[theirs] for theirs, ours in replaced if theirs in known})


def know_again(replaced: Iterable[tuple[Any, Any]]) -> None:
    """Have Dynamo know functions of torch by themselves, where it knows those that had replaced them: (theirs, ours).

    It would break graphs at torch's own for good, and hold ours and the run. What it knows is not collected anew, since
    others have added to it by then.
    """
    known = _known_functions()
    known.update({theirs: known.pop(ours) for theirs, ours in replaced if ours in known})


def _known_functions() -> dict[Any, Any]:
    """Empty where they have not been collected yet."""
    collect: Any = getattr(sys.modules.get("torch._dynamo.trace_rules"), "get_torch_obj_rule_map", None)
    is_collected = hasattr(collect, "cache_info") and collect.cache_info().currsize
    return collect() if is_collected else {}


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
