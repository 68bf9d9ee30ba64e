"""The latest value of every series of a run: what `/metrics` shows. Fed by events alone; it grows with the number of
series, never with the number of steps.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING

from prometheus_client import Metric
from prometheus_client.utils import floatToGoString

from trimtab import catalog
from trimtab.catalog.rules import RULES
from trimtab.measurements import measure
from trimtab.types import Event, RunEnd, RunInfo, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from trimtab.catalog import MetricSpec

RECORDS = 2.0  # a level outlives its window where two records are further apart: for so many times that long
BOUNDS = (*catalog.STEP_DURATION_BUCKETS, math.inf)


class SeriesTable:
    """A `prometheus_client` collector over what the events said. `take` and the readers may be on different threads.

    A gauge is the last value, NaN and Inf included. A counter only rises. A histogram takes finite values only, since
    one NaN would spoil its sum for good. The level of a rule is 0 once what it rests on is no longer of the last
    minute: when nothing is judged any more nobody says so.
    """

    def __init__(self, run: RunInfo, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock = clock
        self._judged_at = clock()  # the newest record that had levels
        self._judged_until = math.inf  # when they are out of date
        self._is_over = False
        self._families = {spec.name: _Family(spec) for spec in catalog.METRICS}
        self._lock = threading.Lock()

    def take(self, events: Sequence[Event]) -> None:
        """Bring every series up to date. About 1 us a measurement; a reader waits for a tenth of that."""
        measured = [measurement for event in _without_stale_layers(events) for measurement in measure(event, self._run)]
        with self._lock:
            for spec, labels, value in measured:
                self._families[spec.name].take(labels, value)
            for event in events:
                self._follow(event)

    def snapshot(self) -> list[tuple[str, int, list[float]]]:
        """Of each family that has samples its name, how many series it has, and their values in the order of `metric`.

        A series never goes, and new ones come behind the others.
        """
        with self._lock:
            self._let_levels_go()
            return [
                (name, len(family.series), [cell for cells in family.series.values() for cell in cells])
                for name, family in self._families.items()
                if family.series
            ]

    def metric(self, name: str, start: int = 0, stop: int | None = None) -> Metric:
        """Some of the series of a family, all by default, as `prometheus_client` knows a metric."""
        own = {"run": self._run.run, "rank": str(self._run.rank)}
        with self._lock:
            self._let_levels_go()
            return self._families[name].metric(own, start, stop)

    def collect(self) -> Iterable[Metric]:
        """What `prometheus_client` asks of a collector: the families that have samples."""
        return [self.metric(name) for name, family in self._families.items() if family.series]

    def _follow(self, event: Event) -> None:
        now = self._clock()
        if isinstance(event, RunEnd):
            self._is_over, self._judged_until = True, now + catalog.LEVEL_WINDOW_S
        elif isinstance(event, Step) and event.verdicts is not None:
            self._judged_until = now + max(catalog.LEVEL_WINDOW_S, RECORDS * (now - self._judged_at))
            self._judged_at = now

    def _let_levels_go(self) -> None:
        if self._clock() < self._judged_until:
            return
        for (rule, _), cells in self._families[catalog.RULE_LEVEL.name].series.items():
            if self._is_over or not _is_of_watchdog(rule):  # which speaks when nothing is judged
                cells[0] = 0.0


class _Family:
    """One metric and its series: labels to cells, of which a histogram has one a bucket, the count and the sum."""

    def __init__(self, spec: MetricSpec) -> None:
        self.spec = spec
        self.series: dict[tuple[str, ...], list[float]] = {}

    def take(self, labels: tuple[str, ...], value: float | tuple[float, ...]) -> None:
        cells = self.series.get(labels)
        if cells is None:
            cells = self.series[labels] = [0.0] * (len(BOUNDS) + 2 if self.spec.kind == "histogram" else 1)
        if isinstance(value, tuple):
            _observe(cells, value)
        elif self.spec.kind == "gauge" or value > cells[0]:
            cells[0] = value

    def metric(self, own: dict[str, str], start: int, stop: int | None) -> Metric:
        metric = Metric(self.spec.name.removesuffix("_total"), self.spec.help, self.spec.kind)
        for values, cells in islice(self.series.items(), start, stop):
            labels = own | dict(zip(self.spec.labels, map(_text, values), strict=True))
            for (suffix, extra), cell in zip(_samples(self.spec), cells, strict=True):
                metric.add_sample(self.spec.name + suffix, labels | extra, cell)
        return metric


def _is_of_watchdog(rule: str) -> bool:
    return rule in RULES and RULES[rule].judged == "watchdog"


def _observe(cells: list[float], values: tuple[float, ...]) -> None:
    observed = sorted(value for value in values if 0 <= value < math.inf)
    for index, bound in enumerate(BOUNDS):
        cells[index] += bisect_right(observed, bound)
    cells[-2] += len(observed)
    cells[-1] += sum(observed)


def _samples(spec: MetricSpec) -> Iterator[tuple[str, dict[str, str]]]:
    """The samples that make up one series: what is added to its name and to its labels."""
    if spec.kind != "histogram":
        yield "", {}
        return
    for bound in BOUNDS:
        yield "_bucket", {"le": floatToGoString(bound)}  # type: ignore[no-untyped-call]
    yield "_count", {}
    yield "_sum", {}


def _without_stale_layers(events: Sequence[Event]) -> Iterator[Event]:
    """The same events, of which only the last of each optimizer tells of layers: they are most of the measurements.

    Ratios of updates are taken more seldom, so the last that has these tells of its layers too.
    """
    telling = [event for event in events if isinstance(event, Step) and event.layers]
    last = {event.optimizer: event for event in telling}
    updated = {event.optimizer: event for event in telling if _has_ratios(event)}
    for event in events:
        if not isinstance(event, Step) or not event.layers:
            yield event
            continue
        if event is not last[event.optimizer] and event is not updated.get(event.optimizer):
            event = dataclasses.replace(event, layers=None)
        yield event


def _has_ratios(event: Step) -> bool:
    return any(layer.update_ratio is not None for layer in (event.layers or {}).values())


def _text(value: str) -> str:
    """A label value that can be encoded: one lone surrogate would fail every scrape."""
    return value.encode("utf-8", "replace").decode()
