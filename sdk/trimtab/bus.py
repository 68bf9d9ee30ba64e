"""Carries events from the training thread to the backends, and never makes training wait.

Each backend has a lane: a bounded queue and a thread. Publishing is one append. A lane hands over what has gathered
once a second, so a backend that hangs or fails costs its own events only; what is lost is counted by reason:

    queue_full   the backend was too slow, the oldest events went
    error        the backend raised while it held the batch
    deadline     the run ended before the backend was done
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from trimtab.errors import BackendError
from trimtab.guard import in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trimtab.guard import Guard
    from trimtab.types import Backend, Event

BATCH_INTERVAL_S = 1.0
QUEUE_EVENTS = 10_000
HANGING_S = 10.0  # a `write` that lasts longer is told to the user


class Bus:
    """The lanes of one run. `publish` may be called from any thread; `close` flushes."""

    def __init__(self, backends: dict[str, Backend], guard: Guard, *, interval_s: float = BATCH_INTERVAL_S) -> None:
        self._pid = os.getpid()
        self._lanes = [_Lane(name, backend, guard, interval_s) for name, backend in backends.items()]

    def publish(self, event: Event) -> None:
        """Hand `event` to every lane. Costs about 0.2 us a lane."""
        for lane in self._lanes:
            lane.put(event)

    def flush(self, deadline_s: float) -> None:
        """Wait until the backends have what was published so far, `deadline_s` at most."""
        until = time.monotonic() + deadline_s
        for lane in self._lanes:
            lane.wake()
        while any(lane.busy() for lane in self._lanes) and time.monotonic() < until:
            time.sleep(0.01)

    def linger(self) -> None:
        """Let each backend that has a `linger()` wait, in this thread, for who still has to read its last state."""
        for lane in self._lanes:
            lane.linger()

    def hanging(self) -> list[str]:
        """Backends whose `write` has lasted for over `HANGING_S`."""
        return [lane.name for lane in self._lanes if lane.writing_s > HANGING_S]

    def close(self, deadline_s: float) -> dict[str, int]:
        """Flush and close every backend, waiting `deadline_s` in all. In a forked child it does nothing.

        Returns what was lost by then, by backend: how many events it has not written.
        """
        if os.getpid() != self._pid:
            return {}
        until = time.monotonic() + deadline_s
        for lane in self._lanes:  # each closes its backend in its own thread, also where Ctrl-C ends the wait below
            lane.stop()
        for lane in self._lanes:
            lane.join(max(0.0, until - time.monotonic()))
        return {lane.name: lane.dropped["deadline"] for lane in self._lanes if lane.dropped["deadline"]}

    def dropped(self) -> dict[str, dict[str, int]]:
        """Events lost so far: backend to reason to count."""
        return {lane.name: dict(lane.dropped) for lane in self._lanes if lane.dropped}

    def errors(self) -> dict[str, int]:
        """Exceptions so far, by backend."""
        return {lane.name: lane.errors for lane in self._lanes if lane.errors}

    def busy_seconds(self) -> float:
        """Processor time that the lanes have used, and the backends in threads of their own, as far as they tell."""
        return sum(lane.busy_seconds + lane.backend_seconds() for lane in self._lanes)


class _Lane:
    def __init__(self, name: str, backend: Backend, guard: Guard, interval_s: float) -> None:
        self.name = name
        self.dropped: Counter[str] = Counter()
        self.errors = 0
        self.busy_seconds = 0.0
        self._backend = backend
        self._queue: deque[Event] = deque()
        self._writing_since = math.inf
        self._in_hand = 0  # events that the backend is writing now
        self._interval_s = interval_s
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()  # a signal may come amid a call, and call as well
        self._stopping = False
        self._write = guard.wrap(f"backend {name}", self._counting_errors(backend.write))
        self._close = guard.wrap(f"backend {name} close", self._counting_errors(backend.close))
        self.linger = guard.wrap(f"backend {name} linger", getattr(backend, "linger", lambda: None))
        self._thread = threading.Thread(target=self._work, name=f"trimtab-{name}", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        if len(self._queue) >= QUEUE_EVENTS:
            with contextlib.suppress(IndexError):  # the lane emptied the queue in between
                self._queue.popleft()
                self.dropped["queue_full"] += 1
        self._queue.append(event)

    def wake(self) -> None:
        if self._calls.empty():
            self._calls.put(None)

    def backend_seconds(self) -> float:
        return float(getattr(self._backend, "busy_seconds", 0.0))

    def busy(self) -> bool:
        return bool(self._queue or self._in_hand)

    @property
    def writing_s(self) -> float:
        """How long the backend has been at the batch that it holds; negative where it holds none."""
        return time.monotonic() - self._writing_since

    def stop(self) -> None:
        self._stopping = True
        self._calls.put(None)

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        lost = self._in_hand + len(self._queue)
        if lost and self._thread.is_alive():
            self.dropped["deadline"] = lost  # also when it is called again

    def _work(self) -> None:
        while not self._stopping:
            with contextlib.suppress(queue.Empty):
                self._calls.get(timeout=self._interval_s)
            self._hand_over()
        self._hand_over()
        self._close()

    def _hand_over(self) -> None:
        started = time.thread_time()
        batch = self._gathered()
        if batch:
            errors_before = self.errors
            self._writing_since = time.monotonic()
            self._write(batch)
            self._writing_since, self._in_hand = math.inf, 0
            if self.errors > errors_before:
                self.dropped["error"] += len(batch)
        self.busy_seconds += time.thread_time() - started

    def _gathered(self) -> list[Event]:
        batch: list[Event] = []
        with contextlib.suppress(IndexError):  # a publisher that finds the queue full takes from the same end
            for _ in range(len(self._queue)):
                self._in_hand = len(batch) + 1  # before it leaves the queue: another thread asks whether all is written
                batch.append(self._queue.popleft())
        self._in_hand = len(batch)
        return batch

    def _counting_errors(self, call: Callable[..., None]) -> Callable[..., None]:
        def counted(*args: Sequence[Event]) -> None:
            try:
                call(*args)
            except BaseException as error:
                self.errors += 1
                if isinstance(error, Exception):
                    raise
                # SystemExit and its like would end this thread, and take all that comes after with it.
                raise BackendError(in_words(error)) from error

        return counted
