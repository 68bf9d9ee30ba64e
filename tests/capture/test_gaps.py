"""Several evaluations between two training steps, none of them fed by a loader."""

import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

from trimtab.types import Notice


class Loop:
    """Trains on slices of one tensor, as language models do."""

    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.data = {name: (torch.randn(24, 4), torch.randint(3, (24,))) for name in ("train", "val", "test")}

    def train(self, loader=None):
        for batch in loader or self.batches("train"):
            self.optimizer.zero_grad()
            self.loss(batch).backward()
            self.optimizer.step()

    def batches(self, part):
        inputs, labels = self.data[part]
        return [(inputs[i : i + 8], labels[i : i + 8]) for i in range(0, 24, 8)]

    def loss(self, batch):
        inputs, labels = batch
        return F.cross_entropy(self.model(inputs), labels)

    @torch.no_grad()
    def evaluate(self, batches):
        return sum(self.loss(batch).item() for batch in batches) / len(batches)

    def copies(self, part):
        return [(inputs.clone(), labels.clone()) for inputs, labels in self.batches(part)]

    def shuffled(self, part):
        inputs, labels = self.data[part]
        return [(inputs[chosen], labels[chosen]) for chosen in torch.randperm(24).split(8)]


PARTS = [("train", "training set"), ("val", "val"), ("test", "ood")]


@pytest.fixture
def loop(model):
    return Loop(model)


def notices(seen):
    return [event.kind for event in seen.backend.of(Notice)]


def test_test_pass_after_training_is_not_counted_with_validation(watching, loop):
    with watching() as seen:
        for _ in range(2):
            loop.train()
            validation = loop.evaluate(loop.copies("val"))
        loop.evaluate(loop.copies("test"))
    assert seen.validations[-1].loss == pytest.approx(validation)
    assert seen.epochs[-1].validation.samples == 24


def test_split_that_the_users_code_names_is_the_validation(watching, loop):
    def estimate():
        losses = {}
        loop.model.eval()  # which is not `eval`
        for split in ("train", "val"):
            losses[split] = loop.evaluate(loop.copies(split))
        loop.model.train()
        return losses

    with watching() as seen:
        loop.train()
        own = [estimate()["val"]]
        loop.train()
        own += [estimate()["val"]]
    assert [e.validation.loss for e in seen.epochs] == pytest.approx(own)
    assert notices(seen) == []


def test_name_that_came_up_between_two_passes_does_not_tell_which_is_which(watching, loop):
    """`best_on` says where the best score was seen, and not what is evaluated next: the second pass is the test."""

    def train():
        loop.train()
        loop.evaluate(loop.copies("val"))
        best_on = "val"
        loop.evaluate(loop.copies("test"))
        return best_on

    with watching() as seen:
        train()
        train()
    assert seen.validations == []
    assert notices(seen) == ["validation_unclear"]


def test_one_of_three_passes_is_named_by_the_variable_that_they_share(watching, loop):
    def estimate():
        return [loop.evaluate(loop.copies(part)) for part, split in PARTS]

    with watching() as seen:
        loop.train()
        _, validation, _ = estimate()
    assert seen.validations[-1].loss == pytest.approx(validation)


def test_evaluation_on_the_tensor_that_training_reads_is_left_out(watching, loop):
    with watching() as seen:
        loop.train()
        losses = [loop.evaluate(batches) for batches in (loop.batches("train"), loop.batches("val"))]
    assert seen.validations[-1].loss == pytest.approx(losses[1])


@pytest.mark.parametrize("are_parts", [False, True])
def test_evaluation_of_the_tensors_that_a_loader_feeds_training_with_is_left_out(watching, loop, are_parts):
    train, val = loop.data["train"], loop.data["val"]
    if are_parts:
        train, val = zip(*(torch.cat(pair).split(24) for pair in zip(train, val, strict=True)), strict=True)
    training = DataLoader(TensorDataset(*train), 8, shuffle=True)
    with watching() as seen:
        for _ in range(2):
            loop.train(training)
            loop.evaluate([train])
            validation = loop.evaluate([val])
    assert seen.validations[-1].loss == pytest.approx(validation)
    assert [epoch.validation.samples for epoch in seen.epochs] == [24, 24]
    assert notices(seen) == []


