"""The optimizers that step: each by its label, and whose turn it is where one training follows another."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from trimtab import facts
from trimtab.capture.attribution import Attribution
from trimtab.capture.beginning import LEARNED, Beginning
from trimtab.capture.recorder import Recorder
from trimtab.capture.tracked import Tracked, parameters_of
from trimtab.searches import living

STAGE = 100  # steps of an optimizer, so that one in its place may begin a stage: some loops make one every few steps


class Arrival(NamedTuple):
    """An optimizer that steps for the first time, and what that means for the others."""

    tracked: Tracked
    over: Sequence[Tracked]  # those of other models, which have left: another training begins
    is_another: bool  # it has the label of one that trained another model, or that has begun where this one does
    is_stage: bool  # it goes on with the model of others, of whom it is not known whether they step again
    is_next: bool  # there were others, and it is the only one by now
    joins: bool  # others have begun the training that it begins in, see `Roster.joins`
    former: Sequence[Tracked]  # those whose place it takes: it trains all that they have for long, and they may be gone

    @property
    def begins_anew(self) -> bool:
        """Whether another training begins with it."""
        return bool(self.over) or self.is_another


class Roster:
    """Those that were seen to step, and have not left. To be changed by one thread at a time."""

    def __init__(self, recorder: Recorder, attribution: Attribution) -> None:
        self._recorder = recorder
        self._attribution = attribution
        self.any_seen = False  # whether any was, be it one that has left
        self.let_go: Callable[[Tracked], object] = lambda _: None  # called for each whose optimizer is gone
        self._tracked: dict[int, Tracked] = {}  # replaced, never changed: other threads may go through it
        self._former: dict[str, Beginning] = {}  # label to where that began who had it last
        self._labels: weakref.WeakKeyDictionary[Optimizer, str] = weakref.WeakKeyDictionary()  # given, or had before
        self._reserved: set[str] = set()

    def __iter__(self) -> Iterator[Tracked]:
        return iter(self._tracked.values())

    def __len__(self) -> int:
        return len(self._tracked)

    def name(self, optimizer: Optimizer, label: str) -> None:
        """Label `optimizer` with a name instead of its index."""
        self._labels[optimizer] = label

    def reserve(self) -> str:
        """A label of their own for those that step inside `backward`, who are not in here."""
        label = _lowest({ledger.label for ledger in self._recorder.books.ledgers} | set(self._labels.values()))
        self._reserved.add(label)
        return label

    def find(self, optimizer: Optimizer) -> Tracked | None:
        """What is known of it; None before its first step, and once it has left."""
        tracked = self._tracked.get(id(optimizer))
        return tracked if tracked is not None and tracked.optimizer() is optimizer else None

    def look_out(self) -> Callable[[], bool]:
        """Returns what tells whether an optimizer was made since then for another training than those up to then.

        Its parameters are none of theirs, or are where those began. Both go through the objects of the process.
        """
        self._count_steps()
        there, former = weakref.WeakSet[Optimizer](living(Optimizer)), list(self._former.values())

        def is_for_another(optimizer: Optimizer) -> bool:
            parameters = {id(p) for p in parameters_of(optimizer)}
            return bool(parameters) and all(b.is_apart_from(parameters) or _is_back(b) for b in former)

        return lambda: any(each not in there and is_for_another(each) for each in living(Optimizer))

    def enter(self, optimizer: Optimizer) -> Arrival:
        """It steps for the first time. It takes the lowest index that no living optimizer has."""
        self._count_steps()
        gone = [known for known in self if known.optimizer() is None]
        label = self._labels.get(optimizer) or self._free_label(gone)
        parameters = parameters_of(optimizer)
        ledger, share = self._recorder.books.ledger(label), self._attribution.add(parameters)
        ledger.elements = sum(p.numel() for p in parameters if not is_lazy(p))
        new = Tracked(optimizer, ledger, parameters, share, lambda gone: self.let_go(gone))
        idle = self._idle(new, gone)
        over = [] if any(known.share.ids & new.share.ids for known in idle) else idle
        over = over or self._put_back(new, gone)
        for known in (*gone, *over):  # only now, since the new one may take over from one of them
            self._leave(known)
        is_next = bool(gone or over) and not self._tracked
        before = self._before(new)
        former = [] if over else self._former_of(new, gone)
        joins = self.joins(new, [*over, *before])
        self._tracked = {**self._tracked, id(optimizer): new}
        self.any_seen = True
        is_another = self._is_another(label, new.share.ids)
        self._former[label] = new.beginning
        is_stage = bool(idle or before)
        return Arrival(new, over, is_another, is_stage=is_stage, is_next=is_next, joins=joins, former=former)

    def joins(self, new: Tracked, before: Sequence[Tracked] = ()) -> bool:
        """Whether it begins in a training that others have begun: nobody stepped there under its label, or `before` it.

        Then the steps of before are counted on already.
        """
        past = [new, *before]
        is_begun = any(self._is_busy(known, new) for known in self if known not in past)
        return is_begun and not any(known.ledger.taken for known in past)

    def loaded(self, model: nn.Module) -> None:
        """Values were loaded into the parameters of `model`."""
        parameters = {id(p) for p in model.parameters()}
        for beginning in {*self._former.values(), *(known.beginning for known in self)}:
            beginning.loaded(parameters)

    def _count_steps(self) -> None:
        for known in self:
            known.beginning.steps = known.calls

    def _free_label(self, gone: Sequence[Tracked]) -> str:
        taken = {known.ledger.label for known in self if known not in gone}
        return _lowest(taken | set(self._labels.values()) | self._reserved)

    def _idle(self, new: Tracked, gone: Sequence[Tracked]) -> list[Tracked]:
        """The optimizers that are kept though it is the turn of a `new` one: of another model, as by folds in a list.

        That is so where none of them stepped in this epoch or is about to, in another thread any time, and the label of
        the new one was not that of its model before. Where one has a parameter of the new one, this is another stage
        for the same model.
        """
        others = [known for known in self if known not in gone]
        former = self._former.get(new.ledger.label)
        returns = former is not None and former.is_of(new.share.ids)
        return [] if returns or any(self._is_busy(known, new) for known in others) else others

    def _is_busy(self, known: Tracked, new: Tracked) -> bool:
        """Whether it steps in turns with a `new` one, as far as this epoch tells.

        Of several ranks one alone may validate, and end an epoch by that. They have to agree, so there it always does.
        """
        share = new.share
        return (
            facts.group() is not None
            or known.share.thread != share.thread
            or self._recorder.has_stepped(known.ledger)
            or (share.ids.isdisjoint(known.share.ids) and known.share.awaits_step(share.losses))
        )

    def _put_back(self, new: Tracked, gone: Sequence[Tracked]) -> list[Tracked]:
        """The optimizers of which a parameter is one of the `new` one's, and all are where a training begins."""
        others = [known for known in self if known not in gone and known.calls >= LEARNED]
        return [known for known in others if known.share.ids & new.share.ids and _is_back(known.beginning)]

    def _before(self, new: Tracked) -> list[Tracked]:
        """Those that have trained a parameter of the `new` one for a while: Adam before LBFGS, say."""
        return [known for known in self if known.calls >= LEARNED and not known.share.ids.isdisjoint(new.share.ids)]

    def _former_of(self, new: Tracked, gone: Sequence[Tracked]) -> list[Tracked]:
        """Those that trained for long, where the `new` one trains all that they did, and all that any other does."""
        within = [known for known in (*gone, *self) if known.beginning.is_within(new.share.ids)]
        is_all = all(known in within for known in self)
        return [known for known in within if known.calls >= STAGE] if is_all else []

    def _leave(self, known: Tracked) -> None:
        """It steps no more. Should it all the same, it enters again under its label."""
        optimizer = known.optimizer()
        if optimizer is not None:
            self._labels[optimizer] = known.ledger.label
        self._tracked = {key: other for key, other in self._tracked.items() if other is not known}
        self._attribution.drop(known.share)

    def _is_another(self, label: str, parameters: set[int]) -> bool:
        """Whether these are another model's than those that had the label before, or are where a training begins."""
        former = self._former.get(label)
        return former is not None and (not former.is_of(parameters) or _is_back(former))


def _is_back(beginning: Beginning) -> bool:
    """Whether a training stands where it began, or where another would."""
    return beginning.is_now() or beginning.is_drawn_anew()


def _lowest(taken: set[str]) -> str:
    return next(str(i) for i in range(len(taken) + 1) if str(i) not in taken)
