"""Replaces attributes of modules and classes while a run is active, and puts them back exactly."""

from __future__ import annotations

from typing import Any

from trimtab.capture.dynamo import know_again


class Patches:
    """A stack of replaced attributes. What somebody else put over ours since is theirs, and stays."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any, Any, bool]] = []

    def replace(self, owner: Any, name: str, replacement: Any) -> None:
        """Set `owner.name`. An attribute that a class inherits is deleted again on `restore`, not copied down."""
        own = name in vars(owner)
        original = vars(owner)[name] if own else getattr(owner, name)
        setattr(owner, name, replacement)
        self._undo.append((owner, name, original, replacement, own))

    def restore(self) -> None:
        """Put everything back, last first."""
        replaced = [(original, replacement) for _, _, original, replacement, _ in self._undo]
        while self._undo:
            owner, name, original, replacement, own = self._undo.pop()
            if vars(owner).get(name) is not replacement:
                continue
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)
        know_again(replaced)
