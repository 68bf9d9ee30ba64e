"""Reads files that somebody else may have put there: no pipe is waited for, and no link followed unless asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def opened(path: Path, *, follows_link: bool = False) -> BinaryIO:
    """The file, to be read and closed. Raises OSError, for a link too."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags if follows_link else flags | getattr(os, "O_NOFOLLOW", 0))
    try:
        return open(descriptor, "rb")
    except OSError:  # a directory, which would stay open
        os.close(descriptor)
        raise


def content(path: Path, most: int, *, follows_link: bool = False) -> tuple[bytes, os.stat_result]:
    """All of it, and its status. Raises OSError, or ValueError for what is no file of at most so many bytes."""
    with opened(path, follows_link=follows_link) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise ValueError(f"{path}: no file of {most} bytes or less")
        return file.read(most), status
