"""Best and last state as files of the user's own kind: what `state_dict()` says of models, optimizers and scalers."""

from __future__ import annotations

import contextlib
import numbers
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from trimtab.actions import Refused
from trimtab.actuators.parts import Parts


def save(parts: Parts, path: Path, step: int) -> Path:
    """Write `parts` as they are now, after `step` steps, to `path`, which then holds the whole or is not there.

    The file is a dictionary: `step`; `models`, `optimizers` (by name, each for the `load_state_dict` of its own),
    `scalers` and `averages` (lists). It loads with `torch.load(path, weights_only=True)`. What such a file may not
    hold (objects of other packages in an optimizer's state) is left out, and named under `left_out`.

    Raises:
        Refused: as `write` does.
    """
    left_out: list[str] = []
    content = {
        "step": step,
        "models": {name: model.state_dict() for name, model in parts.models.items()},
        "optimizers": {label: optimizer.state_dict() for label, optimizer in parts.optimizers.items()},
        "scalers": [scaler.state_dict() for scaler in parts.scalers],
        "averages": [average.state_dict() for average in parts.averages],
    }
    plain = {key: _plain(value, key, left_out) for key, value in content.items()}
    return write({**plain, "left_out": left_out}, path)


def write(content: Mapping[str, Any], path: Path) -> Path:
    """Write `content` by rename: whoever finds the file finds it whole, and nothing is left of one that fails.

    Raises:
        Refused: it cannot be written, as on a disk that is full.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # a link that somebody else put there would be followed
        torch.save(content, partial)
        return partial.replace(path)
    except (OSError, RuntimeError) as error:  # the latter is what torch makes of a short write
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise Refused(f"{path} cannot be written ({error}). Is there room on its disk?") from error


Contents: TypeAlias = tuple[tuple[str, int, int], ...]
_DAMAGED = (OSError, EOFError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile)


def contents(path: Path) -> Contents:
    """What is in the file at `path` by name, size and checksum, read from its end; nothing where it is no such file."""
    try:
        with zipfile.ZipFile(path) as file:
            return tuple((each.filename, each.file_size, each.CRC) for each in file.infolist())
    except _DAMAGED:
        return ()


def is_whole(path: Path, expected: Contents) -> bool:
    """Whether the file at `path` holds every byte that `write` wrote, being what `contents` told then.

    Loading it would not tell. Reads it once. Where the user turned torch's checksums off, bytes are not looked at.
    """
    if not expected or contents(path) != expected:
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return not torch.serialization.get_crc32_options() or file.testzip() is None
    except _DAMAGED:
        return False


def _plain(value: Any, name: str, left_out: list[str]) -> Any:
    """`value` in types that `weights_only` knows."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {key: _plain(item, f"{name}.{key}", left_out) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{name}.{index}", left_out) for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    if isinstance(value, numbers.Number) and hasattr(value, "item"):  # NumPy's
        return value.item()
    left_out.append(name)
    return None
