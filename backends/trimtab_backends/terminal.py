"""Where the console's lines go: a plain stream, or a terminal on which others write too.

On a terminal the live line has the bottom row to itself: the scrolling region ends one row above it, as apt does it.
What the program prints, and tqdm draws, goes on above as if the terminal were a row shorter, whoever writes it and
through whichever stream. The other ways do not keep it whole: a line that is erased and drawn again in place wipes out
what was printed since, or is torn by it, unless `sys.stdout` and `sys.stderr` are replaced, which is not ours to do.

After `kill -9` the row stays reserved until the terminal is resized or `reset`.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from trimtab_backends.lines import Line

MIN_ROWS, MIN_COLUMNS = 5, 30

SAVE, RESTORE = "\x1b7", "\x1b8"  # cursor and style
NEW_ROW_BELOW = "\x1bD\x1b[A"  # scrolls where the cursor is on the last row; its column stays
CLEAR_ROW = "\x1b[2K"
WHOLE_SCREEN = "\x1b[r"


class Output(Protocol):
    """`say` adds a line for good, `show` replaces the live line, which has `columns`: 0 where there is none."""

    @property
    def columns(self) -> int: ...
    def say(self, line: Line) -> None: ...
    def show(self, line: Line) -> None: ...
    def close(self) -> None: ...


def open_output(stream: TextIO) -> Output:
    """The output that fits the stream, which may be an object of the program's that writes and flushes and no more."""
    is_whole = all(hasattr(stream, name) for name in ("isatty", "fileno", "encoding"))
    is_terminal = is_whole and stream.isatty() and os.name == "posix"
    return Terminal(stream) if is_terminal and (os.environ.get("TERM") or "dumb") != "dumb" else Plain(stream)


def speaks_utf8(stream: TextIO) -> bool:
    return _encoding(stream).lower().replace("-", "") == "utf8"


class Plain:
    """Whole lines without any escape sequence; no live line."""

    columns = 0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, line: Line) -> None:
        _write(self._stream, "".join(text for text, _ in line) + "\n")

    def show(self, line: Line) -> None:
        pass

    def close(self) -> None:
        pass


class Terminal:
    """Lines in colour, and the live line in the bottom row while this process is in the foreground."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import COLOR_SYSTEMS, Console
        from rich.text import Text

        self._stream = stream
        self._console = Console(file=stream, force_terminal=True)
        self._colors = COLOR_SYSTEMS.get(self._console.color_system or "")
        self._assemble = Text.assemble  # the run's own copy of rich, which is to import nothing later: see `apart`
        self._reserved: tuple[int, int] | None = None  # columns and rows for which the bottom row is ours
        self._styled([("\u2581", "bold")], 1)  # so that rich has looked up how wide such characters are

    @property
    def columns(self) -> int:
        """The last one stays free: a character there would make some terminals wrap."""
        return max(1, self._size()[0] - 1)

    def say(self, line: Line) -> None:
        """On a row of its own: an unfinished line, or a progress bar, that somebody left there stays whole."""
        columns = self._size()[0]
        # From the first column this fills the row and returns; from any other it ends in the first of the next.
        fresh_row = " " * columns + "\r" + CLEAR_ROW
        _write(self._stream, fresh_row + self._styled(line) + "\n")

    def show(self, line: Line) -> None:
        columns, rows = self._size()
        if columns < MIN_COLUMNS or rows < MIN_ROWS or not self._in_foreground():
            self.close()
            return
        reserve = "" if self._reserved == (columns, rows) else self._reserve(columns, rows)
        draw = f"{SAVE}\x1b[{rows};1H{CLEAR_ROW}{self._styled(line, columns - 1)}{RESTORE}"
        _write(self._stream, reserve + draw)

    def close(self) -> None:
        """Give the bottom row back, empty."""
        if self._reserved is not None:
            _, rows = self._reserved
            self._reserved = None
            _write(self._stream, f"{SAVE}{WHOLE_SCREEN}\x1b[{rows};1H{CLEAR_ROW}{RESTORE}")

    def _reserve(self, columns: int, rows: int) -> str:
        """After a change of size the old live line may be anywhere: better a stale line than to clear the user's."""
        again = f"{SAVE}{WHOLE_SCREEN}{RESTORE}" if self._reserved else ""
        self._reserved = (columns, rows)
        return f"{again}{NEW_ROW_BELOW}{SAVE}\x1b[1;{rows - 1}r{RESTORE}"

    def _styled(self, line: Line, columns: int | None = None) -> str:
        """What `Console.print` would write; that imports parts of rich each time."""
        text = self._assemble(*line, no_wrap=True)
        if columns is not None:
            text.truncate(columns, overflow="crop")
        pieces = []
        for piece, style, _ in text.render(self._console):
            if style is not None:
                style = style.without_color if self._console.no_color else style
                piece = style.render(piece, color_system=self._colors)
            pieces.append(piece)
        return "".join(pieces)

    def _size(self) -> tuple[int, int]:
        try:
            return os.get_terminal_size(self._stream.fileno())
        except OSError:
            return 80, 0

    def _in_foreground(self) -> bool:
        """In the background, somebody else has the screen. Without job control (torchrun, containers) nobody has."""
        with contextlib.suppress(OSError):
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        return True


def _write(stream: TextIO, text: str) -> None:
    """In one piece, whatever the encoding of the stream."""
    encoding = _encoding(stream) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def _encoding(stream: TextIO) -> str:
    """Empty where it does not say."""
    return getattr(stream, "encoding", None) or ""
