"""Where an epoch ends, what belongs to it, and what cannot be known."""

import collections
import itertools
import queue
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from trimtab.sample import books
from trimtab.types import Epoch, Notice, Step

SAMPLES, BATCH = 10, 4  # two whole batches, and one of two


class Stream(IterableDataset):
    """Samples without an end in sight."""

    def __init__(self, samples=SAMPLES):
        self.samples = samples

    def __iter__(self):
        return iter(list(data(self.samples)))


def data(samples=SAMPLES, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(samples, 4, generator=generator), torch.arange(samples) % 3)


def in_parts(dataset):
    """Batches that no loader brings."""
    inputs, labels = dataset.tensors
    return list(zip(inputs.split(BATCH), labels.split(BATCH), strict=True))


class Loop:
    """A model, its optimizer, and the parts that people make loops of."""

    def __init__(self):
        self.model = nn.Linear(4, 3)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.training = DataLoader(data(), batch_size=BATCH, shuffle=True)
        self.validation = DataLoader(data(6, seed=2), batch_size=BATCH)

    def step(self, batch):
        inputs, labels = batch
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(inputs), labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def validate(self, loader=None):
        batches = [(F.cross_entropy(self.model(x), y, reduction="sum"), len(y)) for x, y in loader or self.validation]
        return sum(loss.item() for loss, _ in batches) / sum(samples for _, samples in batches)


@pytest.fixture
def loop():
    return Loop()


def numbers(seen):
    return [epoch.epoch for epoch in seen.epochs]


def test_exhausted_loader_ends_an_epoch(watching, loop):
    with watching() as seen:
        for _ in range(3):
            for batch in loop.training:
                loop.step(batch)
    assert numbers(seen) == [1, 2, 3]
    assert [step.epoch for step in seen.steps()] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_look_at_a_batch_of_the_training_loader_amid_a_pass_ends_no_epoch(watching, loop):
    """As language models are trained from books: every few steps a loss over some batches of both loaders."""
    looks = []
    with watching() as seen:
        for _ in range(2):
            for number, batch in enumerate(loop.training):
                loop.step(batch)
                if number == 1:
                    loop.model.eval()
                    loop.validate(itertools.islice(loop.training, 1))
                    looks.append(loop.validate())
                    loop.model.train()
    assert [(epoch.epoch, epoch.step, epoch.train.samples) for epoch in seen.epochs] == [(1, 3, 10), (2, 6, 10)]
    assert [step.loss for step in seen.validations] == pytest.approx(looks)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_pass_over_the_training_loader_within_its_own_with_grad_on_ends_no_epoch(watching, loop, after):
    """As in Dive into Deep Learning: every so many steps the loss over all that is trained on."""
    with watching() as seen:
        for _ in range(3):
            for number, batch in enumerate(loop.training, 1):
                loop.step(batch)
                if number == after:
                    for inputs, labels in loop.training:
                        F.cross_entropy(loop.model(inputs), labels)
    assert [(epoch.epoch, epoch.step, epoch.train.samples) for epoch in seen.epochs] == [
        (1, 3, 10),
        (2, 6, 10),
        (3, 9, 10),
    ]
    assert {step.epoch for step in seen.steps()} == {1, 2, 3}


def test_losses_of_a_pass_within_another_are_no_part_of_the_criterion(watching, loop):
    losses = []
    with watching() as seen:
        for inputs, labels in loop.training:
            loss = F.cross_entropy(loop.model(inputs), labels)
            losses.append(loss.item() * len(labels))
            loop.optimizer.zero_grad()
            (loss + loop.model.weight.square().sum()).backward()
            loop.optimizer.step()
            for others, wanted in loop.training:
                F.cross_entropy(loop.model(others), wanted)
    assert seen.epochs[0].train.criterion == pytest.approx(sum(losses) / SAMPLES)


def test_pass_within_another_tells_nothing_of_where_the_last_one_was_left(watching, loop):
    training = DataLoader(data(24), batch_size=BATCH)
    with watching() as seen:
        for batches in (4, 4, 2):
            for number, batch in enumerate(itertools.islice(training, batches), 1):
                loop.step(batch)
                if number == 2:
                    for inputs, labels in training:
                        F.cross_entropy(loop.model(inputs), labels)
    assert numbers(seen) == [1, 2]


def test_training_loss_of_an_epoch_is_weighted_by_samples(watching, loop):
    with watching() as seen:
        losses = [loop.step(batch) for batch in loop.training]
    (epoch,) = seen.epochs
    assert epoch.train.loss == pytest.approx((4 * losses[0] + 4 * losses[1] + 2 * losses[2]) / 10)
    assert epoch.train.samples == SAMPLES


@pytest.mark.parametrize("collate", [None, lambda rows: default_collate(rows)], ids=["", "own collate"])
@pytest.mark.parametrize("computes", [False, True])
@pytest.mark.parametrize("left_out", [{1}, {3}, {9}, {5, 6}])
@pytest.mark.parametrize("gradients_every", [1, 64])
def test_batch_that_is_left_out_gives_the_next_loss_no_weight(
    watching, loop, collate, computes, left_out, gradients_every
):
    loader = DataLoader(data(42), batch_size=BATCH, shuffle=True, collate_fn=collate)
    losses, trained = [], []
    with watching(gradients_every=gradients_every) as seen:
        for _ in range(4):
            of_epoch = []
            for index, (inputs, labels) in enumerate(loader):
                if index not in left_out:
                    of_epoch.append((loop.step((inputs, labels)), len(labels)))
                elif computes:
                    F.cross_entropy(loop.model(inputs), labels)
            trained.append(sum(size for _, size in of_epoch))
            losses.append(sum(loss * size for loss, size in of_epoch) / trained[-1])
    assert [epoch.train.loss for epoch in seen.epochs] == pytest.approx(losses)
    assert [epoch.train.samples for epoch in seen.epochs] == [42] * 4


def test_step_on_two_batches_that_came_together_has_the_weight_of_both(watching, loop):
    """By two backwards, of which each is of the mean over a batch."""
    losses, loader = [], DataLoader(data(30), batch_size=BATCH)
    with watching() as seen:
        for _ in range(3):
            batches, of_epoch = iter(loader), []
            for pair in zip(batches, batches, strict=True):
                loop.optimizer.zero_grad()
                parts = [F.cross_entropy(loop.model(inputs), labels) for inputs, labels in pair]
                for part in parts:
                    part.backward()
                loop.optimizer.step()
                of_epoch.append((sum(parts).item(), sum(len(labels) for _, labels in pair)))
            losses.append(sum(loss * size for loss, size in of_epoch) / 30)
    assert [epoch.train.loss for epoch in seen.epochs] == pytest.approx(losses)
    assert [epoch.train.samples for epoch in seen.epochs] == [30] * 3


def test_validation_belongs_to_the_epoch_before_it(watching, loop):
    with watching() as seen:
        validations = []
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
            validations.append(loop.validate())
    assert [epoch.validation.loss for epoch in seen.epochs] == pytest.approx(validations)
    assert [epoch.validation.samples for epoch in seen.epochs] == [6, 6]


def test_epoch_follows_its_steps(watching, loop):
    with watching() as seen:
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
    kinds = [type(event).__name__ for event in seen.backend.events if type(event).__name__ in ("Step", "Epoch")]
    assert kinds == ["Step", "Step", "Step", "Epoch"] * 2


def test_epoch_with_validation_is_told_before_the_steps_of_the_next(watching, loop, monkeypatch):
    monkeypatch.setattr(books, "RECORD_INTERVAL_S", 0.001)
    with watching() as seen:
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
                time.sleep(0.002)
            loop.validate()
    steps = [event.step for event in seen.backend.events if isinstance(event, Step | Epoch)]
    assert steps == sorted(steps)


