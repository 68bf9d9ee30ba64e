"""DataLoader iterators: how long training waited, how many samples came, and when a pass is over.

The iterator's class is wrapped, so a loader's own type stays as it is. Workers, forked or spawned, run none of this.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
    default_convert,
)
from torch.utils.data.dataloader import _BaseDataLoaderIter, _DatasetKind

from trimtab.capture.identity import Same
from trimtab.capture.lengths import length_of
from trimtab.capture.patches import Patches

ATTRIBUTE = "_trimtab_pass"


class LoaderPass:
    """One pass over a loader."""

    __slots__ = (
        "_collates_itself", "_is_counted", "_iterator", "_kept", "_new", "_rest", "_spent", "batches", "complete",
        "data", "each", "exhausted", "is_batched", "is_evaluated", "is_plain", "items", "loader", "repeats", "samples",
        "sized", "validated_in", "wait_s",
    )  # fmt: skip

    def __init__(self, iterator: Any) -> None:
        self._iterator = weakref.ref(iterator)
        self.loader = Same(iterator._index_sampler)  # of every pass over one DataLoader
        self.data = Same(_data_of(iterator))  # of two loaders over the same samples
        self.sized, self.repeats = length_of(iterator._index_sampler), False
        if self.sized is None:
            self.sized = _round(iterator)
            self.repeats = self.sized is not None  # the iterator goes on after its end, with another pass
        self.each = _samples_of_each(iterator)  # of its batches but the last, where that is sure beforehand
        self._collates_itself = iterator._collate_fn not in (default_collate, default_convert)
        self.items, self._rest = _items_of_each(iterator)
        self.is_batched = iterator._auto_collation or issubclass(type(iterator._index_sampler), BatchSampler)
        self._is_counted = type(iterator._index_sampler) is BatchSampler  # nobody else's idea of a batch size
        self.is_plain = True  # whether the first dimension of a batch's first tensor is its samples
        self.batches = 0
        self.complete = False  # no more batches come, or none that were promised
        self.exhausted = False  # no more came
        self.validated_in: int | None = None  # the first gap between trainings in which it was
        self.is_evaluated = False  # whether a model was in eval mode, or grad was off, when the newest batch came
        self.samples = 0  # fetched, and not yet trained on or validated, but for those of batches that are kept
        self.wait_s = 0.0  # for those
        self._new: list[int] = []  # the sizes of the batches behind `samples`, while the general way counts them
        self._kept: list[int] = []  # ... of those that the newest training fetched for the next ones
        self._spent = 0  # samples, the newest time

    def fetched(self, samples: int, wait_s: float) -> None:
        """A batch came, for which the loop waited `wait_s`."""
        self.batches += 1
        self.samples += samples
        self.wait_s += wait_s
        self._new.append(samples)

    def size(self, batch: Any, number: int) -> int | None:
        """The samples in the batch of that `number`, from 1.

        A collate function of the user's may lay them out in any way (time first, a list of images, several rows for
        each item, one long row): they are as many as items were taken. Fewer only where it has left some out, and more
        where an item is a whole batch.
        """
        found = batch_size(batch)
        if not self._collates_itself and found is not None:
            return found
        if found is None:
            found, self.is_plain = _first_length(batch), False
        items = self._rest if number == self.sized else self.items
        if items == found and self.is_plain and _may_be_sequences(batch):  # as long as they are many, this time
            self.is_plain = False
        if items is not None and items != found and self._are_items(batch, found, items):
            found, self.is_plain = items, False
        elif self._collates_itself and items is None and (length := _common_length(batch)) is not None:
            found, self.is_plain = length, False
        return found

    def _are_items(self, batch: Any, found: int | None, items: int) -> bool:
        if found is None or _has_length(batch, items) or _is_time_first(batch, found, items):
            return True
        if found > items > 1:
            return self._is_counted or found % items == 0
        return found == 1 and _is_row(batch)

    def is_of_single_samples(self, counted: int) -> bool:
        """Whether a batch that is about to be spent was made of items by hand. A loss has `counted` its samples, or 0.

        An item of a loader that makes no batches may be a batch, or one sample whose first dimension is anything. A
        batch of tokens has more targets than samples; two items may be a batch, and one that was fetched ahead.
        """
        items = self.newly_fetched
        return counted == items > 1 if counted == self.samples else counted == items or items > 2

    def fed(self) -> bool:
        """Whether batches were counted as those that feed training, and are not spent. They count as new from now."""
        if self.samples and not self._new:
            self._new.append(self.samples)
        return self.samples > 0

    @property
    def ahead(self) -> int:
        """The batches that are kept for the next trainings."""
        return len(self._kept)

    @property
    def in_hand(self) -> int:
        """The batches that were not spent yet."""
        return len(self._kept) + len(self._new)

    @property
    def newly_fetched(self) -> int:
        """The batches that came since `spend`."""
        return len(self._new)

    def may_hold(self, counted: int) -> bool:
        """Whether a loss that has `counted` its targets, or 0, may be of a batch in hand, or of all: not of a part."""
        sizes = {*self._kept, *self._new}
        is_whole = not self.is_batched or any(size == 0 or counted % size == 0 for size in sizes)
        return is_whole or counted >= sum(self._kept) + self.samples

    def spend(self, ahead: int = 0) -> tuple[int, float]:
        """The samples that were not spent yet, but for those of the newest `ahead` batches, and the seconds waited."""
        sizes = self._kept + self._new
        kept = sizes[len(sizes) - ahead :]
        self._spent, wait_s = self.samples + sum(self._kept) - sum(kept), self.wait_s
        self._new, self._kept = [], kept
        self.samples, self.wait_s = 0, 0.0
        return self._spent, wait_s

    def is_newest(self, counted: int) -> bool:
        """Whether a loss of `counted` samples is of the batch that came last, and of none that is kept, by its size."""
        return self._new == [counted] and counted not in self._kept

    def is_of_one(self, counted: int, samples: int) -> bool:
        """Whether a loss of `counted` samples is of one batch alone, where several have these `samples`."""
        is_several = self.items is not None and samples > max(self.items, counted)
        return is_several and counted in (self.items, self._rest)

    @property
    def surplus(self) -> int:
        """The samples that were spent last, but for as many as the batch has that came last, which is kept."""
        return self._spent - self._kept[-1] if self._kept else 0

    def drop_ahead(self) -> int:
        """What is kept is for no training. The `surplus`."""
        surplus, self._kept = self.surplus, []
        return surplus

    def give_back(self, samples: int, wait_s: float) -> None:
        """What was spent last was not."""
        self.samples += samples
        self.wait_s += wait_s
        self._new.append(samples)

    def is_within(self, other: LoaderPass) -> bool:
        """Whether it was begun within another pass over the same loader, in which the loop still is."""
        return self is not other and self.loader == other.loader and other.held and not other.exhausted

    @property
    def held(self) -> bool:
        """Whether the loop has not dropped the iterator."""
        return self._iterator() is not None

    @property
    def reuses_iterator(self) -> bool:
        """Whether the next pass may come from the same iterator, or the iterator is gone."""
        return getattr(self._iterator(), "_persistent_workers", True) is not False

    @property
    def running(self) -> bool:
        """Whether more batches may come: not exhausted, and not dropped."""
        return not self.complete and self.held

    def restarts(self, followed: LoaderPass) -> bool:
        """Whether this is a new pass over the loader of `followed`, left by `break` or `islice` before its end.

        Or over the same data by a new loader, as they are made for each epoch. Not where the loop is still in that
        pass, and looks how it does on the data that it trains on.
        """
        if self is followed or (self.is_evaluated and followed.held):
            return False
        is_in_it = followed.held and not followed.exhausted
        return self.loader == followed.loader or (self.data == followed.data and not is_in_it)

    def goes_on(self, followed: LoaderPass) -> bool:
        """Whether it has more than the one batch for which `followed`, a pass over the same loader, was begun."""
        return self.loader == followed.loader and self.batches > followed.batches == 1


def watch_loaders(patches: Patches, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `wrap` of it in the place of `__next__`, through which every batch comes."""
    patches.replace(_BaseDataLoaderIter, "__next__", wrap(_BaseDataLoaderIter.__next__))


