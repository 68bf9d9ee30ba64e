"""Whether a process of this machine lives, told from a later one that was given the same number."""

from __future__ import annotations

import os
from pathlib import Path


def started(pid: int) -> str:
    """When process `pid` began, as Linux says it: boot, clock ticks since, and the namespace that numbers it so.

    Empty where the system does not say.
    """
    try:
        # Bytes, since Linux cuts the name of a process after 15 of them: it may end amid a letter.
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()
        return f"{_boot()}/{after_name[19]}/{_namespace()}"  # field 22 of proc(5): starttime
    except (OSError, IndexError):
        return ""


def lives(pid: int, start: str | None) -> bool | None:
    """Whether process `pid` is there, and is the one that began at `start`, as far as that is known of both.

    None where it cannot be told, since the number is of another namespace: a container that has the machine's name.
    """
    boot, _, rest = (start or "").partition("/")
    namespace = rest.partition("/")[2]
    try:
        if namespace and boot == _boot() and namespace != _namespace():
            return None
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    found = started(pid)
    return not (start and found) or found == start


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _namespace() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino)
