"""What can go wrong, as a tree.

    TrimtabError
    ├── ConfigError (also ValueError)      an option, argument or file that cannot be used
    ├── RunActiveError                     a second run in one process
    ├── GrafanaError                       Grafana refused something, or cannot be reached
    └── BackendError                       a backend that was asked for and cannot start
        └── BackendUnavailable             ... because a package is missing

    HaltTraining (a BaseException)         raised in the loop, with on_halt="unwind" only

Only these are raised, and only where a run starts or you hand in a value. During training nothing of ours raises:
faults are caught by `guard`, counted, and reported once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # colours and the like: ECMA-48, 5.4


class TrimtabError(Exception):
    """The base of every error that Trimtab raises."""


class ConfigError(TrimtabError, ValueError):
    """A value that cannot be used. The message says what was given, what is allowed, and what to do."""


class RunActiveError(TrimtabError):
    """A second run was started while one is active in this process."""


class GrafanaError(TrimtabError):
    """Grafana refused something, or cannot be reached. `status` is that of its answer, None where there was none."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class BackendError(TrimtabError):
    """A backend that was asked for cannot start. The message says why, and what to do."""


class BackendUnavailable(BackendError):
    """A backend needs a package that is not installed. The message holds the install command."""


class HaltTraining(BaseException):
    """A policy or a person stops the training; best and last state were saved before. Only with `on_halt="unwind"`.

    It is raised at the beginning of a `backward`, and `watch` catches its own. Not an `Exception`, so that code that
    catches those around its steps does not swallow it.
    """


def did_you_mean(given: str, allowed: Iterable[str], otherwise: str = "Allowed: {}.") -> str:
    """The end of an error message: the nearest allowed name, or all of them, put into `otherwise`.

    >>> did_you_mean("promethus", ["console", "prometheus"])
    "Did you mean 'prometheus'?"
    """
    names = sorted(allowed)
    nearest = difflib.get_close_matches(given, names, n=1)
    return f"Did you mean {nearest[0]!r}?" if nearest else otherwise.format(", ".join(names))


MOST_SHOWN = 300  # characters of what somebody gave


def shortened(text: str) -> str:
    """`text`, or so much of its beginning that a sentence about it can still be read."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def printable(text: str) -> str:
    r"""`text` in one line, without what a terminal would obey: somebody else may have written it.

    >>> printable("loss\x1b[1m falls\x1b[0m,\nfast")
    'loss falls, fast'
    """
    return "".join(letter if letter.isprintable() else " " for letter in _ESCAPES.sub("", text))