def pass_of(iterator: Any) -> LoaderPass:
    """The pass that an iterator is in. Kept on the iterator, so that it goes when the iterator goes."""
    current: LoaderPass | None = getattr(iterator, ATTRIBUTE, None)
    is_over = current is not None and current.repeats and current.complete
    if current is None or is_over or (iterator._num_yielded == 1 and current.batches):  # persistent workers reuse it
        current = LoaderPass(iterator)
        setattr(iterator, ATTRIBUTE, current)
    return current


def batch_size(batch: Any) -> int | None:
    """The first dimension of the first tensor in a batch of tensors, tuples, lists and mappings."""
    if type(batch) is list and batch and type(batch[0]) is Tensor and batch[0].ndim:  # what `default_collate` makes
        return batch[0].shape[0]
    for _ in range(4):
        if isinstance(batch, Tensor):
            return batch.shape[0] if batch.ndim else 1
        if isinstance(batch, list | tuple) and batch:
            batch = batch[0]
        elif isinstance(batch, Mapping) and batch:
            batch = next(iter(batch.values()))
        else:
            break
    graphs = getattr(batch, "num_graphs", None)  # PyTorch Geometric
    return graphs if isinstance(graphs, int) else None


def _first_length(batch: Any, depth: int = 3) -> int | None:
    """The first dimension of the first tensor there is, behind names and the like."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else None
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    lengths = (_first_length(part, depth - 1) for part in parts) if depth else iter(())
    return next((length for length in lengths if length is not None), None)


def _round(iterator: Any) -> int | None:
    """The batches after which an endless sampler begins anew: one that hands out those of a `BatchSampler` for ever.

    Programs that keep their workers over all epochs have such a loader, and take so many batches of it for each.
    """
    repeated: Any = getattr(iterator._index_sampler, "sampler", None)
    return (length_of(repeated) or None) if issubclass(type(repeated), BatchSampler) else None


def _samples_of_each(iterator: Any) -> int | None:
    """The batch size, where neither a sampler nor a collate function of the user's can make it another one."""
    sampler = iterator._index_sampler
    if type(sampler) is not BatchSampler or iterator._dataset_kind != _DatasetKind.Map:
        return None
    if iterator._auto_collation:
        is_sure = iterator._collate_fn is default_collate
    else:  # a batch of indices is one index
        is_sure = iterator._collate_fn is default_convert and type(iterator._dataset) is TensorDataset
    return sampler.batch_size if is_sure else None


