"""Which layers are shown one by one, and under which names."""

from __future__ import annotations

import fnmatch
import weakref
from collections.abc import Callable, Sequence

from torch import Tensor

LAYER_CAP = 200  # four series each, so that a rank stays under 1,000


class LayerChoice:
    """Chooses by pattern, up to a cap. `find_names` gives name and depth of each parameter, `say` tells the user."""

    def __init__(
        self,
        patterns: Sequence[str] | None,
        find_names: Callable[[Sequence[Tensor]], list[tuple[str, int]]],
        say: Callable[[str, str], None],
    ) -> None:
        self._patterns = patterns
        self._find_names = find_names
        self._say = say
        self._chosen: dict[str, tuple[list[weakref.ref[Tensor]], list[str | None]]] = {}
        self.depths: dict[str, int] = {}

    def names(self, optimizer: str, parameters: Sequence[Tensor]) -> list[str | None]:
        """The name of each parameter, None for those that are not shown. Found again when the parameters change."""
        known = self._chosen.get(optimizer)
        if known is None or not _are(known[0], parameters):
            known = self._chosen[optimizer] = (list(map(weakref.ref, parameters)), self._choose(parameters))
        return known[1]

    def _choose(self, parameters: Sequence[Tensor]) -> list[str | None]:
        found = self._find_names(parameters)
        names = [name for name, _ in found]
        wanted = [name for name in names if self._matches(name)]
        self._tell_idle_patterns(names)
        room = LAYER_CAP - len(self.depths.keys() - set(names))
        shown = set(_evenly(wanted, max(room, 0)))
        if len(shown) < len(wanted):
            self._say(
                "layers",
                f"{len(wanted)} layers match, at most {LAYER_CAP} are shown one by one: {len(shown)} of them, evenly "
                "by depth. All of them count in the figures of the whole model. Choose with layers=['encoder.*'].",
            )
        for name, depth in found:
            if name in shown:
                self.depths[name] = depth
        return [name if name in shown else None for name in names]

    def _matches(self, name: str) -> bool:
        return self._patterns is None or any(fnmatch.fnmatchcase(name, p) for p in self._patterns)

    def _tell_idle_patterns(self, names: Sequence[str]) -> None:
        for pattern in self._patterns or ():
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                some = ", ".join([*names[:5], "..."] if len(names) > 5 else names)
                self._say("layers", f"layers={pattern!r} matches no parameter. There are {len(names)}: {some}")


def _are(known: Sequence[weakref.ref[Tensor]], parameters: Sequence[Tensor]) -> bool:
    return len(known) == len(parameters) and all(one() is other for one, other in zip(known, parameters, strict=True))


def _evenly(names: Sequence[str], count: int) -> list[str]:
    if len(names) <= count:
        return list(names)
    return [names[index * len(names) // count] for index in range(count)]
