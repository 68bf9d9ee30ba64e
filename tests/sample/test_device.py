"""The way of values that are held on a device. Zero-dimensional tensors take it wherever they are."""

import math

import pytest
import torch

from trimtab.sample.criteria import Criterion
from trimtab.sample.passes import PassSums
from trimtab.sample.updates import Weights
from trimtab.types import Epoch, Step


def held(value):
    return torch.tensor(value, dtype=torch.float64)


def test_values_come_out_where_they_went_in(desk):
    ledger = desk.books.ledger("0")
    ledger.learning_rate, ledger.groups = [held(0.5), 0.25, None], [{"weight_decay": held(0.125)}]
    for loss, norm in ((1.0, 10.0), (3.0, 30.0)):
        ledger.preclip_norms.append((len(ledger.rows), held(norm)))
        desk.row(ledger, held(loss), mean_loss=held(loss / 4), criterion=held(loss / 2), found_inf=held(0.0))
    ledger.predictions.append((1, held(3.0), held(4.0)))
    numbers = ledger.cut(0.0, 1, None, None).read()
    assert numbers.rows.loss == (1.0, 3.0)
    assert numbers.rows.mean_loss == (0.25, 0.75)
    assert numbers.rows.criterion == (0.5, 1.5)
    assert numbers.rows.found_inf == (0.0, 0.0)
    assert numbers.preclip_norms == [(0, 10.0), (1, 30.0)]
    assert numbers.learning_rate == [0.5, 0.25, None]
    assert numbers.weight_decay == [0.125]
    assert numbers.predictions == [(1, 3.0, 4.0)]


@pytest.mark.parametrize("losses", [(1.0, None), (None, 1.0), (1.0, None, 2.0), (None,)])
def test_steps_without_a_loss_do_not_shift_the_others(desk, losses):
    ledger = desk.books.ledger("0")
    for loss in losses:
        desk.row(ledger, None if loss is None else held(loss), criterion=held(7.0))
        ledger.preclip_norms.append((0, held(9.0)))
    numbers = ledger.cut(0.0, 1, None, None).read()
    assert numbers.rows.loss == losses
    assert set(numbers.rows.criterion) == {7.0}
    assert {norm for _, norm in numbers.preclip_norms} == {9.0}


def test_a_record_is_read_one_block_later_so_that_nobody_waits(desk):
    ledger = desk.books.ledger("0")
    desk.row(ledger, held(1.0))
    desk.close(ledger)
    assert desk.backend.of(Step) == []
    desk.row(ledger, held(2.0))
    desk.close(ledger)
    assert [step.loss for step in desk.backend.of(Step)] == [1.0]
    desk.books.flush()
    assert [step.loss for step in desk.backend.of(Step)] == [1.0, 2.0]


def test_records_keep_their_order_though_some_could_be_read_at_once(desk):
    slow, quick = desk.books.ledger("slow"), desk.books.ledger("quick")
    desk.row(slow, held(1.0))
    desk.close(slow)
    desk.row(quick, 2.0)
    desk.close(quick)
    desk.books.flush()
    assert [step.optimizer for step in desk.backend.of(Step)] == ["slow", "quick"]


def test_epoch_waits_for_the_steps_that_belong_to_it(desk):
    ledger = desk.books.ledger("0")
    desk.row(ledger, held(1.0), epoch=1)
    desk.close(ledger)
    desk.books.end_epoch(1, None)
    assert desk.backend.of(Epoch) == []
    desk.row(ledger, held(5.0), epoch=2)
    desk.close(ledger)
    (epoch,) = desk.backend.of(Epoch)
    assert epoch.train.loss == 1.0


def test_no_tensor_leaves(desk):
    ledger = desk.books.ledger("0")
    desk.row(ledger, held(math.nan))
    desk.row(ledger, 1.0, criterion=held(2.0))
    desk.books.flush()
    desk.books.end_epoch(1, None)
    for event in desk.backend.events:
        assert "tensor" not in repr(event)


def test_sums_of_a_validation_pass_stay_where_they_are_until_it_is_read():
    sums = PassSums()
    for value, weight in ((1.0, 4.0), (4.0, 2.0)):
        sums.add(Criterion(held(value), held(weight), int(weight)), (held(weight / 2), held(weight)), int(weight))
    summary = sums.summary()
    assert summary.loss == 2.0
    assert summary.accuracy == 0.5
    assert summary.samples == 6


def test_validation_batch_in_which_nothing_counts_adds_nothing_on_a_device_either():
    sums = PassSums()
    for value, weight in ((3.0, 4.0), (math.nan, 0.0)):
        sums.add(Criterion(held(value), held(weight), 4), None, 4)
    assert sums.summary().loss == 3.0


def test_update_ratios_of_a_step_that_was_skipped_after_all_are_left_out(desk):
    ledger, parameter, weights = desk.books.ledger("0"), torch.nn.Parameter(torch.ones(4)), Weights()
    for found_inf in (1.0, 0.0):
        parameter.grad = torch.ones(4)
        desk.sampler.sample_gradients(ledger, [parameter])
        desk.sampler.hold_weights(ledger, [parameter], weights)
        with torch.no_grad():
            parameter.mul_(1.5 - 0.5 * found_inf)
        desk.sampler.compare_weights(ledger, weights)
        desk.row(ledger, held(1.0), found_inf=held(found_inf))
    desk.books.flush()
    (step,) = desk.backend.of(Step)
    assert (step.steps, step.layers["p0"].update_ratio) == (1, 0.5)
