"""DataLoader iterators: how long training waited, how many samples came, and when a pass is over.

The iterator's class is wrapped, so a loader's own type stays as it is. Workers, forked or spawned, run none of this.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data.dataloader import _BaseDataLoaderIter
from torch.utils.data.sampler import RandomSampler, SequentialSampler

from trimtab.capture.dynamo import keep_out
from trimtab.capture.patches import Patches


class LoaderPass:
    """One pass over a loader."""

    __slots__ = ("_iterator", "batches", "complete", "data", "loader", "samples", "sized", "wait_s")

    def __init__(self, iterator: Any) -> None:
        self._iterator = weakref.ref(iterator)
        self.loader = id(iterator._index_sampler)  # the same for every pass over one DataLoader
        self.data = _data_key(iterator)
        self.sized = _length(iterator)
        self.batches = 0
        self.complete = False
        self.samples = 0  # fetched, and not yet trained on or validated
        self.wait_s = 0.0  # for those

    def spend(self) -> tuple[int, float]:
        """The samples fetched and the seconds waited since the last call."""
        spent = self.samples, self.wait_s
        self.samples, self.wait_s = 0, 0.0
        return spent

    @property
    def running(self) -> bool:
        """Whether more batches may come: not exhausted, and the loop has not dropped the iterator."""
        return not self.complete and self._iterator() is not None


def watch_loaders(
    patches: Patches,
    on_batch: Callable[[LoaderPass, int | None, float, float], object],
    on_exhausted: Callable[[LoaderPass], object],
    guard: Callable[[str, Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Call `on_batch(pass, samples, asked_at, got_at)` for every batch, and `on_exhausted(pass)` at the end of a pass.

    Times are those of `time.perf_counter`; `samples` is None where the batch does not tell.
    """
    original = _BaseDataLoaderIter.__next__
    passes = _Passes()
    clock = time.perf_counter

    def got(iterator: Any, batch: Any, asked: float) -> None:
        on_batch(passes.of(iterator), batch_size(batch), asked, clock())

    def ended(iterator: Any) -> None:
        passes.end(iterator, on_exhausted)

    got_batch, pass_ended = guard("loader", got), guard("loader", ended)

    def __next__(self: Any) -> Any:  # noqa: N807
        asked = clock()
        try:
            batch = original(self)
        except StopIteration:
            pass_ended(self)
            raise
        got_batch(self, batch, asked)
        return batch

    patches.replace(_BaseDataLoaderIter, "__next__", keep_out(__next__, calls_user_code=True))


class _Passes:
    """The pass that each iterator is in, kept on the iterator, so that it goes when the iterator goes."""

    ATTRIBUTE = "_trimtab_pass"

    def of(self, iterator: Any) -> LoaderPass:
        current: LoaderPass | None = getattr(iterator, self.ATTRIBUTE, None)
        if current is None or iterator._num_yielded == 1:  # persistent workers reuse the iterator
            current = LoaderPass(iterator)
            setattr(iterator, self.ATTRIBUTE, current)
        current.batches += 1
        if current.sized is not None:
            current.complete = current.batches == current.sized
        return current

    def end(self, iterator: Any, on_exhausted: Callable[[LoaderPass], object]) -> None:
        current: LoaderPass | None = getattr(iterator, self.ATTRIBUTE, None)
        if current is not None:
            current.complete = True
            on_exhausted(current)


def batch_size(batch: Any) -> int | None:
    """The first dimension of the first tensor in a batch of tensors, tuples, lists and mappings."""
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


def _length(iterator: Any) -> int | None:
    try:
        return len(iterator)
    except (TypeError, NotImplementedError):  # an iterable dataset, a sampler without length
        return None


def _data_key(iterator: Any) -> int:
    """The same for two loaders over the same samples: over all of one dataset, or by the same sampler."""
    sampler = getattr(iterator._index_sampler, "sampler", iterator._index_sampler)
    whole = type(sampler) in (SequentialSampler, RandomSampler)
    return id(iterator._dataset) if whole else id(sampler)