def _items_of_each(iterator: Any) -> tuple[int | None, int | None]:
    """How many items of the dataset a batch is made of, and the last batch. None where that is not known."""
    sampler = iterator._index_sampler
    size = getattr(sampler, "batch_size", None)
    if not iterator._auto_collation or type(size) is not int:
        return None, None
    if type(sampler) is not BatchSampler or iterator._dataset_kind != _DatasetKind.Map or sampler.drop_last:
        return size, size
    length = length_of(sampler.sampler)
    return size, None if length is None else length % size or size


def _has_length(batch: Any, length: int, depth: int = 3) -> bool:
    """Whether anything in the batch is as long: a tensor's first dimension, a list."""
    if isinstance(batch, Tensor):
        return batch.ndim > 0 and batch.shape[0] == length
    if isinstance(batch, Mapping):
        return depth > 0 and any(_has_length(part, length, depth - 1) for part in batch.values())
    if not isinstance(batch, list | tuple):
        return False
    return len(batch) == length or (depth > 0 and any(_has_length(part, length, depth - 1) for part in batch))


def _is_time_first(batch: Any, length: int, items: int) -> bool:
    """Whether every tensor but those of one dimension has the items in its second.

    Where a collate function has left items out, what has one value for each, as labels, is of that `length`.
    """
    parts = list(_parts(batch))
    widths = [part.shape[1] for part in parts if isinstance(part, Tensor) and part.ndim > 1]
    flat = (len(part) for part in parts if not isinstance(part, Tensor) or part.ndim == 1)
    return bool(widths) and all(width == items for width in widths) and length not in flat


def _may_be_sequences(batch: Any) -> bool:
    """Whether the first tensor is as wide as it is long, and no table: which dimension its items are in, none tells."""
    first = next((part for part in _parts(batch) if isinstance(part, Tensor)), None)
    if first is None or first.ndim < 2 or first.shape[0] != first.shape[1]:
        return False
    return first.ndim > 2 or not first.is_floating_point()


def _parts(batch: Any, depth: int = 3) -> Iterator[Tensor | Sequence[Any]]:
    """The tensors of a batch, and its lists of anything else."""
    if isinstance(batch, Tensor):
        yield batch
        return
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch
    if not isinstance(parts, list | tuple):
        return
    if not any(isinstance(part, Tensor | Mapping) for part in parts):
        yield parts
    for part in parts if depth else ():
        yield from _parts(part, depth - 1)


def _is_row(batch: Any) -> bool:
    """Whether the batch is one row of tokens, in which the items stand one after the other."""
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch
    while isinstance(parts, list | tuple) and parts:
        parts = parts[0]
    return isinstance(parts, Tensor) and parts.ndim == 2 and not parts.is_floating_point()


def _common_length(batch: Any) -> int | None:
    """Of lists that are side by side, as `zip(*samples)` makes them."""
    if not isinstance(batch, list | tuple) or len(batch) < 2 or not all(isinstance(b, list | tuple) for b in batch):
        return None
    lengths = set(map(len, batch))
    return lengths.pop() if len(lengths) == 1 else None


def _data_of(iterator: Any) -> Any:
    """The same for two loaders over the same samples: the dataset, over all of it, or else the sampler."""
    sampler = getattr(iterator._index_sampler, "sampler", iterator._index_sampler)
    whole = type(sampler) in (SequentialSampler, RandomSampler)
    return iterator._dataset if whole else sampler
