"""Loaders and datasets are told apart while they live and when they are gone, and none is held."""

import gc
import weakref

import pytest
import torch
from kinds_of_loops import Loop
from torch.utils.data import DataLoader, TensorDataset

from trimtab.capture import identity
from trimtab.capture.identity import ROOM, Living, Same


class Thing:
    """Equal to every other, and of no use as a key."""

    def __eq__(self, other):
        return True

    __hash__ = None


def test_a_thing_is_the_same_as_itself_alone():
    one, other = Thing(), Thing()
    assert Same(one) == Same(one)
    assert Same(one) != Same(other)
    assert {Same(one)} == {Same(one)}
    assert Same(one)() is one


def test_a_thing_that_has_the_id_of_one_that_is_gone_is_another(monkeypatch):
    monkeypatch.setattr(identity, "id", lambda thing: 7, raising=False)  # not every Python gives an id again at once
    thing, other = Thing(), Thing()
    before = Same(thing)
    del thing
    assert before != Same(other)
    assert before == before
    assert before() is None
    assert before.is_gone


def test_lists_are_told_apart_by_their_ids():
    one, other = [1], [1]
    assert Same(one) == Same(one) != Same(other)
    assert not Same(one).is_gone


def test_what_is_gone_takes_no_room():
    living, kept = Living(), Thing()
    living[Same(kept)] = "kept"
    for _ in range(10 * ROOM):
        living[Same(Thing())] = "gone"
    assert len(living) <= ROOM
    assert living[Same(kept)] == "kept"


@pytest.fixture
def loop():
    return Loop()


def samples(count):
    return TensorDataset(torch.randn(count, 4), torch.randint(3, (count,)))


def evaluate(loop, loader, batches):
    """The mean over the first batches, which are all of one size."""
    with torch.no_grad():
        losses = [loop.loss(*batch).item() for batch, _ in zip(loader, range(batches), strict=False)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("batches", [1, 2])
def test_validation_is_no_other_pass_though_each_makes_its_loader_anew(watching, loop, batches):
    validation, test, losses = samples(8), samples(8), []
    with watching() as seen:
        for _ in range(6):
            for batch in DataLoader(loop.data, 4, shuffle=True):
                loop.step(loop.loss(*batch))
            losses.append(evaluate(loop, DataLoader(validation, 4), batches))
            evaluate(loop, DataLoader(test, 4), batches)
    assert [each.loss for each in seen.validations] == pytest.approx(losses)


def test_validation_is_no_other_pass_though_each_makes_its_data_anew(watching, loop):
    (inputs, labels), losses = samples(16).tensors, []

    def part(start):
        return DataLoader(TensorDataset(inputs[start : start + 8], labels[start : start + 8]), 4)

    with watching() as seen:
        for _ in range(8):
            for batch in DataLoader(TensorDataset(*loop.data.tensors), 4):
                loop.step(loop.loss(*batch))
            losses.append(evaluate(loop, part(0), 2))
            evaluate(loop, part(8), 2)
    assert [each.loss for each in seen.validations] == pytest.approx(losses)


@pytest.mark.parametrize("batches", [2, 3])
def test_loader_that_is_made_anew_and_left_has_epochs(watching, loop, batches):
    with watching() as seen:
        for _ in range(4):
            for batch, _ in zip(DataLoader(loop.data, 4), range(batches), strict=False):
                loop.step(loop.loss(*batch))
    assert [epoch.step for epoch in seen.epochs] == [batches, 2 * batches, 3 * batches, 4 * batches]


def test_loaders_and_data_are_let_go(watching, loop):
    with watching():
        data = samples(8)
        loader = DataLoader(data, 4)
        for batch in loader:
            loop.step(loop.loss(*batch))
        evaluate(loop, loader, 2)
        loop.step(loop.loss())
        kept = [weakref.ref(thing) for thing in (data, loader, loader.batch_sampler)]
        del data, loader, batch
        gc.collect()
        assert [thing() for thing in kept] == [None, None, None]
