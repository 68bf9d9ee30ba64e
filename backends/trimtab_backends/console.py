"""Tells the person at the terminal, on stderr: a live line while training runs, and a line for each thing that ends.

Where stderr is no terminal there is no live line; a run then says where it stands for each minute in which no epoch
ends. One without epochs says so at its end, too. Of several ranks only the first speaks.
"""

from __future__ import annotations

import math
import sys
from itertools import starmap
from typing import TYPE_CHECKING, TextIO

from trimtab.errors import BackendError
from trimtab.types import Adjustment, Alert, Epoch, Event, Health, Metric, Notice, RunEnd, RunInfo, RunStart, Step
from trimtab_backends import lines
from trimtab_backends.progress import Progress
from trimtab_backends.terminal import open_output, speaks_utf8

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trimtab_backends.lines import Line
    from trimtab_backends.terminal import Output

SILENCE_S = 60.0  # after which a step line is due where there is no live line
METRICS_EVERY_S = 10.0  # at most one line for values of the same names; the last ones are shown
NAMES_APART = 100  # sets of names; all others share one line, so that ever new names fill neither screen nor memory
EPOCHS_AT_ONCE = 20  # of more than that in one batch, only the last has a line


class ConsoleBackend:
    """Writes to stderr, or to `stream`. The live line costs about 0.3 ms once a second."""

    address: str | None = None

    def __init__(self, *, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._output: Output | None = None
        self._ascii = False
        self._progress = Progress()
        self._addresses: Mapping[str, str] = {}
        self._health: Health | None = None
        self._metrics = _Spaced()
        self._spoke_at = 0.0
        self._has_epochs = False
        self._run: RunInfo

    def start(self, run: RunInfo) -> None:
        """Choose between a live line and plain ones.

        Raises:
            BackendError: this process has no stderr.
        """
        stream = self._stream or sys.stderr
        if stream is None:
            raise BackendError("backend 'console': this process has no stderr. Choose other backends with backends=.")
        if run.rank == 0:
            self._run, self._output, self._ascii = run, open_output(stream), not speaks_utf8(stream)

    def write(self, events: Sequence[Event]) -> None:
        output = self._output
        if output is None or not events:
            return
        for line in self._lines(events):
            output.say(line)
        self._progress.tick()
        columns = output.columns
        if columns:
            output.show(lines.live(self._progress, columns, ascii=self._ascii))
        elif abs(events[-1].ts - self._spoke_at) >= SILENCE_S and self._progress.loss:  # a clock may be set back
            self._spoke_at = events[-1].ts
            output.say(lines.step(self._progress))

    def close(self) -> None:
        if self._output is not None:
            self._output.close()
            self._output = None

    def _lines(self, events: Sequence[Event]) -> Iterator[Line]:
        """The lines that a batch is worth, as its events are taken in."""
        epochs = sum(isinstance(event, Epoch) for event in events)
        hidden = left_out = epochs - 1 if epochs > EPOCHS_AT_ONCE else 0
        for event in events:
            if isinstance(event, Step) and event.phase == "train":
                self._progress.take(event)
            elif isinstance(event, Epoch):
                if hidden:
                    hidden -= 1
                else:
                    yield self._end_of(event, left_out)
                self._progress.began_after = event.step
            else:
                yield from self._other(event)

    def _end_of(self, event: Epoch, before: int) -> Line:
        line = lines.epoch(event, self._progress, before)
        self._progress.end_epoch(event.epoch)
        self._spoke_at, self._has_epochs = event.ts, True
        return line

    def _other(self, event: Event) -> Iterator[Line]:
        if isinstance(event, RunStart):
            self._addresses, self._spoke_at = event.addresses, event.ts
            yield lines.start(event, self._run)
        elif isinstance(event, Metric):
            yield from starmap(lines.metric, self._metrics.take(event))
        elif isinstance(event, Notice):
            yield lines.notice(event)
        elif isinstance(event, Alert):
            yield lines.alert(event)
        elif isinstance(event, Adjustment):
            yield lines.adjustment(event)
        elif isinstance(event, Health):
            self._health = event
        elif isinstance(event, RunEnd):
            self._spoke_at = event.ts
            yield from starmap(lines.metric, self._metrics.rest())
            if self._progress.loss and not self._has_epochs:
                yield lines.step(self._progress)
            yield lines.end(event, self._health, self._addresses)


class _Spaced:
    """Lets metrics of the same names through every `METRICS_EVERY_S`, with the number of those held back before."""

    def __init__(self) -> None:
        self._shown_at: dict[tuple[object, ...], float] = {}
        self._held: dict[tuple[object, ...], tuple[Metric, int]] = {}

    def take(self, event: Metric) -> Iterator[tuple[Metric, int]]:
        key: tuple[object, ...] = (event.phase, *event.values)
        if key not in self._shown_at and len(self._shown_at) >= NAMES_APART:
            key = ()
        before = self._held.pop(key)[1] + 1 if key in self._held else 0
        if abs(event.ts - self._shown_at.get(key, -math.inf)) < METRICS_EVERY_S:
            self._held[key] = (event, before)
        else:
            self._shown_at[key] = event.ts
            yield event, before

    def rest(self) -> Iterator[tuple[Metric, int]]:
        """The last of those that are still held back."""
        yield from self._held.values()
        self._held.clear()
