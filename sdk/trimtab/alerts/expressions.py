"""Regular expressions of silences, matched in linear memory and bounded time, against the whole of a label.

Python's `re` holds the interpreter's lock and may take for ever on a hostile expression, and with it the training.
This reads the part of RE2's syntax that silences are written in, and follows all ways through an expression at once.
What it cannot read it says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

MAX_LENGTH = 512
MAX_DEPTH = 10  # groups within groups
MAX_REPEATS = 64
MAX_STEPS = 20_000  # about 10 ms
MAX_EFFORT = 200_000  # steps of all expressions that are read together, about 100 ms
READING = 10  # steps that a character of an expression takes to read

_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": lambda c: c in "0123456789",
    "w": lambda c: c.isascii() and (c.isalnum() or c == "_"),
    "s": lambda c: c in " \t\n\f\r",
}

Test: TypeAlias = Callable[[str], bool]


class Unreadable(ValueError):
    """An expression that is not understood, or takes too long."""


class Exhausted(Exception):
    """There is more to read than may be."""


class Effort:
    """What many expressions may take together, in steps. Raises Exhausted where they take more."""

    def __init__(self) -> None:
        self._left = MAX_EFFORT

    def spend(self, steps: int) -> None:
        """Count steps."""
        self._left -= steps
        if self._left < 0:
            raise Exhausted


@dataclass(slots=True)
class _Text:
    text: str
    effort: Effort
    steps: int = 0

    def step(self, count: int) -> None:
        self.effort.spend(count)
        self.steps += count
        if self.steps > MAX_STEPS:
            raise Unreadable("it takes too long")


# From the positions that a part may begin at to those that it may end at.
Part: TypeAlias = Callable[[_Text, "set[int]"], "set[int]"]


def matches(expression: str, text: str, effort: Effort | None = None) -> bool:
    """Whether the whole of `text` matches. Raises Unreadable, or Exhausted by `effort`. Costs 10 ms at most."""
    effort = effort or Effort()
    if len(expression) > MAX_LENGTH:
        raise Unreadable(f"it is longer than {MAX_LENGTH} characters")
    effort.spend(READING * len(expression))
    part = _Reader(expression).read()
    return len(text) in part(_Text(text, effort), {0})


class _Reader:
    """Recursive descent: alternatives of sequences of repeated atoms."""

    def __init__(self, expression: str) -> None:
        self._rest = list(reversed(expression))
        self._depth = 0

    def read(self) -> Part:
        part = self._alternatives()
        if self._rest:
            raise Unreadable("a bracket is closed that was not opened")
        return part

    def _alternatives(self) -> Part:
        parts = [self._sequence()]
        while self._next_is("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else _either(parts)

    def _sequence(self) -> Part:
        parts: list[Part] = []
        while self._rest and self._rest[-1] not in "|)":
            parts.append(self._repeated(self._atom()))
        return _after_another(parts)

    def _repeated(self, part: Part) -> Part:
        if self._next_is("*"):
            least, most = 0, -1
        elif self._next_is("+"):
            least, most = 1, -1
        elif self._next_is("?"):
            least, most = 0, 1
        elif self._next_is("{"):
            least, most = self._bounds()
        else:
            return part
        self._next_is("?")  # lazy: the same language
        if self._rest and self._rest[-1] in "*+?{":
            raise Unreadable("a repetition is repeated")
        return _times(part, least, most)

    def _bounds(self) -> tuple[int, int]:
        text = ""
        while self._rest and not self._next_is("}"):
            text += self._rest.pop()
        low, comma, high = text.partition(",")
        if not low.isdecimal() or not (high.isdecimal() or high == "") or max(int(low), int(high or 0)) > MAX_REPEATS:
            raise Unreadable(f"expected a number of repetitions up to {MAX_REPEATS}")
        return int(low), int(low) if not comma else int(high) if high else -1

    def _atom(self) -> Part:
        letter = self._rest.pop()
        if letter == "(":
            return self._group()
        if letter == "[":
            return _one(self._set())
        if letter == ".":
            return _one(lambda c: c != "\n")
        if letter == "\\":
            return _one(self._escaped())
        if letter == "^":
            return _at(lambda text: 0)
        if letter == "$":
            return _at(len)
        if letter in "*+?{":
            raise Unreadable("nothing stands before a repetition")
        return _one(lambda c: c == letter)

    def _group(self) -> Part:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("its groups are nested too deeply")
        if self._next_is("?") and not self._next_is(":"):
            raise Unreadable("groups with flags or names are not read")
        part = self._alternatives()
        if not self._next_is(")"):
            raise Unreadable("a bracket is not closed")
        self._depth -= 1
        return part

    def _escaped(self) -> Test:
        letter = self._rest.pop() if self._rest else ""
        if letter.lower() in _CLASSES:
            test = _CLASSES[letter.lower()]
            return test if letter.islower() else lambda c: not test(c)
        if not letter or letter.isalnum():
            raise Unreadable(f"\\{letter} is not read")
        return lambda c: c == letter

    def _set(self) -> Test:
        inverted = self._next_is("^")
        tests: list[Test] = []
        while not (tests and self._next_is("]")):
            if not self._rest:
                raise Unreadable("a set is not closed")
            tests.append(self._member())
        return lambda c: any(test(c) for test in tests) != inverted

    def _member(self) -> Test:
        low = self._rest.pop()
        if low == "[" and self._rest and self._rest[-1] == ":":
            raise Unreadable("named sets are not read")
        if low == "\\":
            return self._escaped()
        if len(self._rest) > 1 and self._rest[-1] == "-" and self._rest[-2] != "]":
            self._rest.pop()
            high = self._rest.pop()
            if high in "\\[" or high < low:
                raise Unreadable("expected a range such as a-z")
            return lambda c: low <= c <= high
        return lambda c: c == low

    def _next_is(self, letter: str) -> bool:
        if self._rest and self._rest[-1] == letter:
            self._rest.pop()
            return True
        return False


def _one(test: Test) -> Part:
    def part(text: _Text, starts: set[int]) -> set[int]:
        text.step(len(starts) + 1)
        letters = text.text
        return {at + 1 for at in starts if at < len(letters) and test(letters[at])}

    return part


def _at(place: Callable[[str], int]) -> Part:
    def part(text: _Text, starts: set[int]) -> set[int]:
        text.step(1)
        return starts & {place(text.text)}

    return part


def _after_another(parts: list[Part]) -> Part:
    """Every part costs a step at least, an empty sequence too: repeated within repetitions it would take for ever."""

    def sequence(text: _Text, starts: set[int]) -> set[int]:
        text.step(1)
        for part in parts:
            if not starts:
                break
            starts = part(text, starts)
        return starts

    return sequence


def _either(parts: list[Part]) -> Part:
    return lambda text, starts: set().union(*(part(text, starts) for part in parts))


def _times(part: Part, least: int, most: int) -> Part:
    """`most` of -1 is any number."""

    def repeated(text: _Text, starts: set[int]) -> set[int]:
        for _ in range(least):
            starts = part(text, starts)
        found = new = starts
        count = least
        while new and count != most:
            text.step(1)
            new = part(text, new) - found
            found = found | new
            count += 1
        return found

    return repeated
