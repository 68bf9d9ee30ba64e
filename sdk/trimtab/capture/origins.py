"""Where a validation loss comes from that no loader feeds: what tells one pass over tensors from the next.

Two passes are called from different lines (`evaluate(val)`, `evaluate(test)`), or one reads what training does, or the
user's own code names what it evaluates (`for split in ("train", "val")`). All three can be seen from the call of the
loss function, and only of validation that has no loader, so what it costs does not matter.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.data import TensorDataset

from trimtab.sample.scalars import are_equal, is_telling

TRAINING_STORAGES = 16  # that are remembered
LOOKS = 256  # at targets of training: data that is not met by then is met seldom
TRAINING = {"train", "training"}
VALIDATION = {"val", "valid", "validation", "dev", "eval", "evaluation"}
TEST = {"test", "testing"}
SPLITS = TRAINING | VALIDATION | TEST
GIVES_LOCALS_AWAY = {"locals", "vars", "dir", "eval", "exec"}
LONGEST_SPLIT = max(map(len, SPLITS))


class Origin(NamedTuple):
    """Of one batch."""

    path: int  # the lines of the functions through which the loss was called
    splits: tuple[tuple[str, str], ...]  # variables of the user's own that name a split
    texts: frozenset[str] = frozenset()  # ... and all that hold any text
    shares_storage: bool = False  # with what training reads
    is_training_data: bool = False  # some of it
    is_other_data: bool = False  # than training reads, for certain

    @property
    def place(self) -> tuple[object, ...]:
        """The same for all batches of one pass, and in every pass over the same data."""
        return self.path, self.splits, self.shares_storage


class Origins:
    """Remembers what training reads: storages by weak references, and a copy of the first targets."""

    def __init__(self) -> None:
        self._looks_left = LOOKS
        self._training: list[_Part] = []
        self._loaded: list[_Part] = []  # of datasets of tensors, through loaders
        self._first: Tensor | None = None  # targets of training, where they tell its data from others

    def trained_on(self, target: Tensor | None) -> None:
        """These are targets of a training loss that no loader feeds."""
        if target is None or self._looks_left == 0:
            return
        self._looks_left -= 1
        if self._first is None and is_telling(target):
            self._first = target.detach().clone()
        known = self._known(target)
        if known is not None:
            known.extend(target)
        elif len(self._training) < TRAINING_STORAGES:
            self._training.append(_Part(target))

    def loaded(self, data: object) -> None:
        """A loader feeds training with all of `data`."""
        if type(data) is TensorDataset:
            parts = [_Part(tensor) for tensor in data.tensors if tensor.layout is torch.strided]
            self._loaded = [part for part in self._loaded if part.lives][-TRAINING_STORAGES:] + parts

    def of(self, target: Tensor | None) -> Origin:
        """Of the loss function that is being called with `target`. About 20 us."""
        frames = list(_callers(sys._getframe(1)))
        path = hash(tuple((frame.f_code, frame.f_lasti) for frame in frames))
        texts = list(_texts_of(frames))
        origin = Origin(path, tuple(_splits(texts)), frozenset(name for name, _ in texts))
        if target is None:
            return origin
        known = [part for part in (*self._training, *self._loaded) if part.is_of(target)]
        if known:
            is_read = any(part.overlaps(target) for part in known)
            return origin._replace(shares_storage=True, is_training_data=is_read)
        if self._first is not None and are_equal(self._first, target):
            return origin._replace(is_training_data=True)
        is_part = target.untyped_storage().nbytes() > target.numel() * target.element_size()
        return origin._replace(is_other_data=is_part and any(part.lives for part in self._training))

    def _known(self, target: Tensor) -> _Part | None:
        return next((part for part in self._training if part.is_of(target)), None)


class Evaluated:
    """Targets that were evaluated, known by their storage: those of a fixed validation set come again."""

    def __init__(self) -> None:
        self._parts: list[tuple[_Part, int]] = []

    def is_new(self, target: Tensor, trained: int) -> bool:
        """Whether none but these were evaluated since the newest of so many trainings, and not before it either."""
        self._parts = [(part, when) for part, when in self._parts if part.lives][-TRAINING_STORAGES:]
        first = next((when for part, when in self._parts if part.is_of(target)), None)
        if first is None:
            self._parts.append((_Part(target), trained))
        others = any(when == trained and not part.is_of(target) for part, when in self._parts)
        return first in (None, trained) and not others


class _Part:
    """What was read of one storage."""

    def __init__(self, tensor: Tensor) -> None:
        # While this is held, no other storage takes its address.
        self._storage: Any = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        self._first, self._end = _extent(tensor)

    @property
    def lives(self) -> bool:
        return not self._storage.expired()

    def is_of(self, tensor: Tensor) -> bool:
        return bool(tensor.untyped_storage()._cdata == self._storage.cdata)

    def extend(self, tensor: Tensor) -> None:
        first, end = _extent(tensor)
        self._first, self._end = min(first, self._first), max(end, self._end)

    def overlaps(self, tensor: Tensor) -> bool:
        first, end = _extent(tensor)
        return first < self._end and self._first < end


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The elements of its storage between which `tensor` lies."""
    first = int(tensor.storage_offset())
    last = first + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return first, int(last) + 1


def named(origins: Sequence[Origin | None]) -> list[str | None]:
    """What the user's code calls the data behind each of them, by the variables in which they differ.

    A variable counts only where each of them has it, with a text in it: one that came to be between two passes tells
    what the code has done since, and not what it evaluates.
    """
    if not all(origins):
        return [None] * len(origins)
    known = [origin for origin in origins if origin is not None]
    everywhere = frozenset.intersection(*(origin.texts for origin in known))
    splits = [{(name, value) for name, value in origin.splits if name in everywhere} for origin in known]
    common = set.intersection(*splits)
    own = [{value for _, value in each - common} for each in splits]
    return [next(iter(values)) if len(values) == 1 else None for values in own]


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames behind ours, inside out."""
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith("trimtab."):
            yield frame
        frame = frame.f_back


def _texts_of(frames: Iterable[FrameType]) -> Iterator[tuple[str, str]]:
    for frame in frames:
        if frame.f_globals.get("__name__", "").partition(".")[0] != "torch":
            yield from _strings(frame)


def _splits(texts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for name, value in texts:
        if len(value) <= LONGEST_SPLIT and value.lower() in SPLITS:
            yield name, value.lower()


def _strings(frame: FrameType) -> list[tuple[str, str]]:
    """The variables of a frame that hold text.

    Before Python 3.13 a function's frame that is asked makes a dictionary of its variables, and keeps it. So it is
    emptied again, or the user's tensors would live longer; and who may hold that dictionary already is not asked.
    """
    code = frame.f_code
    if not code.co_flags & inspect.CO_OPTIMIZED:  # a module, whose variables are in a dictionary anyway
        return _texts(frame.f_locals)
    if _gives_its_variables_away(code) or sys.gettrace() is not None:
        return []
    variables = frame.f_locals
    found = _texts(variables)
    if sys.version_info < (3, 13):
        variables.clear()
    return found


def _texts(variables: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in list(variables.items()) if type(value) is str]


@functools.lru_cache(maxsize=256)
def _gives_its_variables_away(code: CodeType) -> bool:
    """Whether a function calls `locals()` or its like. `model.eval()` is none of them."""
    if GIVES_LOCALS_AWAY.isdisjoint(code.co_names):
        return False
    return any(i.opname == "LOAD_GLOBAL" and i.argval in GIVES_LOCALS_AWAY for i in dis.get_instructions(code))
