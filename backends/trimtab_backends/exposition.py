"""The page that a scrape gets.

`prometheus_client` writes it: names, escapes, order, numbers, and which of its formats a scraper is given. But what it
writes for 1,000 series takes 10 ms (text) to 15 ms (OpenMetrics) of Python, in which training stands still. All of it
but the numbers stays the same, so each series is written once for each format, cut where its numbers stand, and from
then on only numbers are written: 1 ms. New series are written a few at a time, and training has its turn in between.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, cast

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import Metric

    from trimtab_backends.series import SeriesTable

FORMATS_KEPT = 4  # a scraper names a version and an escaping; nobody may fill the memory by naming ever new ones
TOGETHER = 64  # new series that are written before training has its turn: half a millisecond
TURN_S = 0.5e-3


class Exposition:
    """The metrics of one run as pages of text. May be asked from several threads; they take turns."""

    def __init__(self, series: SeriesTable) -> None:
        self._series = series
        self._formats: dict[str, _Format] = {}
        self._lock = threading.Lock()

    def page(self, accept: str) -> tuple[str, bytes]:
        """The content type and the body for an `Accept` header."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none
            encode, content_type = choose_encoder("")
        with self._lock:
            known = self._formats.get(content_type)
            if known is None:
                if len(self._formats) >= FORMATS_KEPT:
                    self._formats.clear()
                known = self._formats[content_type] = _Format(encode)
            return content_type, known.page(self._series).encode()


class _Format:
    """All that stands on a page of one format, but for the numbers."""

    def __init__(self, encode: Callable[[CollectorRegistry], bytes]) -> None:
        self._encode = encode
        self._end = self._written([])
        self._families: dict[str, tuple[int, list[str]]] = {}  # series so far, and what stands before each number

    def page(self, series: SeriesTable) -> str:
        text: list[str] = []
        for name, count, values in series.snapshot():
            known, before = self._families.get(name, (0, []))
            for start in range(known, count, TOGETHER):
                stop = min(start + TOGETHER, count)
                self._add(before, self._written([series.metric(name, start, stop)]))
                self._families[name] = stop, before
                time.sleep(TURN_S)
            text += map("".join, zip(before, map(floatToGoString, values), strict=True))
        return "\n".join([*text, self._end]) if text else self._end

    def _written(self, metrics: list[Metric]) -> str:
        return self._encode(cast(CollectorRegistry, _Registry(metrics))).decode()

    def _add(self, before: list[str], written: str) -> None:
        """Cut what is written of some series of a family, of which `before` has those before them."""
        head = ""
        for line in written.removesuffix(self._end).removesuffix("\n").split("\n"):
            if not line.startswith("#"):
                before.append(head + line[: line.rindex(" ") + 1])
                head = ""
            elif not before:
                head += f"{line}\n"


class _Registry:
    """As much of a registry as is asked for by what writes its metrics."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
