"""Whether a process of this machine lives, told from a later one that was given the same number."""

from __future__ import annotations

import os
from pathlib import Path


def started(pid: int) -> str:
    """When process `pid` began, as Linux says it: boot, and clock ticks since. Empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{boot}/{after_name[19]}"  # field 22 of proc(5): starttime
    except (OSError, IndexError):
        return ""


def lives(pid: int, start: str | None) -> bool:
    """Whether process `pid` is there, and is the one that began at `start`, as far as that is known of both."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    found = started(pid)
    return not (start and found) or found == start