def test_last_record_of_an_epoch_shows_no_learning_rate_of_the_next_under_a_closure(watching, loop, monkeypatch):
    monkeypatch.setattr(books, "RECORD_INTERVAL_S", 3600.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(loop.optimizer, 0.5)

    def closure():
        inputs, labels = next(batches)
        loop.optimizer.zero_grad()
        loss = F.cross_entropy(loop.model(inputs), labels)
        loss.backward()
        return loss

    with watching() as seen:
        for _ in range(3):
            batches = iter(loop.training)
            for _ in range(len(loop.training)):
                loop.optimizer.step(closure)
            schedule.step()
            loop.validate()
            seen.run._books._marked_at = -3600.0  # so that the epoch's end ends the record
    assert [step.learning_rate for step in seen.steps() if step.steps > 1] == [[0.1], [0.05], [0.025]]


def test_first_batches_of_a_loader_are_an_epoch(watching, loop):
    with watching() as seen:
        for _ in range(3):
            for batch in itertools.islice(loop.training, 2):
                loop.step(batch)
    assert [step.epoch for step in seen.steps()] == [1, 1, 2, 2, 3, 3]
    assert numbers(seen) == [1, 2, 3]


@pytest.mark.parametrize("last", [1, 3])
def test_last_pass_that_is_left_elsewhere_than_those_before_it_is_no_epoch(watching, loop, last):
    training = DataLoader(data(24), batch_size=BATCH)
    with watching() as seen:
        for batches in (2, 2, last):
            for batch in itertools.islice(training, batches):
                loop.step(batch)
    assert numbers(seen) == [1, 2]


def test_all_batches_of_a_loader_are_an_epoch_though_nobody_asks_for_one_more(watching, loop):
    with watching() as seen:
        for _ in range(2):
            for batch in itertools.islice(loop.training, 3):
                loop.step(batch)
    assert [step.epoch for step in seen.steps()] == [1, 1, 1, 2, 2, 2]
    assert numbers(seen) == [1, 2]


def test_break_in_the_middle_is_an_epoch(watching, loop):
    with watching() as seen:
        for _ in range(3):
            for index, batch in enumerate(loop.training):
                if index == 2:
                    break
                loop.step(batch)
    assert [step.epoch for step in seen.steps()] == [1, 1, 2, 2, 3, 3]


def test_two_loaders_side_by_side_follow_the_longer(watching, loop):
    unlabelled = DataLoader(data(24, seed=3), batch_size=BATCH)
    with watching() as seen:
        for _ in range(2):
            for batch, _ in zip(itertools.cycle(loop.training), unlabelled):
                loop.step(batch)
    assert numbers(seen) == [1, 2]
    assert [step.epoch for step in seen.steps()] == [1] * 6 + [2] * 6
    assert {step.batches for step in seen.steps()} == {6}


def test_loop_that_fetches_ahead_trains_its_last_batch_in_the_same_epoch(watching, loop):
    with watching() as seen:
        for _ in range(2):
            ahead = iter(loop.training)
            batch = next(ahead)
            while batch is not None:
                following = next(ahead, None)
                loop.step(batch)
                batch = following
    assert [step.epoch for step in seen.steps()] == [1, 1, 1, 2, 2, 2]
    assert numbers(seen) == [1, 2]


def test_stream_without_length_ends_its_epochs_too(watching, loop):
    loader = DataLoader(Stream(), batch_size=BATCH)
    with watching() as seen:
        for _ in range(2):
            for batch in loader:
                loop.step(batch)
    assert numbers(seen) == [1, 2]
    assert [epoch.train.samples for epoch in seen.epochs] == [SAMPLES, SAMPLES]


def test_endless_stream_has_no_epoch(watching, loop):
    with watching() as seen:
        for batch in itertools.islice(DataLoader(Stream(400), batch_size=BATCH), 5):
            loop.step(batch)
    assert {step.epoch for step in seen.steps()} == {None}


def test_new_iterator_for_every_step_is_no_epoch(watching, loop):
    with watching() as seen:
        for _ in range(8):
            loop.step(next(iter(loop.training)))
    assert seen.epochs == []
    assert len(seen.steps()) == 8
    assert {(step.epoch, step.batch) for step in seen.steps()[1:]} == {(None, None)}  # the first might have gone on


def test_new_iterator_for_every_step_stays_in_the_epoch_that_it_begins(watching, loop):
    with watching() as seen:
        for batch in loop.training:
            loop.step(batch)
        for _ in range(3):
            loop.step(next(iter(loop.training)))
    assert [step.epoch for step in seen.steps()] == [1, 1, 1, 2, 2, 2]


def test_batch_tried_before_the_loop_is_no_reason_to_miss_its_epochs(watching, loop):
    with watching() as seen:
        loop.step(next(iter(loop.training)))
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
    assert numbers(seen) == [1, 2]
    assert {step.batches for step in seen.steps()[2:]} == {3}


@pytest.fixture
def persistent():
    """A loader whose passes are all the same iterator, which starts anew."""
    loader = DataLoader(data(16), batch_size=BATCH, num_workers=1, persistent_workers=True)
    yield loader
    loader._iterator._shutdown_workers()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("taken", [4, 2])
def test_persistent_workers_start_a_new_pass(watching, loop, persistent, taken):
    with watching() as seen:
        for _ in range(3):
            for index, batch in enumerate(persistent, start=1):
                loop.step(batch)
                if index == taken:
                    break
    assert [step.epoch for step in seen.steps()] == [1] * taken + [2] * taken + [3] * taken
    assert {step.samples for step in seen.steps()} == {BATCH}


def test_loop_over_tensors_has_epochs_where_it_validates(watching, loop):
    inputs, labels = data().tensors
    with watching() as seen:
        for _ in range(3):
            for part in (slice(0, 4), slice(4, 8), slice(8, 10)):
                loop.step((inputs[part], labels[part]))
            loop.validate()
    assert numbers(seen) == [1, 2, 3]
    assert [epoch.train.samples for epoch in seen.epochs] == [SAMPLES] * 3


def test_steps_over_tensors_are_in_an_epoch_from_the_first_validation_on(watching, loop):
    with watching() as seen:
        for _ in range(2):
            for batch in in_parts(data()):
                loop.step(batch)
            loop.validate()
    assert [step.epoch for step in seen.steps()] == [None, None, None, 2, 2, 2]


def test_loop_over_tensors_without_validation_has_no_epoch(watching, loop):
    inputs, labels = data().tensors
    with watching() as seen:
        for _ in range(4):
            loop.step((inputs, labels))
    assert {step.epoch for step in seen.steps()} == {None}
    assert seen.epochs == []


@pytest.mark.parametrize("validated_after", [0, 1])
def test_validation_in_the_middle_keeps_the_epoch(watching, loop, validated_after):
    with watching() as seen:
        for _ in range(2):
            for index, batch in enumerate(loop.training):
                loop.step(batch)
                if index == validated_after:
                    loop.validate()
    assert [step.epoch for step in seen.steps()] == [1, 1, 1, 2, 2, 2]
    assert len(seen.validations) == 2
    assert numbers(seen) == [1, 2]


def test_validation_over_datasets_made_anew_and_kept_is_no_test(watching, loop):
    """As the Trainer of Transformers makes them, of the columns that the model takes."""
    kept, expected = [], []
    with watching() as seen:
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
            kept.append(DataLoader(TensorDataset(*data(6, seed=2).tensors), batch_size=BATCH))
            expected.append(loop.validate(kept[-1]))
        loop.validate(DataLoader(data(7, seed=3), batch_size=BATCH))
    assert [epoch.validation.loss for epoch in seen.epochs] == pytest.approx(expected)
    assert [record.samples for record in seen.validations] == [6, 6]


def test_gradients_that_no_backward_brought_are_training_all_the_same(watching, loop):
    parameters, losses, validations = list(loop.model.parameters()), [], []
    with watching() as seen:
        for _ in range(2):
            for inputs, labels in loop.training:
                loss = F.cross_entropy(loop.model(inputs), labels)
                for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    parameter.grad = gradient
                loop.optimizer.step()
                losses.append(loss.item())
            validations.append(loop.validate())
    assert [step.samples for step in seen.steps()] == [BATCH, BATCH, 2] * 2
    assert seen.losses() == [None] * 6
    assert [epoch.validation.loss for epoch in seen.epochs] == pytest.approx(validations)
    assert [epoch.train.criterion for epoch in seen.epochs] == pytest.approx(
        [(4 * first + 4 * second + 2 * third) / 10 for first, second, third in (losses[:3], losses[3:])]
    )


def test_epoch_that_validates_before_its_last_batch_has_its_newest_validation(watching, loop):
    with watching() as seen:
        newest = []
        for _ in range(2):
            for index, batch in enumerate(loop.training):
                loop.step(batch)
                if index < 2:
                    loss = loop.validate()
            newest.append(loss)
    assert [epoch.validation.loss for epoch in seen.epochs] == pytest.approx(newest)


@pytest.mark.parametrize("validates_last", [False, True])
def test_test_pass_over_a_loader_after_training_is_no_validation(watching, loop, validates_last):
    held_out = DataLoader(data(7, seed=3), batch_size=BATCH)
    with watching() as seen:
        for index, batch in enumerate(loop.training):
            loop.step(batch)
            if index == 1:
                loss = loop.validate()
        loop.validate(held_out)
        if validates_last:
            loss = loop.validate()
    assert [epoch.validation.loss for epoch in seen.epochs] == pytest.approx([loss])
    assert {validation.samples for validation in seen.validations} == {6}


def test_last_validation_counts_though_each_makes_its_dataset_anew(watching, loop):
    with watching() as seen:
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
            loss = loop.validate(DataLoader(data(6, seed=2), batch_size=BATCH))
    assert seen.epochs[-1].validation.loss == pytest.approx(loss)


@pytest.mark.parametrize("splits", [("train", "val"), ("train", "val", "test"), ("train", "test")])
def test_split_that_the_users_code_names_is_the_validation_though_each_makes_its_dataset_anew(watching, loop, splits):
    """As llama2.c's `estimate_loss`: no loader, and no dataset, is one that was met before."""

    def estimate():
        losses = {}
        for seed, split in enumerate(splits):
            losses[split] = loop.validate(DataLoader(data(6, seed=seed), batch_size=BATCH))
        return losses

    with watching() as seen:
        expected = []
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
            expected.append(estimate()[splits[1]])
    assert [epoch.validation.loss for epoch in seen.epochs] == pytest.approx(expected)


def test_last_of_the_folds_that_are_validated_once_has_its_validation(watching, loop):
    folds = [(DataLoader(data(seed=i), batch_size=BATCH), DataLoader(data(6, seed=9 + i))) for i in range(3)]
    with watching() as seen:
        losses = []
        for training, validation in folds:
            for batch in training:
                loop.step(batch)
            losses.append(loop.validate(validation))
    assert [epoch.validation.loss for epoch in seen.epochs] == pytest.approx(losses)


def test_evaluation_on_training_data_does_not_spoil_validation(watching, loop):
    with watching() as seen:
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
            loop.validate(loop.training)
            loss = loop.validate()
    assert seen.epochs[-1].validation.loss == pytest.approx(loss)
    assert seen.epochs[-1].validation.samples == 6


@pytest.mark.parametrize("at_once", [False, True])
def test_test_on_tensors_beside_a_validation_by_a_loader_is_no_part_of_it(watching, loop, at_once):
    test, expected = data(20, seed=3).tensors, []
    with watching() as seen:
        for _ in range(3):
            for batch in loop.training:
                loop.step(batch)
            with torch.no_grad():
                if at_once:
                    inputs, labels = map(torch.cat, zip(*loop.validation, strict=True))
                    expected.append(F.cross_entropy(loop.model(inputs), labels).item())
                else:
                    expected.append(loop.validate())
                F.cross_entropy(loop.model(test[0]), test[1])
    assert [epoch.validation.loss for epoch in seen.epochs] == pytest.approx(expected)


@pytest.mark.parametrize("samples", [6, 8])
def test_evaluation_over_tensors_after_training_is_a_test_where_it_is_not_as_long(watching, loop, samples):
    training, validation, test = in_parts(data()), in_parts(data(6, seed=2)), in_parts(data(samples, seed=3))
    with watching() as seen:
        for index, batch in enumerate(training * 3):
            loop.step(batch)
            if index in (3, 5):
                loss = loop.validate(validation)
        tested = loop.validate(test)
    assert len(seen.validations) == (3 if samples == 6 else 2)
    assert seen.validations[-1].loss == pytest.approx(tested if samples == 6 else loss)


@pytest.mark.parametrize("by_tensors", [False, True])
def test_evaluation_on_training_data_alone_is_no_validation_beside_one_that_comes_more_often(
    watching, loop, by_tensors
):
    training, validation = loop.training, loop.validation
    if by_tensors:
        training, validation = in_parts(data()), in_parts(data(6, seed=2))
    expected = []
    with watching() as seen:
        for _ in range(3):
            for index, batch in enumerate(training):
                loop.step(batch)
                if index == 1:
                    expected.append(loop.validate(validation))
            for inputs, labels in training:
                with torch.no_grad():
                    F.cross_entropy(loop.model(inputs), labels)
    assert [record.loss for record in seen.validations] == pytest.approx(expected)


def test_validation_is_chosen_anew_when_other_data_is_trained_on(watching, loop):
    training, validation = DataLoader(data(seed=3), batch_size=BATCH), DataLoader(data(6, seed=4), batch_size=BATCH)
    with watching() as seen:
        for batch in loop.training:
            loop.step(batch)
        loop.validate()
        for batch in training:
            loop.step(batch)
        loss = loop.validate(validation)
        loop.validate()  # that of the training before it
        loop.step(batch)
    assert seen.validations[-1].loss == pytest.approx(loss)


def test_evaluation_by_another_loader_over_the_training_data_is_known_as_such(watching, loop):
    again = DataLoader(loop.training.dataset, batch_size=5)
    with watching() as seen:
        for batch in loop.training:
            loop.step(batch)
        loop.validate(again)
        loss = loop.validate()
    assert seen.epochs[-1].validation.loss == pytest.approx(loss)


def test_validation_before_training_ends_no_epoch(watching, loop):
    with watching() as seen:
        loss = loop.validate()
        for batch in loop.training:
            loop.step(batch)
    assert numbers(seen) == [1]
    assert seen.validations[0].loss == pytest.approx(loss)
    assert seen.validations[0].step == 0
    assert seen.epochs[0].validation is None


def test_uneven_last_batch_weighs_what_it_holds_in_validation(watching, loop):
    with watching() as seen:
        loss = loop.validate()
    assert seen.validations[0].loss == pytest.approx(loss)
    assert seen.validations[0].samples == 6


def test_samples_and_batches_are_counted(watching, loop):
    with watching() as seen:
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
    assert [step.samples for step in seen.steps()] == [4, 4, 2, 4, 4, 2]
    assert [(step.batch, step.batches) for step in seen.steps()] == [(1, 3), (2, 3), (3, 3)] * 2
    assert seen.end.totals["samples"] == 2 * SAMPLES
    assert seen.end.totals["epochs"] == 2


def test_samples_of_accumulated_batches_add_up(watching, loop):
    with watching() as seen:
        for inputs, labels in loop.training:
            F.cross_entropy(loop.model(inputs), labels).backward()
        loop.optimizer.step()
    assert seen.steps()[0].samples == SAMPLES


def test_samples_of_a_batch_that_is_a_mapping(watching, loop):
    samples = [{"inputs": inputs, "labels": label} for inputs, label in data()]
    with watching() as seen:
        for batch in DataLoader(samples, batch_size=BATCH):
            loop.step(batch.values())
    assert [step.samples for step in seen.steps()] == [4, 4, 2]


def test_waiting_for_data_is_counted_and_is_part_of_the_step(watching, loop):
    class Slow(TensorDataset):
        def __getitem__(self, index):
            spin(0.002)
            return super().__getitem__(index)

    with watching() as seen:
        for batch in DataLoader(Slow(*data().tensors), batch_size=BATCH):
            loop.step(batch)
    assert all(step.data_wait_seconds > 0.002 for step in seen.steps())
    assert all(step.step_seconds >= step.data_wait_seconds for step in seen.steps()[1:])
    assert seen.steps()[-1].totals.data_wait_seconds == pytest.approx(sum(s.data_wait_seconds for s in seen.steps()))


def test_waiting_for_anything_but_a_loader_is_not_known(watching, loop):
    with watching() as seen:
        for batch in [data().tensors] * 3:
            loop.step(batch)
    assert all(step.step_seconds and step.data_wait_seconds is None for step in seen.steps()[1:])


def test_time_of_validation_is_in_no_step(watching, loop):
    with watching() as seen:
        started = time.perf_counter()
        for validated in (True, False):
            for batch in loop.training:
                loop.step(batch)
            if validated:
                loop.validate()
                spin(0.3)
                loop.validate()
        elapsed = time.perf_counter() - started
    first, *others = seen.steps()
    assert first.step_seconds is None
    assert sum(step.step_seconds for step in others) < elapsed - 0.3


def spin(seconds):
    """Work for so long, by the clock that the run reads."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def test_samples_of_two_loaders_of_one_length_add_up(watching, loop):
    other = DataLoader(data(seed=3), batch_size=BATCH)
    with watching() as seen:
        for (x, y), (more, _) in zip(loop.training, other, strict=True):
            loop.step((torch.cat([x, more]), torch.cat([y, y])))
    assert [step.samples for step in seen.steps()] == [2 * BATCH, 2 * BATCH, 4]


def test_last_batch_of_the_shorter_of_two_loaders_counts(watching, loop):
    short = DataLoader(data(BATCH, seed=3), batch_size=2)
    with watching() as seen:
        for (more, _), (x, y) in zip(short, loop.training, strict=False):
            loop.step((torch.cat([x, more]), torch.cat([y, y[:2]])))
    assert [step.samples for step in seen.steps()] == [BATCH + 2, BATCH + 2]


@pytest.mark.parametrize("outer", [BATCH, 3 * BATCH])  # samples
def test_every_batch_of_a_loader_around_another_counts(watching, loop, outer):
    around = DataLoader(data(outer, seed=3), batch_size=BATCH)
    with watching() as seen:
        for more, _ in around:
            for x, y in loop.training:
                loop.step((x + more[: len(x)], y))
    assert [step.samples for step in seen.steps()] == [2 * BATCH, BATCH, 2] * (outer // BATCH)


def test_samples_of_two_loaders_add_up_when_either_starts_anew_before_a_step(watching, loop):
    labelled, unlabelled = DataLoader(data(20), batch_size=4), DataLoader(data(9), batch_size=3)
    with watching() as seen:
        of_labelled, of_unlabelled = iter(labelled), iter(unlabelled)
        for _ in range(12):
            try:
                inputs, labels = next(of_labelled)
            except StopIteration:
                of_labelled = iter(labelled)
                inputs, labels = next(of_labelled)
            try:
                more, _ = next(of_unlabelled)
            except StopIteration:
                of_unlabelled = iter(unlabelled)
                more, _ = next(of_unlabelled)
            loop.optimizer.zero_grad()
            logits = loop.model(torch.cat([inputs, more]))
            (F.cross_entropy(logits[:4], labels) + logits[4:].square().mean()).backward()
            loop.optimizer.step()
    assert [step.samples for step in seen.steps()] == [7] * 12


def test_samples_count_where_gradients_of_two_losses_are_put_together_by_hand(watching, loop):
    parameters = list(loop.model.parameters())
    with watching() as seen:
        for inputs, labels in loop.training:
            parts = []
            for own in (False, True):
                loop.optimizer.zero_grad()
                logits = loop.model(inputs)
                (logits.square().mean() if own else F.cross_entropy(logits, labels)).backward()
                parts.append([p.grad for p in parameters])
            for parameter, *of_losses in zip(parameters, *parts, strict=True):
                parameter.grad = sum(of_losses)
            loop.optimizer.step()
    assert [step.samples for step in seen.steps()] == [4, 4, 2]


def test_batch_that_waits_for_validation_counts_with_its_own_step(watching, loop):
    with watching() as seen:
        for number, batch in enumerate(loop.training):
            if number == 1:
                loop.validate()
            loop.step(batch)
    assert [step.samples for step in seen.steps()] == [BATCH, BATCH, 2]


def time_first(items):
    return torch.stack([x for x, _ in items], 1), torch.stack([y for _, y in items])


def short_sequences(items):
    """Time first, and shorter than the batch is large."""
    return {"ids": torch.stack([x[:3] for x, _ in items], 1), "answers": torch.stack([x[:1] for x, _ in items], 1)}


def lists(items):
    return tuple(zip(*items, strict=True))


def one_long_row(items):
    return {"x": torch.cat([x for x, _ in items]), "lengths": torch.tensor([len(x) for x, _ in items])}


def named(items):
    return {"name": [str(int(y)) for _, y in items], "x": torch.stack([x for x, _ in items])}


def pairs(items):
    """Each with its rejected answer, as preference losses take them. As many entries as the last batch has items."""
    return {"ids": torch.cat([torch.stack([x for x, _ in items])] * 2), "mask": torch.ones(2 * len(items), 4)}


def without_padding(items):
    """As language models are fed with attention that knows where a text ends."""
    return {"ids": torch.cat([x for x, _ in items]).long()[None], "labels": torch.ones(1, 4 * len(items))}


@pytest.mark.parametrize("collate", [time_first, short_sequences, lists, one_long_row, named, pairs, without_padding])
def test_samples_are_items_however_they_are_laid_out(watching, loop, collate):
    with watching() as seen:
        for _ in DataLoader(data(10 * BATCH + 2), batch_size=BATCH, collate_fn=collate):
            loop.optimizer.zero_grad()
            loop.model.weight.pow(2).sum().backward()
            loop.optimizer.step()
    assert [step.samples for step in seen.steps()] == [BATCH] * 10 + [2]


def some_with_labels(items):
    return torch.stack([x for x, _ in items[1:]]), torch.stack([y for _, y in items[1:]])


def some_with_names(items):
    return {"x": torch.stack([x for x, _ in items[1:]]), "name": [str(int(y)) for _, y in items[1:]]}


@pytest.mark.parametrize("collate", [some_with_labels, some_with_names])
def test_samples_are_those_that_a_collate_function_leaves_though_each_is_as_wide_as_the_batch(watching, loop, collate):
    with watching() as seen:
        for _ in DataLoader(data(3 * BATCH), batch_size=BATCH, collate_fn=collate):
            loop.optimizer.zero_grad()
            loop.model.weight.pow(2).sum().backward()
            loop.optimizer.step()
    assert [step.samples for step in seen.steps()] == [BATCH - 1] * 3


def test_second_stage_has_its_own_training_loss_though_the_first_optimizer_lives_on(watching):
    stages, expected = [Loop(), Loop()], []
    with watching() as seen:
        for stage in stages:
            for _ in range(2):
                losses = [stage.step(batch) for batch in stage.training]
                expected.append((4 * losses[0] + 4 * losses[1] + 2 * losses[2]) / 10)
                stage.validate()
    assert [epoch.train.loss for epoch in seen.epochs] == pytest.approx(expected)


def test_samples_behind_a_name_are_their_own_where_the_sampler_is_the_users(watching, loop):
    class Sampler:
        batch_size = BATCH

        def __iter__(self):
            return iter([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]])

        def __len__(self):
            return 3

    def collate(items):
        return {"task": "digits", **default_collate([{"x": x, "y": y} for x, y in items])}

    with watching() as seen:
        for batch in DataLoader(data(), batch_sampler=Sampler(), collate_fn=collate):
            loop.step((batch["x"], batch["y"]))
    assert [step.samples for step in seen.steps()] == [BATCH, BATCH, 2]


@pytest.mark.parametrize("error", [ValueError, AttributeError, AssertionError])
def test_sampler_that_does_not_know_its_length_is_nobodys_fault(watching, loop, error):
    class Dynamic:
        def __iter__(self):
            return iter([[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]])

        def __len__(self):
            raise error("ambiguous")

    with watching() as seen:
        for batch in DataLoader(data(), batch_sampler=Dynamic()):
            loop.step(batch)
    assert [step.samples for step in seen.steps()] == [3, 4, 3]


def put_together(items, ahead=0):
    """Batches of what a loader hands out one by one, of which so many are fetched before the first is trained on."""
    rest = iter(items)
    items = itertools.chain(list(itertools.islice(rest, ahead)), rest)
    while batch := list(itertools.islice(items, BATCH)):
        yield [torch.stack(column) for column in zip(*batch, strict=True)]


class Images(Stream):
    """The first dimension of an item is of one channel."""

    def __iter__(self):
        return ((x.unsqueeze(0), y) for x, y in data(self.samples))


@pytest.mark.parametrize("items", [Stream(), Images(), data()])
@pytest.mark.parametrize("ahead", [0, 7])
def test_samples_of_batches_made_by_hand_of_a_loaders_items_are_their_targets(watching, loop, items, ahead):
    loader, unknown = DataLoader(items, batch_size=None), DataLoader(Images(6), batch_size=None)
    losses = []
    with watching() as seen:
        for _ in range(3):
            of_epoch = [loop.step((x.flatten(1), y)) for x, y in put_together(loader, ahead)]
            losses.append((4 * of_epoch[0] + 4 * of_epoch[1] + 2 * of_epoch[2]) / SAMPLES)
            loop.validate([(x.flatten(1), y) for x, y in put_together(unknown)])
    assert [step.samples for step in seen.steps()] == [BATCH, BATCH, 2] * 3
    assert [epoch.train.samples for epoch in seen.epochs] == [SAMPLES] * 3
    assert [epoch.train.loss for epoch in seen.epochs] == pytest.approx(losses)


def test_samples_of_a_validation_on_a_loaders_items_are_its_targets(watching, loop):
    validation = DataLoader(Stream(6), batch_size=None)
    with watching() as seen:
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
            with torch.no_grad():
                for inputs, labels in put_together(validation):
                    F.cross_entropy(loop.model(inputs), labels)
    assert [epoch.validation.samples for epoch in seen.epochs] == [6, 6]


def test_samples_of_batches_made_by_hand_of_a_loaders_items_are_not_known_without_targets(watching, loop):
    with watching() as seen:
        for inputs, _ in put_together(DataLoader(Stream(), batch_size=None)):
            loop.optimizer.zero_grad()
            loop.model(inputs).logsumexp(1).mean().backward()
            loop.optimizer.step()
    assert [step.samples for step in seen.steps()] == [None] * 3


@pytest.mark.parametrize("targets", [1, 3])
def test_items_that_are_batches_count_their_samples_whatever_the_targets_are(watching, loop, targets):
    """Three targets a sample, as of a language model."""
    batches = [(x, y.repeat_interleave(targets)) for x, y in in_parts(data())]
    with watching() as seen:
        for _ in range(2):
            for inputs, labels in DataLoader(batches, batch_size=None):
                loop.optimizer.zero_grad()
                F.cross_entropy(loop.model(inputs).repeat_interleave(targets, 0), labels).backward()
                loop.optimizer.step()
    assert [step.samples for step in seen.steps()] == [BATCH, BATCH, 2] * 2


def test_samples_of_lists_are_known_without_a_sampler_of_torch(watching, loop):
    indices = [[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]]
    with watching() as seen:
        for _ in DataLoader(data(), batch_sampler=indices, collate_fn=lists):
            loop.optimizer.zero_grad()
            loop.model.weight.pow(2).sum().backward()
            loop.optimizer.step()
    assert [step.samples for step in seen.steps()] == [3, 4, 3]


def test_collate_function_that_unwraps_whole_batches_counts_their_samples(watching, loop):
    whole = [(torch.randn(7, 4), torch.arange(7) % 3) for _ in range(3)]
    with watching() as seen:
        for batch in DataLoader(whole, batch_size=1, collate_fn=lambda items: items[0]):
            loop.step(batch)
    assert [step.samples for step in seen.steps()] == [7, 7, 7]


def test_names_before_the_tensors_of_a_batch_do_not_hide_its_samples(watching, loop):
    items = [(f"{i}.png", torch.randn(4)) for i in range(SAMPLES)]
    with watching() as seen:
        for _ in DataLoader(items, batch_size=BATCH):
            loop.optimizer.zero_grad()
            loop.model.weight.pow(2).sum().backward()
            loop.optimizer.step()
    assert [step.samples for step in seen.steps()] == [BATCH, BATCH, 2]


def test_two_heads_over_the_same_tensors_say_nothing_of_samples(watching, loop):
    x, y = data().tensors
    with watching() as seen:
        for _ in range(3):
            loop.optimizer.zero_grad()
            (F.cross_entropy(loop.model(x), y) + F.mse_loss(loop.model(x), torch.zeros(SAMPLES, 3))).backward()
            loop.optimizer.step()
    assert [step.samples for step in seen.steps()] == [None] * 3


def test_accumulated_losses_over_tensors_add_up_their_samples(watching, loop):
    x, y = data().tensors
    with watching() as seen:
        for _ in range(3):
            loop.optimizer.zero_grad()
            for part in range(2):
                F.cross_entropy(loop.model(x[part::2]), y[part::2]).backward()
            loop.optimizer.step()
    assert [step.samples for step in seen.steps()] == [SAMPLES] * 3


def test_closure_that_is_called_again_counts_its_samples_once(watching, loop):
    x, y = data().tensors
    optimizer = torch.optim.LBFGS(loop.model.parameters(), max_iter=4)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(loop.model(x), y)
        loss.backward()
        return loss

    with watching() as seen:
        for _ in range(3):
            optimizer.step(closure)
    assert [step.samples for step in seen.steps()] == [SAMPLES] * 3


def test_second_model_over_the_validation_loader_is_a_pass_of_its_own(watching, loop):
    other = nn.Linear(4, 3)
    with watching() as seen:
        expected = []
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
            expected.append(loop.validate())
            with torch.no_grad():
                for x, y in loop.validation:
                    F.cross_entropy(other(x), y)
    assert [epoch.validation.loss for epoch in seen.epochs] == pytest.approx(expected)


def test_validation_on_a_batch_at_a_time_is_one_pass(watching, loop):
    with watching() as seen:
        for batch in loop.training:
            loop.step(batch)
        with torch.no_grad():
            batches = [next(iter(loop.validation)) for _ in range(4)]
            losses = [F.cross_entropy(loop.model(x), y).item() for x, y in batches]
    assert [epoch.validation.loss for epoch in seen.epochs] == [pytest.approx(sum(losses) / 4)]


@pytest.mark.parametrize("looks", [1, 2])
def test_whole_pass_stands_alone_after_looks_at_the_first_batches(watching, loop, looks):
    validation, expected = DataLoader(data(14, seed=2), batch_size=BATCH), []
    with watching() as seen:
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
            for _ in range(looks):
                loop.validate(itertools.islice(validation, 2))
            expected.append(loop.validate(validation))
    assert [epoch.validation.loss for epoch in seen.epochs] == [pytest.approx(loss) for loss in expected]
    assert [epoch.validation.samples for epoch in seen.epochs] == [14, 14]


def test_batch_that_is_evaluated_without_a_loss_function_is_no_training(watching, loop):
    batches, others = (iter(DataLoader(data(40, seed=seed), batch_size=BATCH)) for seed in (1, 2))
    with watching() as seen:
        for step in range(6):
            loop.model.train()
            loop.step(next(batches))
            if step % 2:
                loop.model.eval()
                with torch.no_grad():
                    loop.model(next(others)[0]).logsumexp(1).mean()  # a loss by hand
    assert [step.samples for step in seen.steps()] == [BATCH] * 6


def own_loss(model, inputs, labels):
    return (model(inputs).softmax(1) - F.one_hot(labels, 3)).square().mean()


def usual_loss(model, inputs, labels):
    return F.cross_entropy(model(inputs), labels)


def test_batch_of_validation_that_was_fetched_before_the_model_was_in_eval_mode_is_no_training(watching, loop):
    """As Lightning fetches it, and keeps the iterator. The loss is the user's own."""
    validation = DataLoader(data(6, seed=2), batch_size=6)
    with watching() as seen:
        for epoch in range(3):
            for batch in loop.training if epoch else ():
                loop.optimizer.zero_grad()
                own_loss(loop.model, *batch).backward()
                loop.optimizer.step()
            with torch.no_grad():
                batches = iter(validation)
                batch = next(batches)
                loop.model.eval()
                own_loss(loop.model, *batch)
                loop.model.train()
    assert [step.samples for step in seen.steps()] == [BATCH, BATCH, SAMPLES % BATCH] * 2


class Repeated:
    """Batches without an end, round after round."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        while True:
            yield from self.sampler


class EndlessLoader(DataLoader):
    """One iterator for all epochs, so that its workers live on."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        object.__setattr__(self, "batch_sampler", Repeated(self.batch_sampler))
        self.batches = super().__iter__()

    def __len__(self):
        return len(self.batch_sampler.sampler)

    def __iter__(self):
        return (next(self.batches) for _ in range(len(self)))


@pytest.mark.parametrize("fast", [False, True])
def test_round_of_a_loader_that_repeats_its_batches_is_an_epoch(watching, loop, fast):
    training, own = EndlessLoader(data(48 if fast else SAMPLES), batch_size=BATCH, shuffle=True), []
    validation = EndlessLoader(data(6, seed=2), batch_size=BATCH)
    with watching() as seen:
        for _ in range(3):
            losses = [(loop.step(batch), len(batch[1])) for batch in training]
            own.append((sum(loss * n for loss, n in losses) / sum(n for _, n in losses), loop.validate(validation)))
    assert numbers(seen) == [1, 2, 3]
    assert [epoch.train.samples for epoch in seen.epochs] == [48 if fast else SAMPLES] * 3
    assert [(epoch.train.loss, epoch.validation.loss) for epoch in seen.epochs] == [pytest.approx(o) for o in own]
    assert [epoch.validation.samples for epoch in seen.epochs] == [6] * 3


def test_round_of_a_loader_that_repeats_is_an_epoch_without_validation(watching, loop):
    training = EndlessLoader(data(), batch_size=BATCH, shuffle=True)
    with watching() as seen:
        for _ in range(3):
            for batch in training:
                loop.step(batch)
    assert numbers(seen) == [1, 2, 3]
    assert [step.epoch for step in seen.steps()] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize(("epochs", "logs", "told"), [(3, False, 1), (2, False, 1), (1, False, 0), (3, True, 0)])
def test_validation_by_a_loss_of_the_users_own_is_said_to_be_unseen(watching, loop, epochs, logs, told):
    with watching() as seen:
        for _ in range(epochs):
            for inputs, labels in loop.training:
                loop.optimizer.zero_grad()
                own_loss(loop.model, inputs, labels).backward()
                loop.optimizer.step()
            loop.model.eval()
            with torch.no_grad():
                losses = [own_loss(loop.model, inputs, labels).item() for inputs, labels in loop.validation]
            loop.model.train()
            if logs:
                seen.run.log(loss=sum(losses) / 2, phase="validation")
    assert [notice.kind for notice in seen.backend.of(Notice)].count("validation_unseen") == told


@pytest.mark.parametrize(("evaluated_after", "told"), [((1,), 1), ((), 0)], ids=["within epochs", "before the first"])
def test_validation_by_a_loss_of_the_users_own_is_said_to_be_unseen_within_epochs(
    watching, loop, evaluated_after, told
):
    def evaluate():
        loop.model.eval()
        with torch.no_grad():
            for inputs, labels in loop.validation:
                own_loss(loop.model, inputs, labels)
        loop.model.train()

    with watching() as seen:
        evaluate()
        for _ in range(3):
            for index, batch in enumerate(loop.training, 1):
                loop.step(batch)
                if index in evaluated_after:
                    evaluate()
    assert [notice.step for notice in seen.backend.of(Notice) if notice.kind == "validation_unseen"] == [6] * told
    assert numbers(seen) == [1, 2, 3]


@pytest.mark.parametrize(("times", "loss", "told"), [(10, own_loss, [20]), (9, own_loss, []), (20, usual_loss, [])])
def test_validation_of_a_batch_now_and_then_is_said_to_be_unseen_within_an_epoch_without_end(
    watching, loop, times, loss, told
):
    training = iter(DataLoader(data(1000), batch_size=BATCH))
    validation = iter(DataLoader(data(100), batch_size=BATCH))
    with watching() as seen:
        for _ in range(times):
            loop.step(next(training))
            loop.step(next(training))
            loop.model.eval()
            with torch.no_grad():
                loss(loop.model, *next(validation))
            loop.model.train()
        loop.step(next(training))
    assert [notice.step for notice in seen.backend.of(Notice) if notice.kind == "validation_unseen"] == told


def test_training_data_is_no_validation_where_other_data_is_evaluated_without_a_loss(watching, loop):
    """The accuracy of the test data is counted by hand, beside the loss over the training data."""
    with watching() as seen:
        for _ in range(3):
            for batch in loop.training:
                loop.step(batch)
            loop.validate(loop.training)
            loop.model.eval()
            with torch.no_grad():
                for inputs, _labels in loop.validation:
                    loop.model(inputs).argmax(1)
            loop.model.train()
    assert (seen.validations, numbers(seen)) == ([], [1, 2, 3])
    assert [notice.kind for notice in seen.backend.of(Notice)].count("validation_unseen") == 1


def test_validation_by_another_loss_than_training_calls_is_said_to_be_just_that(watching, loop):
    with watching() as seen:
        for _ in range(3):
            for inputs, labels in loop.training:
                loop.optimizer.zero_grad()
                F.binary_cross_entropy_with_logits(loop.model(inputs), F.one_hot(labels, 3).float()).backward()
                loop.optimizer.step()
            loop.model.eval()
            with torch.no_grad():
                for inputs, labels in loop.validation:
                    F.cross_entropy(loop.model(inputs), labels)
            loop.model.train()
    (notice,) = seen.backend.of(Notice)
    assert "no loss function of torch that training calls" in notice.text
    assert seen.validations == []


@pytest.mark.parametrize(
    ("epochs", "validates_by", "told"),
    [
        (3, [F.mse_loss], 1),
        (1, [F.mse_loss], 0),
        (3, [F.huber_loss], 0),
        (3, [F.mse_loss, F.huber_loss], 0),
        (3, [], 0),
    ],
)
def test_validation_of_a_tensor_by_another_loss_is_said_to_be_unseen(watching, epochs, validates_by, told):
    model, inputs = nn.Linear(4, 1), torch.randn(40, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = loader_of(inputs[:30], inputs[:30, :1], 10)
    with watching() as seen:
        for _ in range(epochs):
            for x, y in training:
                optimizer.zero_grad()
                F.huber_loss(model(x), y).backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                for loss in validates_by:
                    loss(model(inputs[30:]), inputs[30:, :1])
            model.train()
    assert [notice.kind for notice in seen.backend.of(Notice)].count("validation_unseen") == told
    assert len(seen.validations) == epochs * (F.huber_loss in validates_by)


def test_other_loss_that_is_only_looked_at_in_training_is_no_validation_unseen(watching):
    model, inputs = nn.Linear(4, 1), torch.randn(30, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        for _ in range(3):
            for x, y in loader_of(inputs, inputs[:, :1], 10):
                optimizer.zero_grad()
                F.huber_loss(model(x), y).backward()
                optimizer.step()
                with torch.no_grad():
                    F.mse_loss(model(x), y)
    assert seen.backend.of(Notice) == []


def test_validation_that_keeps_grad_on_is_not_in_the_training_accuracy(watching, loop):
    with watching() as seen:
        for _ in range(2):
            for batch in loop.training:
                loop.step(batch)
            for x, y in loop.validation:
                F.cross_entropy(loop.model(x), y)
    counted = [epoch.train.accuracy_samples or epoch.train.samples for epoch in seen.epochs]
    assert all(count <= SAMPLES for count in counted)
    assert all(epoch.train.accuracy is not None for epoch in seen.epochs)


def loader_of(inputs, targets, size):
    return DataLoader(TensorDataset(inputs, targets), size)


@pytest.mark.parametrize("validates", [False, True])
@pytest.mark.parametrize("rows", [20, 60])
def test_training_that_was_left_in_the_middle_of_a_pass_is_no_part_of_the_next_ones_epoch(watching, rows, validates):
    """Pretraining up to a number of steps, then epochs with an optimizer of their own over fewer or more batches."""
    inputs, body = torch.randn(60, 4), nn.Linear(4, 4)
    model, trained = nn.Sequential(body, nn.Linear(4, 3)), []
    labels = inputs.argmax(1) % 3
    with watching() as seen:
        optimizer = torch.optim.Adam(body.parameters(), lr=1e-3)
        for part, targets in itertools.islice(loader_of(inputs[:40], inputs[:40], 4), 6):
            optimizer.zero_grad()
            F.mse_loss(body(part), targets).backward()
            optimizer.step()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(3):
            losses = []
            for part, targets in loader_of(inputs[:rows], labels[:rows], 4):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(part), targets)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            trained.append(sum(losses) / len(losses))
            if validates:
                model.eval()
                with torch.no_grad():
                    for part, targets in loader_of(inputs[40:], labels[40:], 5):
                        F.cross_entropy(model(part), targets)
                model.train()
    assert [epoch.train.loss for epoch in seen.epochs[1:]] == pytest.approx(trained)
    assert [epoch.train.samples for epoch in seen.epochs] == [24, *[rows] * 3]


@torch.no_grad()
def evaluate_by_hand(model, loader):
    """How many are predicted right, in some of the batches."""
    model.eval()
    return sum((model(inputs).argmax(1) == labels).sum().item() for inputs, labels in itertools.islice(loader, 2))


@pytest.mark.parametrize("kept", [0, 1, None], ids=["none kept", "the newest kept", "all kept"])
@pytest.mark.parametrize("optimizers", [1, 2])
def test_trials_that_leave_their_passes_have_epochs_and_steps_of_their_own_whatever_is_kept(watching, kept, optimizers):
    """A search: each trial has loaders of its own, and is evaluated by hand."""
    memory, losses, inputs = collections.deque(maxlen=kept), [], torch.randn(60, 4)
    labels = inputs[:, :3].argmax(1)
    with watching() as seen:
        for epochs in (1, 2, 1, 3):
            model = nn.Linear(4, 3)
            parts = [[model.weight, model.bias]] if optimizers == 1 else [[model.weight], [model.bias]]
            steppers = [torch.optim.SGD(part, lr=0.1) for part in parts]
            loader, held = loader_of(inputs[:40], labels[:40], 4), loader_of(inputs[40:], labels[40:], 4)
            for _ in range(epochs):
                losses.append(0.0)
                model.train()
                for part, targets in itertools.islice(loader, 5):
                    model.zero_grad()
                    loss = F.cross_entropy(model(part), targets)
                    loss.backward()
                    for stepper in steppers:
                        stepper.step()
                    losses[-1] += loss.item() / 5
                evaluate_by_hand(model, held)
            memory.append((model, steppers))
            del model, parts, steppers, stepper
    trained = [step for step in seen.backend.of(Step) if step.phase == "train"]
    assert [step.step for step in trained[::optimizers]] == list(range(1, 36))
    assert [epoch.train.loss for epoch in seen.epochs] == pytest.approx(losses)
    assert [(epoch.step, epoch.train.samples) for epoch in seen.epochs] == [(5 * n, 20) for n in range(1, 8)]


def test_optimizer_that_joins_with_a_loader_of_its_own_after_an_evaluation_amid_a_pass_is_no_other_training(watching):
    """A critic that is warmed up, and evaluated by hand, before the actor steps for the first time."""
    actor, critic = nn.Linear(4, 2), nn.Linear(4, 2)
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (actor, critic)]
    acts, values, held = (loader_of(torch.randn(40, 4), torch.arange(40) % 2, 4) for _ in range(3))
    with watching() as seen:
        batches = iter(acts), iter(values)
        for index in range(10):
            if index == 4:
                evaluate_by_hand(critic, held)
                critic.train()
            for model, optimizer, source in list(zip((actor, critic), optimizers, batches, strict=True))[index < 4 :]:
                optimizer.zero_grad()
                inputs, labels = next(source)
                F.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
    assert [step.step for step in seen.steps("0")] == list(range(1, 11))
    assert [epoch.step for epoch in seen.epochs] == [10]


@pytest.mark.parametrize("is_new", [False, True])
def test_epochs_are_seen_after_a_stage_that_took_each_batch_from_an_iterator_of_its_own(watching, loop, is_new):
    inputs, labels, trained = torch.randn(40, 4), torch.randint(3, (40,)), []
    first = loader_of(inputs, labels, 2)
    with watching() as seen:
        for _ in range(9):
            part, targets = next(iter(first))
            loop.step((part, targets))
        if is_new:
            loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.1)
        for _ in range(3):
            trained.append([loop.step(batch) for batch in loader_of(inputs[:20], labels[:20], 4)])
    assert [epoch.train.loss for epoch in seen.epochs[-2:]] == pytest.approx([sum(t) / 5 for t in trained[1:]])
    assert len(seen.epochs) == 3


