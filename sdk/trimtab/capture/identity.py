"""Tells things of the user's apart without holding them. An id may be given again as soon as a thing is gone."""

from __future__ import annotations

import weakref
from typing import Any, TypeVar

V = TypeVar("V")

ROOM = 64


class Same:
    """Equal to another of the same thing, and to no other. Of a list, which has no weak reference, its id must do."""

    __slots__ = ("_id", "_thing")

    def __init__(self, thing: Any) -> None:
        self._id = id(thing)
        try:
            self._thing: weakref.ref[Any] | None = weakref.ref(thing)
        except TypeError:
            self._thing = None

    def __call__(self) -> Any:
        """The thing, None where it is gone or cannot be told."""
        return None if self._thing is None else self._thing()

    def __hash__(self) -> int:
        return self._id

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Same) or self._id != other._id:
            return False
        thing = self()
        return thing is other() and (thing is not None or self._thing is None is other._thing)

    @property
    def is_gone(self) -> bool:
        """Whether the thing is no more, for certain."""
        return self._thing is not None and self._thing() is None


class Living(dict[Same, V]):
    """Values by things, which are dropped some time after the thing is gone."""

    __slots__ = ("_room",)

    def __init__(self) -> None:
        super().__init__()
        self._room = ROOM

    def __setitem__(self, thing: Same, value: V) -> None:
        if len(self) >= self._room:
            for gone in [each for each in self if each.is_gone]:
                del self[gone]
            self._room = max(ROOM, 2 * len(self))
        super().__setitem__(thing, value)
