"""Who reads `/metrics`, and how often: so that at the end of a run the last state can wait to be read."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

SCRAPERS = 16  # that are told apart; more are not remembered
LONGEST_S = 60.0  # a scraper that comes less often is not waited for, unless a linger was asked for
GONE_AFTER = 2.5  # intervals without a visit
FORGOTTEN_S = GONE_AFTER * LONGEST_S  # without a visit, after which another one may take the place
SLACK = 1.2  # of an interval, for a scraper that is late


class Scrapers:
    """Remembers visits by client. `visited` is called by the server's threads, the rest by whoever ends the run."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._visits: dict[str, tuple[float, float | None]] = {}  # client to its last visit and the interval before
        self._changed = threading.Condition()

    def visited(self, client: str, at: float) -> None:
        """`client` has been given the page as it was at `at`, by the clock."""
        with self._changed:
            last, _ = self._visits.get(client, (None, None))
            if last is None and len(self._visits) >= SCRAPERS:
                self._visits = {known: visit for known, visit in self._visits.items() if at - visit[0] <= FORGOTTEN_S}
            if last is not None or len(self._visits) < SCRAPERS:
                self._visits[client] = (at, None if last is None else at - last)
            self._changed.notify_all()

    def due(self) -> dict[str, float]:
        """Scrapers that are expected again, and their intervals in seconds: seen twice, and not overdue."""
        now = self._clock()
        with self._changed:
            return {
                client: interval
                for client, (last, interval) in self._visits.items()
                if interval is not None and interval <= LONGEST_S and now - last <= GONE_AFTER * interval
            }

    def wait(self, since: float, longest_s: float | None) -> bool:
        """Wait until every expected scraper has come after `since`; whether all came.

        With `longest_s` that long at most, and for anybody where nobody is expected; without, one interval. Infinite
        is until the process is interrupted, whoever comes.
        """
        due = self.due()
        if longest_s is None:
            longest_s = SLACK * max(due.values(), default=0.0)
        with self._changed:
            if longest_s == math.inf:
                return self._changed.wait_for(lambda: False)
            return self._changed.wait_for(lambda: self._served(due, since), longest_s)

    def _served(self, due: dict[str, float], since: float) -> bool:
        visits = [last for client, (last, _) in self._visits.items() if not due or client in due]
        return bool(visits) and (min(visits) if due else max(visits)) > since
