"""A watched run that takes turns with the bare loop: attached for a block, then put aside as if time stood still.

Put aside, nothing of it is hooked or wrapped. What runs by the clock (a record every second, the backends' threads
once a second) must cost a watched second what it costs in a run of its own, and must cost the bare blocks nothing. So
the run's deadlines move by the time it was put aside, and its backends' threads wake when a second of watched time has
passed: within a watched block, which is not over before they are done.

This reaches into the SDK's private parts, as nothing but a benchmark may.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from paired import Side

import trimtab
from trimtab.bus import BATCH_INTERVAL_S
from trimtab.capture.lane import OUT

NEVER_S = 1e6
POLL_S = 50e-6
PATIENCE_S = 30.0

clock = time.perf_counter


class Watched:
    """One run of Trimtab with the settings given. Use with `with`; after `warm_up` it sleeps between its blocks.

    The console is the default one, on `stderr`, or on nothing.
    """

    def __init__(self, directory: Path, *, stderr: TextIO | None = None, **options: Any) -> None:
        self._watch = trimtab.watch(directory=directory, **options)
        self._stderr = stderr
        self._open = contextlib.ExitStack()
        self._watched_s = 0.0  # since the lanes were woken
        self._attached_at = self._attached_s = 0.0  # after the warm-up, settling included
        self._own_s = 0.0  # what the run said of itself by then
        self._awaited: list[float] = []  # of each lane that was woken, what it had used before
        self._due: list[tuple[Any, str, float]] = []

    def __enter__(self) -> Watched:
        stream = self._stderr or self._open.enter_context(open(os.devnull, "w", encoding="utf-8"))
        with contextlib.redirect_stderr(stream):
            self.run = self._open.enter_context(self._watch)
        self._capture = self.run._capture
        self._lanes = self.run._bus._lanes if self.run._bus is not None else []
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()
        faults, dropped = self.run._guard.faults, self.run._bus.dropped() if self.run._bus is not None else {}
        if faults or dropped:
            raise RuntimeError(f"faults {dict(faults)}, dropped {dropped}: what does not work costs nothing.")

    def warm_up(self, step: Callable[[], object], seconds: float) -> None:
        """Train as users do, for at least so long and until spacing has settled. Then put the run aside."""
        until = clock() + seconds
        step()
        while clock() < until or not self.run._pace.gradients.settled:
            step()
        for lane in self._lanes:
            lane._interval_s = NEVER_S
            lane.wake()
        self._began_at = clock()
        self.leave()
        self._own_s, self._attached_s = self._says_s(), 0.0

    @property
    def own_share(self) -> float:
        """What the run cost after its warm-up, as it measures itself: hooks and threads over the time of its steps."""
        return (self._says_s() - self._own_s) / self._attached_s

    @property
    def interval(self) -> int:
        """Steps from one sample of the gradients to the next."""
        return self.run._pace.gradients.interval

    def never_sample(self) -> None:
        """From here on no gradient is sampled, no prediction looked at, no label counted, no rule judged.

        Records go on.
        """
        for owner, name in [*self._samples(), *self._judgements()]:
            setattr(owner, name, math.inf)

    def side(self, step: Callable[[], object]) -> Side:
        """Its blocks."""
        return Side(step, enter=self.enter, begin=self.begin, finish=self.finish, leave=self.leave)

    def enter(self) -> None:
        """Attach, with nothing due in the steps that do not count."""
        closings = [(ledger, "close_at") for ledger in self.run._books.ledgers]
        self._due = [
            (owner, name, getattr(owner, name)) for owner, name in [*self._samples(), *self._judgements(), *closings]
        ]
        for owner, name, _ in self._due:
            setattr(owner, name, math.inf)
        self._capture.attach(self.run._controller)
        self._attached_at = clock()

    def begin(self) -> None:
        """What was put off falls due, later by the time that the run was put aside."""
        for owner, name, due in self._due:
            setattr(owner, name, due)
        self._look_ahead()
        self._began_at = clock()
        aside_s = self._began_at - self._left_at
        self.run._health._told_at += aside_s
        for ledger in self.run._books.ledgers:
            ledger.close_at += aside_s
        if self._watched_s >= BATCH_INTERVAL_S:
            self._watched_s -= BATCH_INTERVAL_S
            self._awaited = [lane.busy_seconds for lane in self._lanes]
            for lane in self._lanes:
                lane.wake()

    def finish(self) -> None:
        """Wait for the lanes that were woken in this block.

        Raises:
            RuntimeError: one of them does not answer.
        """
        until = clock() + PATIENCE_S
        for lane, before in zip(self._lanes, self._awaited, strict=False):
            while lane.busy_seconds == before:
                if clock() > until:
                    raise RuntimeError(f"backend {lane.name} did not take its events within {PATIENCE_S:g} s.")
                time.sleep(POLL_S)
        self._awaited = []

    def leave(self) -> None:
        """Detach."""
        self._capture.detach()
        self._left_at = clock()
        self._attached_s += self._left_at - self._attached_at
        self._watched_s += self._left_at - self._began_at

    def _look_ahead(self) -> None:
        lane = self._capture._lane
        if lane.awaits is not OUT:
            lane._catch_up()
            if lane._look_ahead():
                lane._await_first()
            else:
                lane.leave()

    def _says_s(self) -> float:
        return self.run._meter.seconds + (self.run._bus.busy_seconds() if self.run._bus is not None else 0.0)

    def _samples(self) -> list[tuple[Any, str]]:
        """Where it is written when gradients are sampled, predictions looked at and labels counted next."""
        criteria = self._capture._criteria
        due = [(each, "sample_at") for each in self._capture._steps.roster]
        return [*due, (criteria._looks.predictions, "at"), (criteria._looks.labels, "at")]

    def _judgements(self) -> list[tuple[Any, str]]:
        """Where it is written when rules are judged next."""
        return [(each, "judge_at") for each in self._capture._steps.roster]


def idle_share(seconds: float) -> float:
    """Processor time a second that this process uses while its main thread sleeps."""
    time.sleep(0.3)  # until torch's own threads have stopped spinning
    used, started = time.process_time(), clock()
    time.sleep(seconds)
    return (time.process_time() - used) / (clock() - started)