@pytest.mark.parametrize("validates", [False, True])
def test_end_of_the_run_in_the_middle_of_a_pass_is_an_epoch_if_it_was_validated(watching, loop, validates):
    """As in loops over so many iterations, of a loader that begins again and again."""
    batches = itertools.chain.from_iterable(itertools.repeat(loop.training))
    with watching() as seen:
        for _ in range(2 * len(loop.training) + 2):
            loop.step(next(batches))
        validation = loop.validate() if validates else None
    assert [epoch.train.samples for epoch in seen.epochs] == [10, 10, *[8] * validates]
    if validates:
        assert seen.epochs[-1].validation.loss == pytest.approx(validation)


@pytest.mark.parametrize(
    ("made", "batch", "is_divided"),
    [
        (lambda loss, more: loss + more, BATCH, False),
        (lambda loss, more: loss / 2.0 + loss / 2.0, BATCH, False),
        (lambda loss, more: loss / BATCH, BATCH, True),
        (lambda loss, more: loss / 2, 2, True),
    ],
    ids=["with more terms", "in parts", "divided", "divided by two"],
)
def test_epoch_tells_a_sum_with_more_terms_for_each_sample(watching, loop, made, batch, is_divided):
    """As the losses of autoencoders are; weighted by samples, they would count twice."""
    loader, losses = DataLoader(data(), batch_size=batch, drop_last=is_divided), []
    with watching() as seen:
        for inputs, labels in loader:
            loop.optimizer.zero_grad()
            loss = made(F.cross_entropy(loop.model(inputs), labels, reduction="sum"), loop.model.weight.square().sum())
            loss.backward()
            loop.optimizer.step()
            losses.append(loss.item())
    (epoch,) = seen.epochs
    assert epoch.train.loss == pytest.approx(sum(losses) / (len(losses) if is_divided else SAMPLES))


