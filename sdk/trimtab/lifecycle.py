"""How a run meets the end of its process: signals, exit, fork."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

# The process is asked to end, and its terminal is gone: it was closed, or the connection broke.
ENDING = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class EndSignals:
    """Lets a run say goodbye on SIGTERM and SIGHUP, and keeps their meaning.

    Where the signal would end the process, `on_end` is called first and the process then ends by the same signal.
    Where the program has a handler of its own, `on_passing` is called and then that handler: training may go on.
    What is ignored stays so, as under `nohup`. Signals can be handled in the main thread only; a run in another thread
    leaves them alone. In a child that was just forked, and has not let go of the run yet, neither is called: the run is
    its parent's.
    """

    def __init__(self, on_end: Callable[[], None], on_passing: Callable[[], None]) -> None:
        self._on_end = on_end
        self._on_passing = on_passing
        self._previous: dict[int, Any] = {}  # kept when it is removed: a handler that came later may call ours
        self._pid = 0

    def install(self) -> None:
        """Take the signals over, where that is possible and somebody would notice."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._pid = os.getpid()
        for number in ENDING:
            previous = signal.getsignal(number)
            if previous not in (signal.SIG_IGN, None):
                self._previous[number] = previous
                signal.signal(number, self._handle)

    def remove(self) -> None:
        """Give them back, but for one over which the program has put a handler of its own."""
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._handle:
                with contextlib.suppress(ValueError):  # not in the main thread any more
                    signal.signal(number, previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_ours, previous = os.getpid() == self._pid, self._previous.get(number)
        if callable(previous):
            if is_ours:
                self._on_passing()
            previous(number, frame)
            return
        if is_ours:
            self._on_end()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def each(*steps: Callable[[], object]) -> None:
    """Take every step in turn, also after one that Ctrl-C ended or that failed; then raise what it raised."""
    with contextlib.ExitStack() as taken:
        for step in reversed(steps):  # a stack calls the last one first
            taken.callback(step)


def until_ctrl_c(wait: Callable[[], object], text: str) -> None:
    """Call `wait`. Ctrl-C ends that, and not the program, which is told so by `text`."""
    try:
        wait()
    except KeyboardInterrupt:
        tell(text)


def tell(text: str) -> None:
    """Write a line to stderr, where there is one: the run is over, and nothing is said through its backends."""
    with contextlib.suppress(AttributeError, OSError, ValueError, RuntimeError):  # none, closed, or amid a write to it
        sys.stderr.write(f"trimtab: {text}\n")


_in_child: list[Callable[[], None]] = []


def after_fork_in_child(call: Callable[[], None]) -> None:
    """Call `call` in every forked child. There is one registration for the process; the last call wins."""
    if not _in_child and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _in_child[-1]())
    _in_child[:] = [call]


def at_exit(call: Callable[[], None]) -> Callable[[], None]:
    """Call `call` when the interpreter exits. Returns what takes that back."""
    atexit.register(call)
    return lambda: atexit.unregister(call)


def warn_that_over(run: str) -> None:
    """Warn who asks a run for its best state that it is over: nothing can be said through its backends any more."""
    warnings.warn(
        f"run {run!r} is over and keeps no state. Call restore_best() before the watched function or block ends.",
        RuntimeWarning,
        stacklevel=3,
    )
