"""Which threads of the process are at work."""

from __future__ import annotations

import os
import sys
import threading
from types import FrameType

_STANDARD = os.path.dirname(threading.__file__)
_PACKAGES = ("site-packages", "dist-packages")  # which stand in the same directory


def is_at_work(thread: int) -> bool:
    """Whether a thread, by its ident, lives and runs anybody's code: one of a pool that waits for a task does not."""
    frame: FrameType | None = sys._current_frames().get(thread)
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith(_STANDARD) or any(part in path for part in _PACKAGES):
            return True
        frame = frame.f_back
    return False