@pytest.mark.parametrize("is_fed", [True, False], ids=["from a loader", "from tensors"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_validation_that_is_drawn_from_an_iterator_without_end_is_of_as_many_batches_each_time(
    watching, model, is_fed, count
):
    def endless(loader):
        while True:
            yield from loader

    inputs, labels = torch.randn(18, 4), torch.randint(3, (18,))
    training = DataLoader(TensorDataset(inputs, labels), 6)
    validation = endless(DataLoader(TensorDataset(torch.randn(12, 4), torch.randint(3, (12,))), 4))
    optimizer, expected = torch.optim.SGD(model.parameters(), lr=0.1), []
    with watching() as seen:
        for _ in range(7):
            for each, target in training if is_fed else zip(inputs.split(6), labels.split(6), strict=True):
                optimizer.zero_grad()
                F.cross_entropy(model(each), target).backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                losses = [
                    F.cross_entropy(model(each), target).item() for each, target in itertools.islice(validation, count)
                ]
            model.train()
            expected.append(sum(losses) / count)
    assert [each.loss for each in seen.validations] == pytest.approx(expected)
    assert {each.samples for each in seen.validations} == {4 * count}
    assert [step.samples for step in seen.steps()] == [6] * 21


def _by_four(loader):
    """Keeps four batches in hand, as prefetchers do."""
    batches, waiting = iter(loader), collections.deque()
    while True:
        waiting += itertools.islice(batches, 4 - len(waiting))
        if not waiting:
            return
        yield waiting.popleft()


def _in_a_thread(loader):
    """Reads ahead of who trains, as far as there is room."""
    room = queue.Queue(3)

    def fill():
        for batch in loader:
            room.put(batch)
        room.put(None)

    reader = threading.Thread(target=fill)
    reader.start()
    while not room.full():
        time.sleep(0.001)
    while (batch := room.get()) is not None:
        yield batch
    reader.join()


@pytest.mark.parametrize("read", [_by_four, _in_a_thread, list])
def test_loss_of_an_epoch_is_that_of_its_batches_however_far_they_are_read_ahead(watching, model, read):
    loader = DataLoader(TensorDataset(torch.randn(22, 4), torch.randint(3, (22,))), 2)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    with watching() as seen:
        for _ in range(3):
            for inputs, labels in read(loader):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(inputs), labels)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    assert [epoch.train.samples for epoch in seen.epochs] == [22] * 3
    assert [epoch.train.loss for epoch in seen.epochs] == pytest.approx(
        [sum(part) / 11 for part in (losses[:11], losses[11:22], losses[22:])]
    )
    assert [step.samples for step in seen.steps()] == [2] * 33


def test_samples_of_a_list_of_batches_are_counted_however_often_it_is_trained_on(watching, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        batches = list(DataLoader(TensorDataset(torch.randn(22, 4), torch.randint(3, (22,))), 2))
        for _ in range(3):
            for inputs, labels in batches:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
    assert [step.samples for step in seen.steps()] == [2] * 33
    assert sum(epoch.train.samples for epoch in seen.epochs) == 66


def test_loop_that_takes_several_batches_and_the_loss_of_one_has_them_all_behind_it(watching, model):
    """As where the others have no labels. They are not read ahead: as many come for each training."""
    loader = DataLoader(TensorDataset(torch.randn(24, 4), torch.randint(3, (24,))), 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        for _ in range(3):
            batches = iter(loader)
            for (inputs, labels), _, _ in zip(batches, batches, batches, strict=True):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
    assert [epoch.step for epoch in seen.epochs] == [4, 8, 12]
    assert [epoch.train.samples for epoch in seen.epochs] == [24] * 3
    assert [step.samples for step in seen.steps()][2:] == [6] * 10


def _at_once(inputs, labels):
    return next(iter(loader_of(inputs, labels, len(labels))))


def _in_parts_that_are_joined(inputs, labels):
    return [torch.cat(parts) for parts in zip(*loader_of(inputs, labels, 10), strict=True)]


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("read", [_at_once, _in_parts_that_are_joined])
def test_samples_of_batches_that_are_cut_from_data_that_was_read_beforehand_are_their_targets(
    watching, loop, read, reduction
):
    inputs, labels, expected = torch.randn(56, 4), torch.randint(3, (56,)), []
    with watching() as seen:
        rows, targets = read(inputs[:40], labels[:40])
        held_out, answers = read(inputs[40:], labels[40:])
        for _ in range(3):
            losses = []
            for part in torch.randperm(40).split(8):
                loop.optimizer.zero_grad()
                loss = F.cross_entropy(loop.model(rows[part]), targets[part], reduction=reduction).mul(2).sum()
                loss.backward()
                loop.optimizer.step()
                losses.append(loss.item())
            expected.append(sum(losses) / 40)
            loop.validate([(held_out, answers)])
    assert [step.samples for step in seen.steps()] == [8] * 15
    assert [epoch.train.samples for epoch in seen.epochs] == [40] * 3
    assert [epoch.train.loss for epoch in seen.epochs] == pytest.approx(expected)


def test_samples_of_data_that_was_read_beforehand_count_as_often_as_all_of_it_is_trained_on(watching, loop):
    inputs, labels = torch.randn(56, 4), torch.randint(3, (56,))
    with watching() as seen:
        batch, held_out = _at_once(inputs[:40], labels[:40]), _at_once(inputs[40:], labels[40:])
        for _ in range(5):
            loop.step(batch)
            loop.validate([held_out])
    assert [step.samples for step in seen.steps()] == [40] * 5
    assert [epoch.train.samples for epoch in seen.epochs] == [40] * 5


@pytest.mark.parametrize("evaluated", [["validation"], ["training"], ["validation", "training"]])
@pytest.mark.parametrize("epochs", [0, 2])
def test_items_that_were_evaluated_without_a_loss_function_are_no_samples_of_what_is_trained_without_a_loader(
    watching, loop, evaluated, epochs
):
    def evaluate():
        loop.model.eval()
        with torch.no_grad():
            for name in evaluated:
                for inputs, _labels in getattr(loop, name):
                    loop.model(inputs).argmax(1)
        loop.model.train()

    batch = torch.randn(50, 4), torch.randint(3, (50,))
    with watching() as seen:
        evaluate()
        for _ in range(epochs):
            for part in loop.training:
                loop.step(part)
            evaluate()
        for _ in range(5):
            loop.step(batch)
    assert [step.samples for step in seen.steps()] == [4, 4, 2] * epochs + [50] * 5


def test_validation_that_keeps_grad_on_adds_no_samples_to_steps_of_another_size_without_a_loader(watching, loop):
    with watching() as seen:
        for _ in range(3):
            for batch in in_parts(data()):
                loop.step(batch)
            for inputs, labels in DataLoader(data(10, seed=2), batch_size=5):
                F.cross_entropy(loop.model(inputs), labels)
    assert [step.samples for step in seen.steps()] == [4, 4, 2] * 3
