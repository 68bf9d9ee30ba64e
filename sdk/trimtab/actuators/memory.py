"""How much host memory snapshots may take when nobody said."""

from __future__ import annotations

from pathlib import Path

MOST_BYTES = 4 * 2**30
SHARE = 0.25  # of what is free

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def default_cap(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int:
    """The least of 4 GiB and a quarter of what is free, on the machine and in the container. Linux; elsewhere 4 GiB."""
    free = [amount for amount in (_free_on_machine(meminfo), _free_in_container(cgroup)) if amount is not None]
    return min(MOST_BYTES, *(int(SHARE * amount) for amount in free)) if free else MOST_BYTES


def _free_on_machine(meminfo: Path) -> int | None:
    for line in _read(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _free_in_container(cgroup: Path) -> int | None:
    limit, used = _read(cgroup / "memory.max").strip(), _read(cgroup / "memory.current").strip()
    return max(0, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
