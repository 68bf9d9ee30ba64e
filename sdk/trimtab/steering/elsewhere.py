"""What other threads bring is done between two steps, never in the middle of one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Elsewhere:
    """What waits for the end of a step, in the order in which it came.

    `trains_alone()` says whether no thread but the calling one trains.
    """

    def __init__(self, trains_alone: Callable[[], bool]) -> None:
        self._trains_alone = trains_alone
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def waits(self) -> bool:
        """Whether there is anything to do at the end of the next step."""
        return bool(self._waiting)

    def bring(self, task: Callable[[], None]) -> None:
        """Call `task`, at once or while another thread trains at the end of its next step."""
        if self._trains_alone():
            task()
        else:
            self._waiting.append(task)

    def hear(self) -> None:
        """On the thread that trains, between two steps: do what has come."""
        while self._waiting:
            self._waiting.popleft()()
