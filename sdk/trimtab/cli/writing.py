"""Writes what a command makes into the directory that `-o` names."""

from __future__ import annotations

from pathlib import Path

from trimtab.errors import ConfigError


def write(path: Path, text: str) -> Path:
    """Returns `path`. Raises ConfigError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"-o {path.parent}: {path.name} cannot be written ({error.strerror}).") from error
    return path
