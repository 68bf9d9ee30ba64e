"""What loss functions have said since the last step, where some of it was set aside."""

import torch

from trimtab.capture.said import Said
from trimtab.sample.chance import Tally
from trimtab.sample.criteria import Criterion


def said_of(loss):
    return Said(loss, samples=2, values=[Criterion(1.0, 2.0, 2)], labels=[Tally(torch.ones(3), 3.0, "classes")])


def test_what_is_said_after_it_by_the_same_loss_function_is_added():
    before = said_of("one")
    before.add(said_of("one"))
    assert (before.samples, len(before.values), len(before.labels)) == (4, 2, 2)


def test_values_and_labels_of_another_loss_function_are_none_of_the_one_after_it():
    before, after = said_of("one"), said_of("other")
    before.add(after)
    assert before.primary == "other"
    assert (before.values, before.labels) == (after.values, after.labels)
