"""Files by which Prometheus finds runs (`file_sd_configs`): one for each process that serves metrics.

    <runs>/targets/<run_id>-<rank>.json    [{"targets": ["127.0.0.1:9464"], "labels": {"__meta_trimtab_run": ...}}]

A file is renamed into place and removed at a clean end. Its labels begin with `__`, so Prometheus drops them after
relabelling: `run` and `rank` come from the metrics themselves. The file's time of change is that of the last scrape or
record, to about a minute. Nothing here locks or waits, so a shared file system will do.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from trimtab import files, processes, renaming
from trimtab.types import RunInfo

State: TypeAlias = Literal["alive", "dead", "elsewhere", "silent"]

FOLDER = "targets"  # under the directory of runs
SILENT_AFTER_S = 3600.0  # without a scrape or a record; what runs on another machine cannot be asked otherwise
TOUCH_INTERVAL_S = 60.0
LARGEST = 16_384  # bytes of a file
_PREFIX = "__meta_trimtab_"
_LONGEST = 300  # characters of a text


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A process that serves metrics, as its file tells of it."""

    address: str  # host:port
    scheme: str
    run: str
    run_id: str
    rank: int
    host: str  # where the process runs
    pid: int
    process_start: str  # see `processes.started`

    @classmethod
    def of(cls, run: RunInfo, url: str) -> Target:
        """This process, which serves `run` under `url`."""
        parts, pid = urlsplit(url), os.getpid()
        return cls(
            address=parts.netloc,
            scheme=parts.scheme,
            run=run.run,
            run_id=run.run_id,
            rank=run.rank,
            host=str(run.facts.get("host", "")),
            pid=pid,
            process_start=processes.started(pid),
        )

    @property
    def url(self) -> str:
        """Where its metrics are."""
        return f"{self.scheme}://{self.address}/metrics"

    def state(self, host: str, age_s: float) -> State:
        """What is known of the process from `host`, when its file was touched `age_s` seconds ago."""
        lives = processes.lives(self.pid, self.process_start) if self.host == host else None
        if lives is None:
            return "silent" if age_s > SILENT_AFTER_S else "elsewhere"
        return "alive" if lives else "dead"


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a directory of targets. `target` is None where the file is none of ours."""

    path: Path
    target: Target | None
    age_s: float
    ours: bool = False  # whether the file is this user's: only then its address may be told a token


def folder(targets: Path | None, runs: Path) -> Path:
    """Where files belong: in what the setting `targets` says, or else in `targets` under the directory of runs."""
    return targets or runs / FOLDER


class TargetFile:
    """This process's own file. Raises OSError where it cannot be written."""

    def __init__(self, directory: Path, target: Target) -> None:
        self.path = directory.absolute() / f"{target.run_id}-{target.rank}.json"
        self._pid = os.getpid()
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_written(target), indent=2) + "\n"
        renaming.put(self.path, text, by=f".{self.path.name}.tmp")  # a name that no `*.json` finds
        self._touched_at = time.monotonic()

    def touch(self) -> None:
        """Say that the process lives. Touches the file once a minute at most."""
        now = time.monotonic()
        if now - self._touched_at > TOUCH_INTERVAL_S:
            self._touched_at = now
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def remove(self) -> None:
        """At a clean end; a forked child leaves its parent's file alone."""
        if os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def read(directory: Path) -> Iterator[Found]:
    """Every file of `directory`, by name. A file that goes away meanwhile is passed over.

    On a shared file system anybody may have written one: no link is followed, no pipe waited for, no name believed
    that a terminal would obey.
    """
    for path in sorted(directory.glob("*.json")):
        try:
            content, status = files.content(path, LARGEST)
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            yield Found(path, None, 0.0)
            continue
        age_s = max(0.0, time.time() - status.st_mtime)
        ours = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
        try:
            yield Found(path, _read(json.loads(content)), age_s, ours)
        except (ValueError, TypeError, LookupError, RecursionError):
            yield Found(path, None, age_s, ours)


def _written(target: Target) -> list[dict[str, Any]]:
    labels = {f"{_PREFIX}{name}": str(value) for name, value in asdict(target).items() if name != "address"}
    return [{"targets": [target.address], "labels": {"__scheme__": target.scheme, **labels}}]


def _read(content: Any) -> Target:
    (group,) = content
    (address,) = group["targets"]
    texts = {
        field.name: group["labels"][f"{_PREFIX}{field.name}"] for field in fields(Target) if field.name != "address"
    }
    told = (address, *texts.values())
    if not all(isinstance(text, str) and text.isprintable() and len(text) <= _LONGEST for text in told):
        raise ValueError("a text that no run writes")
    target = Target(**{**texts, "address": address, "rank": int(texts["rank"]), "pid": int(texts["pid"])})
    if not 0 < target.pid < 2**31 or target.scheme not in ("http", "https"):
        raise ValueError("a number or a scheme that no run writes")
    return target
