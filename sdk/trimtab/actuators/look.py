"""Whether weights are still those that a validation began with when it is known to be over."""

from __future__ import annotations

from trimtab.actuators.parts import Parts, buffers_of, parameters_of
from trimtab.marks import Marks


class Look:
    """At all parameters and at which buffers there are. 5 us a parameter, no wait."""

    def __init__(self, parts: Parts) -> None:
        self._marks = Marks([parameter for _, parameter in parameters_of(parts)])
        self._places = _places(parts)

    def is_same(self, parts: Parts) -> bool:
        """Whether nothing has changed, as far as that can be told. Waits for the device."""
        return not self._marks.are_known or (self._marks.are_now() and self._places == _places(parts))


def _places(parts: Parts) -> set[tuple[int, str]]:
    return {(id(module), name) for _, module, name, _ in buffers_of(parts)}
