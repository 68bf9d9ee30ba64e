"""Which threads of the process are at work."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from types import FrameType

from trimtab import frames

_STANDARD = os.path.dirname(threading.__file__)
_PACKAGES = ("site-packages", "dist-packages")  # which stand in the same directory


class Backwards:
    """The threads that run backwards. torch frees what a graph has saved without Python's lock: to look at a graph
    through which another thread goes is to read freed memory.
    """

    def __init__(self) -> None:
        self.held = threading.RLock()  # by who looks at graphs: the backwards of others wait for that
        self._threads: set[int] = set()

    def begin(self) -> None:
        """A backward is about to run in this thread."""
        self._threads.add(threading.get_ident())
        with self.held:
            pass

    def are_alone(self, others: Iterable[int]) -> bool:
        """Whether neither `others`, by their idents, nor who ever ran a backward is at work, but for this thread."""
        others = self._threads.union(others) - {threading.get_ident()}
        if not others:
            return True
        living = frames.of_threads()
        self._threads.intersection_update(living)
        return not any(_is_at_work(living[thread]) for thread in others if thread in living)


def _is_at_work(frame: FrameType | None) -> bool:
    """Whether a thread that is in `frame` runs anybody's code: one of a pool that waits for a task does not."""
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith(_STANDARD) or any(part in path for part in _PACKAGES):
            return True
        frame = frame.f_back
    return False
