"""Writes files by renaming them into place, so that nobody reads half of one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def put(path: Path, content: str | bytes, *, by: str, mode: int = 0o666) -> None:
    """Have `content` stand at `path`, written under the name `by` beside it first. Raises OSError.

    Nothing is left of what fails, and nothing is written through a link that somebody else put under that name.
    """
    temporary = path.with_name(by)
    data = content.encode() if isinstance(content, str) else content
    try:
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
