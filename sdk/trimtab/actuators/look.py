"""Whether a model is still what it was: when a validation began, or when a snapshot was taken."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from typing import Any

from trimtab.actuators.parts import Parts, buffers_of, parameters_of
from trimtab.marks import Marks


class Look:
    """At all parameters, and at which buffers there are. 5 us a parameter, no wait."""

    def __init__(self, parts: Parts) -> None:
        self._marks = Marks([parameter for _, parameter in parameters_of(parts)])
        self._places = _places(parts)
        self._models = [weakref.ref(model) for model in parts.models.values()]

    def is_same(self, parts: Parts) -> bool:
        """Whether nothing has changed, as far as that can be told. Waits for the device.

        Parameters may outlive their model, which has no buffers then.
        """
        if self._marks.are_others():
            return False
        is_gone = any(model() is None for model in self._models)
        return is_gone or not self._marks.are_known or self._places == _places(parts)


def late_buffer(parts: Parts, covered: Collection[Any]) -> str | None:
    """One that a module got after it was `covered`, and that belongs to its weights, as the mask of a pruned one does.

    Not one that no `state_dict` has: that is a table which can be made again.
    """
    for name, module, own_name, buffer in buffers_of(parts):
        is_late = ("module", id(module)) in covered and (id(module), own_name) not in covered
        if is_late and buffer is not None and own_name not in module._non_persistent_buffers_set:
            return name
    return None


def _places(parts: Parts) -> set[tuple[int, str]]:
    return {(id(module), name) for _, module, name, _ in buffers_of(parts)}
