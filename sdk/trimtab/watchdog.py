"""Says that a run is hung: no step and no sign of life for far longer than its steps take.

A hung run has no step boundary at which it could be judged or adjusted, so this is a thread of its own, and advice
only. A run that hangs inside an extension that holds the interpreter's lock stops this thread too: then only the
servers see it, by the age of its last step against `hung_after_seconds`.
"""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from trimtab import frames
from trimtab.guard import Guard
from trimtab.sample.spacing import median
from trimtab.types import AlertState, Verdict

RULE = "run_hung"
INTERVAL_S = 5.0  # between two looks
FIRST_STEP_S = 3600.0  # data is prepared and models are compiled before it
LEAST_S = 600.0  # NCCL's own heartbeat gives up after 480 s, prime-rl after 600 s
MEDIANS = 20.0
GAPS = 2.0
OBSERVATIONS = 64
FRAMES = 12

# Steps taken, and anything else that changes while the loop is alive.
SignsOfLife: TypeAlias = tuple[int, object]


class Watchdog:
    """Looks every few seconds whether the run has moved on. The loop itself pays nothing: its counters are read.

    It is hung after `limit_s`: 600 s, or 20 times the median step, or twice the second-longest pause that it came back
    from, whichever is longest. A pause that came twice is a habit of the loop (a long validation, a checkpoint); one
    alone may have been a fault. Up to the first step it is an hour. Time in which this thread did not run either (the
    process was stopped, the machine slept) does not count.

    `on_hung(verdict, text)`, `on_recovered(verdict)` and, at each look that saw the run move on, `on_alive()` are
    called on this thread. A verdict's value is the time without a sign of life over the limit, as `catalog` has it for
    this rule, and `threshold` is its threshold; `text` says how long it has been and where the thread stands that
    called `start`. `number()` counts an episode, and returns which it is. `clock` is in seconds.
    """

    def __init__(
        self,
        progress: Callable[[], SignsOfLife],
        global_step: Callable[[], int],
        *,
        on_hung: Callable[[Verdict, str], None],
        on_recovered: Callable[[Verdict], None],
        on_alive: Callable[[], None] = lambda: None,
        number: Callable[[], int],
        guard: Guard,
        threshold: float = 1.0,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hung = False
        self._number = number
        self._episode = 0  # the number of the newest
        self._progress = progress
        self._global_step = global_step
        self._on_hung = on_hung
        self._on_recovered = on_recovered
        self._on_alive = on_alive
        self._look = guard.wrap("watchdog", self.look)
        self._threshold = threshold
        self._interval_s = interval_s
        self._clock = clock
        self._looked_at = clock()
        self._seen = progress()
        self._idle_s = 0.0  # since the last sign of life
        self._steps_s: deque[float] = deque(maxlen=OBSERVATIONS)
        self._gaps_s = [0.0, 0.0]  # the longest two that the run came back from
        self._watched = 0  # the thread that trains
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def limit_s(self) -> float:
        """After how many seconds without a sign of life the run counts as hung."""
        return self._threshold * self._usual_limit_s

    @property
    def _usual_limit_s(self) -> float:
        if self._seen[0] == 0:
            return FIRST_STEP_S
        return max(LEAST_S, MEDIANS * median(self._steps_s or [0.0]), GAPS * min(self._gaps_s))

    def start(self) -> None:
        """Watch the calling thread. Nothing is left of this in a forked child, where it need not be closed."""
        self._watched = threading.get_ident()
        self._looked_at = self._clock()
        thread = threading.Thread(target=self._work, name="trimtab-watchdog", daemon=True)
        thread.start()
        self._thread = thread

    def close(self) -> None:
        """Stop looking. May be called twice, or without `start`."""
        self._ending.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(1.0)

    @property
    def speaks(self) -> bool:
        """Whether the calling thread is this one, which does not train."""
        return threading.current_thread() is self._thread

    def look(self) -> None:
        """One look. Costs a few microseconds, every few seconds."""
        now = self._clock()
        self._idle_s += min(now - self._looked_at, 2 * self._interval_s)
        self._looked_at = now
        progress = self._progress()
        if progress != self._seen:
            self._moved_on(progress)
        elif not self.hung and self._idle_s >= self.limit_s:
            self.hung = True
            self._episode = self._number()
            self._on_hung(self._verdict("firing"), self._text())

    def _moved_on(self, progress: SignsOfLife) -> None:
        verdict = self._verdict("resolved") if self.hung else None
        before, steps = self._seen[0], progress[0]
        if before:  # the first step is no measure of the others
            self._gaps_s = heapq.nlargest(2, [*self._gaps_s, self._idle_s])
            if steps > before:
                self._steps_s.append(self._idle_s / (steps - before))
        self._seen, self._idle_s, self.hung = progress, 0.0, False
        if verdict is not None:
            self._on_recovered(verdict)
        self._on_alive()

    def _verdict(self, state: AlertState) -> Verdict:
        step, value = self._global_step(), self._idle_s / self._usual_limit_s
        return Verdict(
            rule=RULE,
            optimizer="",
            episode=self._episode,
            state=state,
            severity="critical",
            value=value,
            threshold=self._threshold,
            level=value / self._threshold,
            step=step,
            since=step,
        )

    def _text(self) -> str:
        passed, limit = f"{self._idle_s:.0f} s", f"{self.limit_s:.0f} s"
        return f"No sign of life for {passed}, over the limit of {limit}. Training is in {where(self._watched)}."

    def _work(self) -> None:
        while not self._ending.wait(self._interval_s):
            self._look()


def where(thread: int) -> str:
    """Where a thread is now, innermost frame first, in one line: `wait (queue.py:180) < fetch (loader.py:12)`."""
    frame = frames.of_threads().get(thread)
    places: list[str] = []
    while frame is not None and len(places) < FRAMES:
        code = frame.f_code
        places.append(f"{code.co_name} ({os.path.basename(code.co_filename)}:{frame.f_lineno})")
        frame = frame.f_back
    return " < ".join(places)
