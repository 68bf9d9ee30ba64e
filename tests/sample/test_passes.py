import math

import pytest
import torch

from trimtab.sample.criteria import Criterion, TrainingCriterion, mean_of
from trimtab.sample.ledger import Columns
from trimtab.sample.passes import EpochSums, PassSums


def columns(losses, weights, **more):
    n = len(losses)
    values = {**dict.fromkeys(Columns._fields, (None,) * n), "loss": losses, "weight": weights, "samples": weights}
    return Columns(**{**values, **more})


def test_loss_of_a_validation_pass_is_weighted_by_targets():
    sums = PassSums()
    sums.add(Criterion(1.0, 6.0, 2), None, 2)
    sums.add(Criterion(4.0, 3.0, 1), None, 1)
    assert sums.summary().loss == 2.0
    assert sums.summary().samples == 3


def test_accuracy_of_a_validation_pass_counts_targets():
    sums = PassSums()
    for met, counted in ((3.0, 4.0), (0.0, 2.0)):
        sums.add(Criterion(1.0, 4.0, 4), (met, counted), 4)
    assert sums.summary().accuracy == 0.5


@pytest.mark.parametrize("split", [0, 2, 6])
def test_passes_fold_as_if_they_were_one(split):
    whole, first, second = PassSums(), PassSums(), PassSums()
    for index in range(6):
        batch = Criterion(float(index), 1.0 + index, 2), (1.0, 2.0), 2
        whole.add(*batch)
        (first if index < split else second).add(*batch)
    first.add_pass(second)
    assert first.summary() == whole.summary()
    assert first.batches == whole.batches == 6


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_pass_with_a_value_that_is_not_finite_is_not(bad):
    sums = PassSums()
    sums.add(Criterion(1.0, 1.0, 1), None, 1)
    sums.add(Criterion(bad, 1.0, 1), None, 1)
    assert not math.isfinite(sums.summary().loss)


def test_pass_in_which_nothing_counts_has_no_loss():
    sums = PassSums()
    sums.add(Criterion(math.nan, 0, 4), None, 4)
    assert sums.summary().loss is None


def test_pass_without_classes_has_no_accuracy():
    sums = PassSums()
    sums.add(Criterion(1.0, 1.0, 1), (0.0, 0.0), 1)
    assert sums.summary().accuracy is None


def test_mean_of_batches_is_weighted_and_leaves_out_what_does_not_count():
    assert mean_of([Criterion(1.0, 1.0, 1), Criterion(4.0, 2.0, 2), Criterion(math.nan, 0, 2)]) == 3.0
    assert mean_of([Criterion(math.nan, 0, 2)]) is None


def test_epoch_weighs_steps_by_samples():
    sums = EpochSums()
    sums.add(columns((1.0, 4.0), (2, 1)))
    sums.add(columns((7.0,), (3,)))
    assert sums.summary().loss == pytest.approx((2 * 1 + 1 * 4 + 3 * 7) / 6)
    assert sums.summary().samples == 6


def test_epoch_leaves_out_steps_without_a_loss_and_keeps_nan():
    sums = EpochSums()
    sums.add(columns((None, 2.0), (100, 1)))
    assert sums.summary().loss == 2.0
    sums.add(columns((math.nan,), (1,)))
    assert math.isnan(sums.summary().loss)


def test_epoch_takes_means_where_the_objective_is_a_sum():
    sums = EpochSums()
    sums.add(columns((8.0, 8.0), (4, 4), mean_loss=(2.0, 2.0), criterion=(2.0, 2.0)))
    assert sums.summary().loss == 2.0
    assert sums.summary().criterion == 2.0


def test_epoch_of_which_nothing_was_seen_has_no_summary():
    assert EpochSums().summary() is None


def test_rows_are_parted_by_epoch():
    rows = columns((1.0, 2.0, 3.0), (1, 1, 1), epoch=(1, 1, 2))
    assert [(epoch, part.loss) for epoch, part in rows.by_epoch()] == [(1, (1.0, 2.0)), (2, (3.0,))]


def test_criterion_of_training_is_a_mean_since_the_last_time_beside_that_of_the_first_steps():
    criterion = TrainingCriterion()
    assert criterion.take() is None
    for step in range(TrainingCriterion.BEGINNING + 2):
        criterion.add(4.0 if step < TrainingCriterion.BEGINNING else 1.0)
    assert criterion.take() == (pytest.approx(3.4), 4.0)
    criterion.add(0.5)
    assert criterion.take() == (0.5, 4.0)


def test_criterion_of_training_on_a_device_is_read_when_it_is_asked_for():
    criterion = TrainingCriterion()
    for value in (2.0, 4.0):
        criterion.add(torch.tensor(value))
    assert criterion.take() == (3.0, 3.0)
