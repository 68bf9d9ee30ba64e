"""What is validated between two training steps, and which pass of it is the validation.

With loaders it is the first pass over data that training does not use, and that the user's code does not call training
data. Without them passes are told apart by where they come from (see `origins`); where nothing says which of several is
the validation, none is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from trimtab.capture.identity import Living
from trimtab.capture.loaders import LoaderPass
from trimtab.capture.origins import TEST, TRAINING, VALIDATION, Origin, named
from trimtab.sample.passes import PassSums

LOOK = (
    "In the middle of a pass over the training loader a loss was taken without grad, of as many samples as a training "
    "batch: it passes for a look at that batch, and is no validation. If it is one, log it: trimtab.log(loss=..., "
    "phase='validation')."
)
UNCLEAR = (
    "Several evaluations stand between two training steps, and nothing tells which of them is the validation, so none "
    "is shown. Log it: trimtab.log(loss=..., phase='validation'). Or feed it with a DataLoader of its own."
)


@dataclass(slots=True, eq=False)
class _Pass:
    """Batches from one loader, whose pass is `source`, or from one place, where that is None."""

    origin: Origin | None
    is_training_data: bool
    is_look: bool = False  # of the batch that is trained on
    source: LoaderPass | None = None
    paths: set[int] = field(default_factory=set)  # from which the losses of its first batches came
    newest: PassSums = field(default_factory=PassSums)  # of `source`, but for passes that were left before it
    left: PassSums | None = None  # ... of those

    @property
    def sums(self) -> PassSums:
        """Of all its batches. Where passes were left before one that came to its end, of that one."""
        if self.left is None or (self.source is not None and self.source.complete):
            return self.newest
        both = PassSums()
        both.add_pass(self.left)
        both.add_pass(self.newest)
        return both

    def leave(self) -> None:
        """The loader starts anew, before its end."""
        self.left, self.newest = self.sums, PassSums()

    @property
    def place(self) -> object:
        """The lines that its losses come from, None where they are not known."""
        return self.origin and self.origin.place

    def is_as_long_as(self, other: _Pass) -> bool:
        """Whether both are of as many batches and samples."""
        return (self.sums.batches, self.sums.samples) == (other.sums.batches, other.sums.samples)


class Gap:
    """The passes since the last training backward, in order, by one loss function.

    `rank` is 0 for the one that training is compared by, more for others that it uses. `number` is more for later ones.
    """

    def __init__(self, rank: int = 0, number: int = 0) -> None:
        self.rank, self.number = rank, number
        self.batch: tuple[LoaderPass, int] | None = None  # the newest whose samples are counted
        self.passes: list[_Pass] = []
        self._of: dict[object, _Pass] = {}  # a loader, or an origin

    def of_loader(
        self, source: LoaderPass, origin: Origin | None, *, is_training_data: bool, is_look: bool
    ) -> PassSums:
        """The pass over a loader: another one where it starts anew after its end, as for a second model's sake.

        Where it was left before its end they are one, as in `for _ in range(10): next(iter(loader))`, unless one comes
        to its end after all. They are one, too, where it had begun in an earlier gap: an iterator without end is drawn
        from, as many batches each time.
        """
        if source.validated_in is None:
            source.validated_in = self.number
        found = self._of.get(source.loader)
        before = None if found is None or found.source is source else found.source
        if found is None or (before is not None and before.complete and before.validated_in == self.number):
            found = self._add(source.loader, _Pass(origin, is_training_data, is_look))
        elif before is not None and not before.complete:
            found.leave()
        found.source = source
        found.is_training_data |= is_training_data
        found.is_look &= is_look
        if origin is not None:
            found.paths.add(origin.path)
        return found.newest

    @property
    def is_of_looks(self) -> bool:
        """Whether there was nothing but looks at the batch that is trained on."""
        return all(each.is_look for each in self.passes)

    def is_trained_on(self, source: LoaderPass) -> bool:
        """What came from there, if anything did, was a look at the batch that is trained on."""
        found = self._of.get(source.loader)
        if found is None or found.source is not source:
            return False
        found.is_look = True
        return True

    def is_elsewhere(self, source: LoaderPass, origin: Origin | None) -> bool:
        """Whether a loss that comes after a loader's end is called from other lines, and not about its last batch."""
        found = self._of.get(source.loader)
        if found is None or origin is None or not found.paths:
            return False
        return origin.path not in found.paths

    def of_tensors(self, origin: Origin | None, *, is_look: bool) -> PassSums:
        """The pass from `origin`. Passes do not alternate: what comes in turns is one, such as two losses a batch."""
        is_training_data = origin is not None and origin.is_training_data
        key = origin and (origin.place, is_training_data)
        found = self._of.get(key)
        if found is None:
            found = self._add(key, _Pass(origin, is_training_data, is_look))
        found.is_look &= is_look
        between = self.passes[self.passes.index(found) + 1 :]
        if all(each.source is None for each in between):
            for each in between:
                self._fold(each, into=found)
        return found.newest

    def _add(self, key: object, new: _Pass) -> _Pass:
        self._of[key] = new
        self.passes.append(new)
        return new

    def _fold(self, later: _Pass, *, into: _Pass) -> None:
        self.passes.remove(later)
        into.newest.add_pass(later.newest)
        into.is_look &= later.is_look
        for key, known in self._of.items():
            if known is later:
                self._of[key] = into


