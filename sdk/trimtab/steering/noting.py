"""Controls that note what is changed through them, so that it is on record whatever the action makes of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, cast

from trimtab.actions import Change, Controls


def noting(controls: Controls) -> tuple[Controls, list[Change]]:
    """`controls` to give to an action, and every change that is made through them.

    An action may change one thing and refuse another, raise, or return less than it did.
    """
    changes: list[Change] = []
    return cast(Controls, _Noted(controls, changes)), changes


class _Noted:
    def __init__(self, controls: Controls, changes: list[Change]) -> None:
        self._controls = controls
        self._changes = changes

    def __getattr__(self, name: str) -> Callable[..., Any]:
        control = getattr(self._controls, name)

        @functools.wraps(control)
        def noted(*args: Any, **options: Any) -> Any:
            found = control(*args, **options)
            if isinstance(found, Change):
                self._changes.append(found)
            return found

        return noted


def together(changes: Iterable[Change]) -> Change:
    """Several changes, one after the other, as one: what each value was first, and what it came to."""
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    notes: dict[str, None] = {}
    for change in changes:
        before = {**change.before, **before}
        after.update(change.after)
        notes.setdefault(change.note)
    return Change(before, after, " ".join(filter(None, notes)))