@pytest.mark.parametrize("is_sampled", [False, True])
def test_tensors_of_which_a_loader_feeds_training_with_a_part_tell_nothing(watching, loop, is_sampled):
    whole = TensorDataset(*map(torch.cat, zip(loop.data["train"], loop.data["val"], strict=True)))
    sampler = SubsetRandomSampler(range(24)) if is_sampled else None
    training = DataLoader(whole if is_sampled else Subset(whole, range(24)), 8, sampler=sampler)
    with watching() as seen:
        loop.train(training)
        loop.evaluate([whole[:24]])
        loop.evaluate([whole[24:]])
    assert seen.validations == []
    assert notices(seen) == ["validation_unclear"]


def test_evaluation_of_targets_that_equal_those_of_training_is_left_out(watching, loop):
    (inputs, labels), mask = loop.data["train"], torch.arange(24) < 17
    with watching() as seen:
        for _ in range(2):
            loop.optimizer.zero_grad()
            loop.loss((inputs[mask], labels[mask])).backward()
            loop.optimizer.step()
            loop.evaluate([(inputs[mask], labels[mask])])
            validation = loop.evaluate([(inputs[~mask], labels[~mask])])
    assert [epoch.validation.samples for epoch in seen.epochs] == [7, 7]
    assert seen.validations[-1].loss == pytest.approx(validation)


@pytest.mark.parametrize("splits", ["train val", "train val test"])
def test_several_splits_that_one_line_evaluates_are_not_summed_up(watching, loop, splits):
    """As with masks over the nodes of a graph."""
    inputs, labels = (torch.cat(parts) for parts in zip(*loop.data.values(), strict=True))
    masks = [torch.arange(72) // 24 == number for number in range(3)][: len(splits.split())]
    expected = []
    with watching() as seen:
        for _ in range(3):
            loop.optimizer.zero_grad()
            F.cross_entropy(loop.model(inputs)[masks[0]], labels[masks[0]]).backward()
            loop.optimizer.step()
            with torch.no_grad():
                outputs = loop.model(inputs)
                expected.append([F.cross_entropy(outputs[mask], labels[mask]).item() for mask in masks])
    if len(masks) == 2:
        assert [step.loss for step in seen.validations] == pytest.approx([losses[1] for losses in expected])
    else:
        assert seen.validations == []
        assert notices(seen) == ["validation_unclear"]


def test_first_pass_over_other_tensors_than_training_reads_is_the_validation(watching, loop):
    with watching() as seen:
        loop.train()
        validation = loop.evaluate(loop.batches("val"))
        loop.evaluate(loop.batches("test"))
    assert seen.validations[-1].loss == pytest.approx(validation)


def test_two_losses_of_each_batch_are_one_pass(watching, loop):
    with watching() as seen:
        loop.train()
        with torch.no_grad():
            losses = []
            for batch in loop.copies("val"):
                losses.append(loop.loss(batch).item())
                losses.append(loop.loss((-batch[0], batch[1])).item())
    assert seen.validations[-1].loss == pytest.approx(sum(losses) / 6)


def test_validation_that_nothing_tells_from_another_is_left_out_and_said(watching, loop):
    with watching() as seen:
        for _ in range(2):
            loop.train()
            loop.evaluate(loop.shuffled("train"))
            loop.evaluate(loop.shuffled("val"))
    assert seen.validations == []
    assert [epoch.validation for epoch in seen.epochs] == [None, None]
    assert notices(seen) == ["validation_unclear"]


def test_variables_of_the_user_live_no_longer_for_being_looked_at(watching, loop):
    def evaluate():
        split = "val"
        held = torch.zeros(3)
        known = weakref.ref(held)
        loop.evaluate(loop.copies(split))
        del held
        return known()

    with watching():
        loop.train()
        assert evaluate() is None


def test_variables_survive_a_debugger_that_comes_later(watching, loop):
    def evaluate():
        split, number = "val", 3
        loop.evaluate(loop.copies(split))
        sys.settrace(lambda frame, event, argument: None)
        sys._getframe().f_trace = lambda frame, event, argument: None
        number += 1
        sys.settrace(None)
        return split, number

    with watching():
        loop.train()
        assert evaluate() == ("val", 4)


def test_dictionary_of_variables_that_the_user_took_stays_as_it_is(watching, loop):
    def evaluate(loop, split="val"):
        given = locals()
        loop.evaluate(loop.copies(split))
        return given

    with watching():
        loop.train()
        assert sorted(evaluate(loop)) == ["loop", "split"]