class Gaps:
    """Chooses the validation pass of each gap, and remembers the choice. `on_unclear` is called where it cannot.

    `on_look` is called where it passes over all that may be a look at the batch that is trained on.
    """

    def __init__(self, on_unclear: Callable[[], object], on_look: Callable[[], object]) -> None:
        self._on_unclear, self._on_look = on_unclear, on_look
        self._chosen: _Pass | None = None  # the newest that no loader fed
        self._is_of_other_data = False  # than training is fed with: a validation before this one
        self._data = Living[bool]()  # what was validated on between two trainings
        self._newest: tuple[LoaderPass, PassSums] | None = None  # ... of these

    def chosen(self, gap: Gap, *, trained: bool, is_last: bool, has_unseen: bool) -> PassSums | None:
        """The validation pass, None where that is not known.

        `trained`: whether training went before it; `has_unseen`: whether other data was evaluated without a loss.
        """
        passes = [each for each in gap.passes if not each.is_look]
        if not (passes or self._is_of_other_data) and any(each.source is None for each in gap.passes):
            self._on_look()
        fresh = [each for each in passes if not each.is_training_data]
        if not passes or (not fresh and (self._is_of_other_data or has_unseen)):
            return None
        self._is_of_other_data |= trained and bool(fresh)
        fresh = fresh or passes
        if any(each.source is not None for each in fresh):
            return self._of_loaders(fresh, trained=trained, is_last=is_last)
        if is_last and self._is_test(fresh):
            return None
        found = self._of_tensors(fresh)
        if found is None or _is_mixed(found, passes):
            self._on_unclear()
            return None
        self._chosen = found
        return found.sums

    def forget(self) -> None:
        """What is trained on is other data from now on, and what it is validated on may be too."""
        self._data.clear()
        self._newest = None

    def _of_loaders(self, passes: list[_Pass], *, trained: bool, is_last: bool) -> PassSums | None:
        """The pass over the data of the validation before it, else the first that is not called training data.

        What comes last, and on data that no validation was on, is a test, unless it is as long: libraries that make a
        dataset anew for each evaluation may keep the ones before. Where the data of the validation before it is gone,
        each makes its own.
        """
        newest = self._newest
        fed = [each for each in passes if each.source is not None]
        by_name = _called(VALIDATION, fed) or _called(TEST, fed) or _not_called_training(fed) or fed
        likely, loaded = _loaded(by_name), _loaded(fed)
        known = [(source, sums) for source, sums in loaded if source.data in self._data]
        if newest is not None and not known and is_last and newest[0].data() is not None:
            known = [each for each in likely if _are_alike(each, newest)]
            if not known:
                return None
        same = [(source, sums) for source, sums in known if newest is not None and source.data == newest[0].data]
        source, sums = (same or known or likely)[0]
        if trained:
            self._data[source.data] = True
            self._newest = source, sums
        return sums

    def _is_test(self, passes: list[_Pass]) -> bool:
        """Whether this one pass is another than the validation before it: from other lines, and not as long."""
        before = self._chosen
        if len(passes) > 1 or before is None:
            return False
        return passes[0].place != before.place and not passes[0].is_as_long_as(before)

    def _of_tensors(self, passes: list[_Pass]) -> _Pass | None:
        if len(passes) == 1:
            return passes[0]
        before = [each for each in passes if self._chosen is not None and each.place == self._chosen.place]
        if before:
            return before[0]
        for splits in (VALIDATION, TEST):
            called = _called(splits, passes)
            if called:
                return called[0] if len(called) == 1 else None
        rest = _not_called_training(passes)
        if len(rest) == 1:
            return rest[0]
        return rest[0] if rest and all(each.origin and each.origin.is_other_data for each in rest) else None


def _is_mixed(found: _Pass, passes: list[_Pass]) -> bool:
    """Whether one line evaluates training data and several other batches, which may be of several splits."""
    return found.sums.batches > 1 and any(
        each is not found and each.is_training_data and each.place == found.place for each in passes
    )


def _loaded(passes: list[_Pass]) -> list[tuple[LoaderPass, PassSums]]:
    return [(each.source, each.sums) for each in passes if each.source is not None]


def _called(splits: set[str], passes: list[_Pass]) -> list[_Pass]:
    """Those whose data the user's code calls one of these."""
    names = named([each.origin for each in passes])
    return [each for name, each in zip(names, passes, strict=True) if name in splits]


def _not_called_training(passes: list[_Pass]) -> list[_Pass]:
    training = _called(TRAINING, passes)
    return [each for each in passes if each not in training]


def _are_alike(one: tuple[LoaderPass, PassSums], other: tuple[LoaderPass, PassSums]) -> bool:
    """Whether two passes may be over the same data, in two datasets."""
    (source, sums), (before, sums_before) = one, other
    is_as_long = (source.sized, sums.batches, sums.samples) == (before.sized, sums_before.batches, sums_before.samples)
    return is_as_long and type(source.data()) is type(before.data())
