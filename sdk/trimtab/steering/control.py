"""What a person asks of a run: commands in a directory beside its log that only the run's owner can write.

    <run directory>/control/<time>-<pid>.json     asked for, renamed into place
                            <time>-<pid>.taken    the run has it
                            <time>-<pid>.done     what became of it, for the one who asked

Each command is a file of its own, so that none is lost, and it is taken by a rename, so that none is carried out twice.
No thread, no socket; the reader is one `stat` every half a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from trimtab import files, renaming
from trimtab.actions import Action
from trimtab.errors import ConfigError
from trimtab.policies import reading
from trimtab.types import Outcome

DIRECTORY = "control"
LARGEST = 16_384  # bytes
INTERVAL_S = 0.5
MOST = 100  # commands that are taken at a look, at 0.5 ms each: training waits for them

Kind: TypeAlias = Literal["pause", "resume", "stop", "adjust"]
KINDS: tuple[Kind, ...] = ("pause", "resume", "stop", "adjust")

_COMMAND = re.compile(r"\d{20}-\d{1,10}\.json")
_ANSWER = re.compile(r"\d{20}-\d{1,10}\.done|\.\d{20}-\d{1,10}\.done\.\d+")  # or what a full disk left of one
_TAKEN = re.compile(r"(\d{20}-\d{1,10})\.taken")
_TOLD = 20  # files that are not taken up, each in a sentence; whoever makes ever more of them cannot fill the record
_LOOKS = 5  # at a directory after it changed: a file may come within the same tick of the clock that stamps it


@dataclass(frozen=True, slots=True)
class Command:
    """What a person asked for. `actions` are carried out in their order; a pause and its end have none."""

    id: str
    kind: Kind
    run_id: str  # of the run that was meant
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command, in a sentence."""

    outcome: Outcome
    step: int
    text: str


