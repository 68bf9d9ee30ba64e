"""The page that a scrape gets.

`prometheus_client` writes it: names, escapes, order, numbers, and which of its formats a scraper is given. But what it
writes for 1,000 series takes 10 ms (text) to 15 ms (OpenMetrics) of Python, in which training stands still. All of it
but the numbers is the same until a series is added, so it is written once for each format, cut where the numbers
stand, and from then on only numbers are written: 1 ms.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable

    from trimtab_backends.series import SeriesTable

FORMATS_KEPT = 4  # a scraper names a version and an escaping; nobody may fill the memory by naming ever new ones


class Exposition:
    """The metrics of one run as pages of text. May be asked from several threads; they take turns."""

    def __init__(self, series: SeriesTable) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(series)
        self._series = series
        self._templates: dict[str, _Template] = {}
        self._lock = threading.Lock()

    def page(self, accept: str) -> tuple[str, bytes]:
        """The content type and the body for an `Accept` header."""
        encode, content_type = choose_encoder(accept)
        with self._lock:
            template, values = self._template(content_type, encode)
        return content_type, template.filled(values)

    def _template(
        self, content_type: str, encode: Callable[[CollectorRegistry], bytes]
    ) -> tuple[_Template, list[float]]:
        while True:
            layout, values = self._series.snapshot()
            template = self._templates.get(content_type)
            if template is not None and template.layout == layout:
                return template, values
            # A series that is added just now is on this page but not in `layout`: the next round sees it.
            if len(self._templates) >= FORMATS_KEPT:
                self._templates.clear()
            self._templates[content_type] = _Template.cut(layout, encode(self.registry).decode())


@dataclass(frozen=True, slots=True)
class _Template:
    """A page without its numbers: what stands before each of them, and after the last."""

    layout: int
    before: list[str]
    after: str

    @classmethod
    def cut(cls, layout: int, page: str) -> _Template:
        before: list[str] = []
        text = ""
        for line in page.removesuffix("\n").split("\n"):
            if line and not line.startswith("#"):
                before.append(text + line[: line.rindex(" ") + 1])
                text = "\n"
            elif line:
                text += f"{line}\n"
        return cls(layout, before, text)

    def filled(self, values: list[float]) -> bytes:
        numbers = map(floatToGoString, values)
        return ("".join(map("".join, zip(self.before, numbers, strict=True))) + self.after).encode()
