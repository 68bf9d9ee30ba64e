"""What backward has given to the gradients of one optimizer, and whether they were cleared or applied since.

Told by one parameter, the probe: the version counter of its gradient is read before and after each backward (0.2 us).
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Iterable, Sequence
from threading import get_ident
from typing import Any, TypeVar

from torch import Tensor

from trimtab.sample.scalars import Held, sum_of
from trimtab.sample.seclusion import secluded

D = TypeVar("D")

UNCLEARED_LOSSES = 1024
LOOKED_AT = 4096  # elements of a large gradient, or a row if that has more, before all of it is: 3 ms for 2 million
UNKNOWN = -1  # the version of a gradient that is there, and that nobody noted
PARTS = 16  # beside the probe, at most
DOUBTED_FOR = 64  # backwards, after the newest part was found


class _Lost:
    """A parameter that is not held, in the place of a probe."""

    __slots__ = ("_parameter",)

    def __init__(self, parameter: Any) -> None:
        self._parameter = weakref.ref(parameter)

    @property
    def grad(self) -> Tensor | None:
        parameter = self._parameter()
        return None if parameter is None else parameter.grad


class Share:
    """What backward has given to the gradients that one optimizer will apply."""

    __slots__ = (
        "_changed_by_clip", "_is_kept", "_noted", "_overwritten", "_parts", "_replaced", "_stays", "_version", "doubts",
        "follows", "ids", "is_applied", "is_by_hand", "is_reached_in_parts", "left", "losses", "probe", "takes_all",
        "thread",
    )  # fmt: skip

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.ids = {id(p) for p in parameters}
        self.thread = get_ident()  # in which its backwards run
        self.probe: Tensor | _Lost = first_with_gradient(parameters, parameters[0])
        self.follows = False  # gradients are copied by hand from those of other tensors, one of which is the probe
        self.takes_all = False  # no gradient tells when a backward comes here, and there is nobody else it could be for
        self.is_by_hand = False  # nobody tells when it is applied
        self.is_reached_in_parts = False  # a backward came here, and not to the probe: several models, or heads
        self._parts: list[Tensor] = []  # a parameter of each of those, but for the probe's
        self._noted: list[int | None] = []  # the versions of their gradients, before the backward that runs
        self.doubts = 0  # backwards for which it may have parts that are not known
        self.losses: list[Held] = []  # since the gradients were last cleared
        self._overwritten: list[Held] = []  # before it, and after the last step, while the probe had no gradient
        self._version: int | None = None
        self.is_applied = False  # no backward came here since the last step
        self._changed_by_clip = False
        self.left = 0  # the id of the gradient, as the newest backward left it
        self._replaced = False  # a step used another one, of the user's own
        self._is_kept: bool | None = None  # of a device: the gradient outlived a step to which nobody wrote since
        self._stays = True  # the gradient is there between a step and the next backward: cleared in place, or never
        self.note_version()

    def begin(self, loss: Held) -> None:
        """Before a backward that finds no gradient: `loss` is the first since they were cleared."""
        self._overwritten = [] if self.is_applied else [*self._overwritten, *self.losses][-UNCLEARED_LOSSES:]
        self.losses = [loss]
        self._version = UNKNOWN
        self.is_applied = self._changed_by_clip = self._stays = False

    @property
    def is_of_own_gradients(self) -> bool:
        """Whether backward writes to the gradients of its own parameters, and to no others that are copied to these."""
        return not (self.follows or self.takes_all)

    @property
    def is_untouched(self) -> bool:
        """Whether the gradient is as the newest of several backwards left it: neither clipped nor divided."""
        gradient = self.probe.grad
        return gradient is not None and gradient._version == self._version

    @property
    def ordinary(self) -> bool:
        """Whether this step had one backward, which found no gradient, of a loss that nobody has to wait for."""
        return self._version == UNKNOWN and not self._stays and len(self.losses) == 1 and type(self.losses[0]) is float

    def catch_up(self, loss: Held, *, applied: bool) -> None:
        """`begin` was called for `loss`, and `applied` after it where that is said."""
        self.begin(loss)
        self.is_applied = applied

    def find_probe(self, parameters: Sequence[Tensor]) -> None:
        """Before a step, when the probe has no gradient: take a parameter that has. If none has, no loss came here."""
        if self.follows:
            return
        found = first_with_gradient(parameters, None)
        if found is None:
            self.losses = []
        else:
            self.look_at(found)

    def found_gradient(self, parameters: Sequence[Tensor]) -> bool:
        """Whether a parameter that is trained has a gradient, which is the probe from now on."""
        trained = () if self.follows else (p for p in parameters if p.requires_grad)
        found = first_with_gradient(trained, None)
        if found is not None:
            self.look_at(found)
        return found is not None

    def look_at(self, parameter: Tensor) -> None:
        """Take this parameter as its probe."""
        self.probe, self.left = parameter, id(parameter.grad)
        self.note_version()

    def add_part(self, parameter: Tensor) -> None:
        """A backward came here, and neither to the probe nor to a part that is known: take this one as its probe."""
        if isinstance(self.probe, Tensor):
            self._parts, self._noted = [self.probe, *self._parts][:PARTS], []
        self.is_reached_in_parts, self.doubts = True, DOUBTED_FOR
        self.look_at(parameter)

    def keep_parts(self) -> None:
        """Its optimizer has other parameters: forget those that are gone."""
        self._parts = [part for part in self._parts if id(part) in self.ids]

    def update_by_hand(self, parameters: Sequence[Tensor]) -> None:
        """Its parameters are updated by hand. The least gradient is the probe: it may be read before each backward."""
        self.is_by_hand = True
        self.look_at(min((p for p in parameters if p.grad is not None), key=Tensor.numel, default=parameters[0]))

    def let_go(self) -> None:
        """Its optimizer is gone: do not hold the probe. What a backward brings it is for who takes over."""
        self._parts = []
        if type(self.probe) is not _Lost:
            self.probe = _Lost(self.probe)

    def awaits_step(self, newest: Sequence[Held]) -> bool:
        """Whether a backward came here since the last step: one that is not applied yet, or one of `newest`."""
        losses = self.losses
        return bool(losses) and (not self.is_applied or any(loss is losses[-1] for loss in newest))

    def missed(self, gradient: Tensor | None) -> list[Held]:
        """Give away the losses that were taken for this share, and whose backwards brought it no gradient.

        They have brought `gradient` instead, whose version counts them: those before were cleared.
        """
        if self.is_applied or self.probe.grad is not None or gradient is None:
            return []
        losses = [*self._overwritten, *self.losses][-gradient._version - 1 :]
        self.losses, self._overwritten = [], []
        return losses

    def look(self) -> None:
        """Before a backward: notice that the gradients were cleared since the last look."""
        self._noted = [version_of(part) for part in self._parts]
        gradient = self.probe.grad
        if gradient is None:
            if self._version is not None or self.is_applied:
                self._clear()
            self._version, self._replaced = None, False
            return
        if self._replaced:  # what backward adds to it has nothing to do with the losses before
            self._replaced = False
            self._clear()
        version = gradient._version
        if self._version == UNKNOWN:
            self._stays = self.is_applied
            self._version = version
        if version != self._version:
            if self._changed_by_clip:
                cleared = is_zero(gradient)  # in place, with no step between
            else:  # where it is not, it was clamped, or given noise
                cleared = self.is_applied or not holds_something(gradient)
            if cleared and self._version is not None:
                self._clear()
            self._version = version
        elif (self.is_applied or self._waits_by_hand) and not self._outlives(gradient):
            self._clear()  # by `p.grad.data.zero_()`, which moves no version
        self._changed_by_clip = False

    @property
    def _waits_by_hand(self) -> bool:
        """Whether a backward came here whose clearing would be a step. Zeros of parameters that are done with stay."""
        return self.is_by_hand and bool(self.losses)

    def _outlives(self, gradient: Tensor) -> bool:
        """Whether a gradient that nobody is known to have written to is there still. A device is waited for, once."""
        local = local_of(gradient)
        if local.is_cpu or local.is_sparse:
            return holds_something(gradient)
        if self._is_kept is None:
            self._is_kept = has_any(local)
        return self._is_kept

    def reached(self) -> bool:
        """After a backward: whether it changed the gradient of the probe, or of a part, which is the probe then."""
        if self.takes_all:
            self.note_version()
            return True
        gradient = self.probe.grad
        if gradient is not None:
            version = gradient._version
            changed = version != self._version
            self._version, self.left = version, id(gradient)
            if changed:
                return True
        return self._parts != [] and self._is_part_reached()

    def _is_part_reached(self) -> bool:
        for at, (part, noted) in enumerate(zip(self._parts, self._noted, strict=False)):
            if version_of(part) != noted:
                if isinstance(self.probe, Tensor):
                    self._parts[at] = self.probe
                self.look_at(part)
                return True
        return False

    def note_version(self) -> None:
        """After somebody who does not clear (clipping, unscaling, a step) may have written to the gradients."""
        gradient = self.probe.grad
        self._version = None if gradient is None else gradient._version

    def applied(self) -> None:
        """After a step."""
        self.is_applied = True
        if self._version != UNKNOWN:
            self._changed_by_clip = False
            self._replaced = self._stays and self._is_replaced()
            self.note_version()
        if len(self.losses) > UNCLEARED_LOSSES:  # gradients that are never cleared
            self.losses = [sum_of(self.losses)]

    def _is_replaced(self) -> bool:
        """Whether the gradient is another tensor than a backward left. Versions only rise, and ids come again."""
        gradient = self.probe.grad
        if gradient is None or not self.left or self.follows or self.takes_all:
            return False
        return id(gradient) != self.left or (self._version is not None and gradient._version < self._version)

    def skipped(self) -> None:
        """After a step that was not taken."""
        self._changed_by_clip = False
        self.note_version()

    def is_among(self, gradients: Tensor | Sequence[Tensor]) -> bool:
        """Whether the gradient of the probe is one of these."""
        gradient = self.probe.grad
        if isinstance(gradients, Tensor):
            return gradient is gradients
        return gradient is not None and any(map(operator.is_, gradients, itertools.repeat(gradient)))

    def clipped(self) -> None:
        """Clipping or unscaling is about to write."""
        self._changed_by_clip = True

    def move(self, thread: int) -> None:
        """Its backwards run in another thread from now on."""
        self.thread = thread
        if self.is_applied:
            self._clear()

    def _clear(self) -> None:
        self.losses = []
        self.is_applied = False


def version_of(leaf: Tensor) -> int | None:
    """The version of its gradient, None where there is none."""
    return None if leaf.grad is None else leaf.grad._version


def first_with_gradient(parameters: Iterable[Tensor], default: D) -> Tensor | D:
    """The first of the parameters that has a gradient, else `default`."""
    return next((p for p in parameters if p.grad is not None), default)


def is_zero(gradient: Tensor) -> bool:
    """Whether a gradient is known to have no non-zero element, without waiting for a device."""
    gradient = local_of(gradient)
    return gradient.is_cpu and not gradient.is_sparse and not holds_something(gradient)


def local_of(gradient: Tensor) -> Tensor:
    """What this rank has of a DTensor: asking the whole would be a collective."""
    return getattr(gradient, "_local_tensor", gradient)


@secluded
def has_any(gradient: Tensor) -> bool:
    """Whether an element is not zero. Waits for a device."""
    return bool(gradient.detach().any())


@secluded
def holds_something(gradient: Tensor) -> bool:
    """Whether a gradient on the CPU has a non-zero element. False elsewhere, where looking would wait."""
    gradient = local_of(gradient)
    if not gradient.is_cpu or gradient.is_sparse:
        return False
    if gradient.requires_grad:  # after `create_graph=True`
        gradient = gradient.detach()
    every = 1 + gradient.numel() // LOOKED_AT
    return (every > 1 and bool(gradient[::every].any())) or bool(gradient.any())