class Control:
    """The run's side: takes commands, in the order in which they were given, and answers them.

    Args:
        directory: of the run.
        run_id: commands for another run of the same name are refused.
        resumed: but not when this run goes on with that one; then only its `stop` is refused.
        say: `(kind, text)`, called where the user should be told that something here cannot be read.
    """

    def __init__(self, directory: Path, run_id: str, *, resumed: bool = False, say: Callable[[str, str], None]) -> None:
        self._directory = directory / DIRECTORY
        self._run_id = run_id
        self._resumed = resumed
        self._say = say
        self._next = 0.0
        self._changed = 0
        self._looks = 0
        self._ignored: set[str] = set()
        self._told = 0  # files that were not taken up

    def open(self) -> None:
        """Make the directory, and answer what an earlier run left unfinished. Raises OSError when that cannot be."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        if _problem(os.lstat(self._directory), stat.S_ISDIR):  # what is in it is not ours; `poll` says so
            return
        names = os.listdir(self._directory)
        for name in filter(_ANSWER.fullmatch, names):
            (self._directory / name).unlink(missing_ok=True)
        for taken in filter(None, map(_TAKEN.fullmatch, names)):
            self._answer(taken[1], "failed", 0, "the run ended while it was carried out; see its log")

    def poll(self, now: float) -> Sequence[Command]:
        """New commands. `now` is any clock in seconds. Costs 0.1 us, twice a second 3 us; raises nothing."""
        if now < self._next:
            return ()
        self._next = now + INTERVAL_S
        found: list[Command] = []
        try:
            changed = self._directory.stat().st_mtime_ns
            if changed != self._changed:
                self._changed, self._looks = changed, _LOOKS
            if self._looks:
                self._looks -= 1
                for command in self._new():
                    if self._claim(command):
                        found.append(command)  # at once: what is claimed must not be lost to a fault that follows
        except OSError as error:  # taken away, or a disk that is
            self._say("control gone", f"{self._directory} cannot be used: {error.strerror}. Commands are not taken up.")
            self._next = now + 60 * INTERVAL_S
        return found

    def acknowledge(self, command: Command, outcome: Outcome, text: str, *, step: int) -> None:
        """Say what became of a command that was taken. Raises OSError when that cannot be written."""
        self._answer(command.id, outcome, step, text)

    def _new(self) -> Iterator[Command]:
        problem = _problem(os.lstat(self._directory), stat.S_ISDIR)
        if problem:
            self._say("control open", f"{self._directory} {problem}. Commands are not taken up.")
            return
        names = [name for name in os.listdir(self._directory) if _COMMAND.fullmatch(name) and name not in self._ignored]
        for name in sorted(names)[:MOST]:
            id = name.removesuffix(".json")
            try:
                content = _read(self._directory / name)
            except FileNotFoundError:  # withdrawn
                continue
            except (ConfigError, OSError) as error:
                self._ignored.add(name)
                self._tell(f"{self._directory / name} is ignored: {error}")
                continue
            try:
                yield _decode(id, content)
            except ConfigError as error:
                if self._take(id):
                    self._tell(f"{self._directory / name} is refused: {error}")
                    self._answer(id, "refused", 0, str(error))

    def _tell(self, text: str) -> None:
        """Each file is told of, up to a number of them."""
        self._told += 1
        if self._told <= _TOLD:
            self._say(f"control {self._told}", text)
        elif self._told == _TOLD + 1:
            self._say("control", f"{text} Of further files in {self._directory} that are no commands nothing is said.")

    def _take(self, id: str) -> bool:
        """Whether the command is ours now. It is not where it was withdrawn."""
        try:
            (self._directory / f"{id}.json").rename(self._directory / f"{id}.taken")
        except FileNotFoundError:
            return False
        return True

    def _claim(self, command: Command) -> bool:
        if not self._take(command.id):
            return False
        if command.run_id == self._run_id or (self._resumed and command.kind != "stop"):
            return True
        self._answer(command.id, "refused", 0, "it was meant for an earlier run of this name")
        return False

    def _answer(self, id: str, outcome: Outcome, step: int, text: str) -> None:
        _write(self._directory, f"{id}.done", {"outcome": outcome, "step": step, "text": text})
        (self._directory / f"{id}.taken").unlink(missing_ok=True)


def send(directory: Path, run_id: str, kind: Kind, actions: Sequence[Action] = ()) -> str:
    """Ask the run in `directory` for something; returns the id of the command.

    Raises ConfigError when that run takes no commands, or belongs to somebody else.
    """
    place = directory / DIRECTORY
    try:
        problem = _problem(os.lstat(place), stat.S_ISDIR)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{directory} takes no commands: {place} is missing. Is it the directory of a run?"
        ) from error
    if problem:
        raise ConfigError(f"{place} {problem}. Steer the run as the user who started it.")
    id = f"{time.time_ns():020d}-{os.getpid()}"
    described = [reading.describe(action) for action in actions]
    try:
        _write(place, f"{id}.json", {"command": kind, "run_id": run_id, "actions": described})
    except OSError as error:
        raise ConfigError(
            f"{place} cannot be written: {error.strerror}. Steer the run from its own machine."
        ) from error
    return id


def answer(directory: Path, id: str) -> Answer | None:
    """What became of a command; None while the run has not answered. It can be asked until there is an answer.

    Raises ConfigError where the answer cannot be read.
    """
    done = directory / DIRECTORY / f"{id}.done"
    try:
        content = json.loads(_read(done))
        found = Answer(content["outcome"], int(content["step"]), str(content["text"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
        raise ConfigError(f"{done} is no answer of a run. What became of the command stands in its log.") from error
    with contextlib.suppress(OSError):
        done.unlink()
    return found


def withdraw(directory: Path, id: str) -> bool:
    """Take a command back. False when the run has it already."""
    try:
        (directory / DIRECTORY / f"{id}.json").unlink()
    except FileNotFoundError:
        return False
    return True


def _decode(id: str, content: bytes) -> Command:
    try:
        given: Any = json.loads(content)
        kind, run_id, actions = given["command"], given["run_id"], given["actions"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError("it is no command. Use `trimtab pause`, `resume`, `stop` or `adjust`.") from error
    if kind not in KINDS or not isinstance(run_id, str) or not isinstance(actions, list):
        raise ConfigError(f"it is no command: {str(kind)[:40]!r} is none of {', '.join(KINDS)}.")
    for action in actions:
        if not isinstance(action, dict) or str(action.get("action")) not in reading.ACTIONS:
            raise ConfigError(f"it names an action that Trimtab does not have: {str(action)[:40]}.")
    return Command(id, kind, run_id, tuple(reading.action(action, where=kind, known=()) for action in actions))


def _read(path: Path) -> bytes:
    """The content of a file that nobody but us can have written. Raises ConfigError, or OSError as for a symlink."""
    with files.opened(path) as file:
        status = os.fstat(file.fileno())
        problem = _problem(status, stat.S_ISREG)
        if problem:
            raise ConfigError(f"it {problem}.")
        if status.st_size > LARGEST:
            raise ConfigError(f"it is larger than {LARGEST} bytes.")
        return file.read(LARGEST)


def _write(directory: Path, name: str, content: Any) -> None:
    renaming.put(directory / name, json.dumps(content), by=f".{name}.{os.getpid()}", mode=0o600)


def _problem(status: os.stat_result, expected: Callable[[int], bool]) -> str | None:
    """Why what `status` describes is not to be trusted."""
    if not expected(status.st_mode):
        return "is no directory" if expected is stat.S_ISDIR else "is no regular file"
    me = getattr(os, "geteuid", lambda: status.st_uid)()
    if status.st_uid != me:
        return f"belongs to user {status.st_uid}, not to user {me}"
    return "can be written by others" if status.st_mode & 0o022 else None
