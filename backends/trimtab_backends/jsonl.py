"""The record of a run: JSON Lines on disk, one whole object a line, append-only.

A batch becomes one `write` to the file, so what was handed over survives `kill -9`. A batch that does not fit (disk
full, quota) is taken back whole: it leaves no half a line, and the count of what was lost is exact. A process that is
killed in the middle of a write may leave one, which the next run ends. Where the file was moved or removed meanwhile,
the next batch begins it anew.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from trimtab.errors import BackendError
from trimtab.guard import text_of
from trimtab.types import Event, RunInfo, nonfinite_paths

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from structlog.typing import Processor


DEEPEST = 16  # values in values that a line holds where one of them holds itself


class JsonlBackend:
    """Writes `<run.directory>/rank-<rank>.jsonl`. Costs about 15 us for each event, in a thread of its own."""

    def __init__(self) -> None:
        self.address: str | None = None
        self._path = ""
        self._file: int | None = None
        self._lines: list[bytes] = []
        self._broken = False  # the file ends in the middle of a line
        self._record: Callable[..., Any]

    def start(self, run: RunInfo) -> None:
        """Open the file, and make its directory.

        Raises:
            BackendError: the directory cannot be made or the file cannot be opened.
        """
        path = run.log
        try:
            run.directory.mkdir(parents=True, exist_ok=True)
            self._open(str(path))
        except OSError as error:
            self.close()
            raise BackendError(
                f"directory={str(run.config.directory)!r}: the log {path} cannot be written ({error.strerror}). "
                "Give one that can be written to, with directory= or TRIMTAB_DIR."
            ) from error
        self._record = _recorder(self._lines, run)
        shown = run.config.directory / run.run / path.name  # as short as the user wrote it
        self.address = str(shown if shown.absolute() == path else path)

    def _open(self, path: str) -> None:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.close()
        self._path, self._file = path, file
        self._broken = _ends_in_the_middle_of_a_line(file)

    def write(self, events: Sequence[Event]) -> None:
        """Append one line for each event, all in one piece.

        Raises:
            OSError: the batch does not fit, or the directory is gone; nothing of it is in the file.
        """
        self._lines.clear()
        for event in events:
            self._record(event.name, ts=event.ts, step=event.step, **dict(event.fields()))
        if self._lines and self._file is not None:
            if _is_elsewhere(self._file, self._path):
                self._open(self._path)
            self._append(self._file, b"\n".join(self._lines) + b"\n")

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, file: int, data: bytes) -> None:
        size = os.fstat(file).st_size
        data = b"\n" + data if self._broken else data
        try:
            done = 0
            while done < len(data):
                done += os.write(file, data[done:])
        except OSError:
            self._take_back(file, size)
            raise
        self._broken = False

    def _take_back(self, file: int, size: int) -> None:
        try:
            os.ftruncate(file, size)
        except OSError:
            self._broken = _ends_in_the_middle_of_a_line(file)


def _is_elsewhere(file: int, path: str) -> bool:
    """Whether it was moved or removed: who looks for the record under its name would not find what is written."""
    try:
        return not os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return True


def _ends_in_the_middle_of_a_line(file: int) -> bool:
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"


def _recorder(lines: list[bytes], run: RunInfo) -> Callable[..., Any]:
    """A function that takes an event's name and values, and appends its line to `lines`."""
    import structlog

    class Recorder(structlog.BoundLoggerBase):
        def record(self, event: str, **values: Any) -> Any:
            return self._proxy_to_logger("append", event, **values)

    # In the order in which they stand in the line; an event's values replace the Nones.
    head = {"ts": None, "event": None, "run": run.run, "run_id": run.run_id, "rank": run.rank, "step": None}
    # Made directly, not by `get_logger`: what the user's program configured for its own structlog stays out of it.
    return Recorder(lines, processors=[_stamp, _renderer()], context=head).record


def _stamp(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    moment = datetime.fromtimestamp(record["ts"], timezone.utc)
    record["ts"] = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return record


def _renderer() -> Processor:
    """The last processor: JSON in which NaN and Inf are null, with the paths of those in `nonfinite`."""
    import msgspec

    encode = msgspec.json.Encoder(enc_hook=_plain).encode

    def render(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> bytes:
        try:
            line = encode(record)
            # msgspec writes None, NaN and Inf as null: looking for the word costs a hundredth of walking each record.
            if b"null" not in line:
                return line
        except UnicodeEncodeError:
            pass
        except RecursionError:
            record = _cut(record)
        record = _cleaned(record)
        nonfinite = list(nonfinite_paths(record))
        return encode({**record, "nonfinite": nonfinite} if nonfinite else record)

    return render


def _plain(value: Any) -> Any:
    """What JSON has for a value of another type: subclasses of numbers and mappings as such, the rest as text."""
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return dict(value)
    return _text(text_of(value))


def _cut(value: Any, left: int = DEEPEST) -> Any:
    """The same value without what is nested deeper, which has no end where it holds itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {spec.name: getattr(value, spec.name) for spec in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _cut(item, left - 1) for key, item in value.items()} if left else "..."
    if isinstance(value, (list, tuple)):
        return [_cut(item, left - 1) for item in value] if left else "..."
    return value


def _cleaned(value: Any) -> Any:
    """The same value without the keys whose value is None, and without lone surrogates (from odd file names)."""
    if isinstance(value, str):
        return _text(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {spec.name: getattr(value, spec.name) for spec in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key): _cleaned(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    return value


def _key(value: Any) -> Any:
    return value if isinstance(value, int | float) else _text(text_of(value))


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()
