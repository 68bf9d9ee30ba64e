"""Which git commit is checked out, read from git's own files.

Whoever may write above the working directory may have put them there: in a shared place, to have a file of ours read
and its beginning served with the metrics, or to have a run wait for a pipe. So a repository counts only if it belongs
to us or to root, as git has it; what is read is a regular file of a bounded size; and only a hash is told.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from trimtab import files

LARGEST = 1 << 20  # bytes, of the packed references of some 15,000 branches

_HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REFERENCE = re.compile(r"refs(?:/(?!\.)[^/\s\0]+)+")


def commit(directory: Path) -> str:
    """The commit of `directory` or of the nearest repository above it; an empty string where that cannot be told."""
    for place in (directory, *directory.parents):
        git = place / ".git"
        if os.path.lexists(git):
            try:
                found = _head(git)
            except (OSError, ValueError):  # also a path that no system takes, and what is no text
                return ""
            return found if _HASH.fullmatch(found) else ""
    return ""


def _head(git: Path) -> str:
    _check_ours(git)
    if not os.path.isdir(git):  # a worktree or a submodule
        git = (git.parent / _content(git).removeprefix("gitdir:").strip()).resolve()
        _check_ours(git)
    head = _content(git / "HEAD")
    if not head.startswith("ref:"):
        return head
    reference = head.removeprefix("ref:").strip()
    if not _REFERENCE.fullmatch(reference):
        return ""
    shared = git
    if os.path.lexists(git / "commondir"):
        shared = (git / _content(git / "commondir")).resolve()
        _check_ours(shared)
    for place in (git, shared):
        if os.path.lexists(place / reference):
            return _content(place / reference)
    lines = _content(shared / "packed-refs").splitlines() if os.path.lexists(shared / "packed-refs") else []
    return next((line.partition(" ")[0] for line in lines if line.endswith(f" {reference}")), "")


def _check_ours(path: Path) -> None:
    """Raises ValueError for what somebody else has put there, or a link of theirs leads to."""
    if hasattr(os, "geteuid") and not {os.lstat(path).st_uid, os.stat(path).st_uid} <= {0, os.geteuid()}:
        raise ValueError(f"{path}: of another user")


def _content(path: Path) -> str:
    """What is at the beginning of a regular file."""
    with files.opened(path) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path}: no file")
        return file.read(LARGEST).decode().strip()
