"""Steps between two records are folded into one, and nothing of them is lost."""

import math

import pytest
import torch

from trimtab.capture.criteria import Criteria
from trimtab.capture.models import Models
from trimtab.capture.passes import Passes
from trimtab.capture.recorder import Recorder
from trimtab.sample.criteria import Criterion
from trimtab.sample.meter import Meter
from trimtab.sample.passes import PassSums
from trimtab.sample.spacing import Spacing
from trimtab.types import Step

NAN, INF = math.nan, math.inf


def test_folded_steps_keep_count_mean_and_extremes(desk):
    (event,) = desk.fold(1.0, 2.0, 6.0, seconds=0.5, samples=3)
    assert (event.steps, event.loss, event.loss_min, event.loss_max) == (3, 3.0, 1.0, 6.0)
    assert (event.step_seconds, event.samples, event.step) == (0.5, 9, 3)
    assert event.step_durations == (0.5, 0.5, 0.5)


def test_single_step_has_no_extremes(desk):
    (event,) = desk.fold(1.0)
    assert (event.steps, event.loss, event.loss_min, event.loss_max) == (1, 1.0, None, None)


def test_first_nan_is_a_record_of_its_own(desk):
    before, bad, after = desk.fold(1.0, 3.0, NAN, 5.0, 7.0)
    assert (before.steps, before.loss, before.step) == (2, 2.0, 2)
    assert (bad.steps, bad.step) == (1, 3)
    assert math.isnan(bad.loss)
    assert (after.steps, after.loss, after.step) == (2, 6.0, 5)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_first_value_that_is_not_finite_may_be_the_first_or_the_last(desk, bad):
    first, rest = desk.fold(bad, 1.0)
    assert (first.steps, rest.steps) == (1, 1)
    assert not math.isfinite(first.loss)
    assert rest.loss == 1.0


def test_later_nans_are_folded_and_stay_nan(desk):
    desk.fold(NAN)
    ledger = desk.books.ledger("0")
    for loss in (1.0, NAN, 2.0):
        desk.row(ledger, loss)
    desk.close(ledger)
    folded = desk.backend.of(Step)[-1]
    assert folded.steps == 3
    assert math.isnan(folded.loss)
    assert math.isnan(folded.loss_min)
    assert math.isnan(folded.loss_max)


def test_infinity_among_finite_losses_is_not_hidden(desk):
    desk.fold(NAN)
    ledger = desk.books.ledger("0")
    for loss in (1.0, INF):
        desk.row(ledger, loss)
    desk.close(ledger)
    assert desk.backend.of(Step)[-1].loss == INF
    assert desk.backend.of(Step)[-1].loss_max == INF


def test_losses_that_are_not_finite_are_counted(desk):
    *_, last = desk.fold(1.0, NAN, INF, NAN)
    assert last.totals.nonfinite == {"loss": 3}


def test_steps_without_a_loss_are_steps(desk):
    (event,) = desk.fold(None, 2.0, None)
    assert (event.steps, event.loss, event.loss_min, event.loss_max) == (3, 2.0, 2.0, 2.0)


def test_moving_average_starts_at_the_first_loss_and_weighs_the_newest_by_a_fiftieth(desk):
    (event,) = desk.fold(1.0, 2.0)
    assert event.loss_ema == pytest.approx(0.98 * 1.0 + 0.02 * 2.0)


def test_moving_average_passes_over_what_is_not_finite(desk):
    *_, last = desk.fold(1.0, NAN, 2.0)
    assert last.loss_ema == pytest.approx(0.98 * 1.0 + 0.02 * 2.0)


def test_moving_average_begins_anew_with_the_steps_that_follow_though_others_are_not_read_yet(desk):
    ledger = desk.books.ledger("0")
    desk.fold(5.0, 7.0)
    desk.row(ledger, 1e9)
    ledger.average_anew()
    for loss in (1.0, 2.0):
        desk.row(ledger, loss)
    desk.close(ledger)
    *_, last = desk.backend.of(Step)
    assert last.loss_ema == pytest.approx(0.98 * 1.0 + 0.02 * 2.0)


def test_micro_steps_are_a_mean_and_whole_where_they_can_be(desk):
    ledger = desk.books.ledger("0")
    for micro_steps in (4, 4, 1):
        desk.row(ledger, micro_steps=micro_steps)
    desk.close(ledger)
    assert desk.backend.of(Step)[0].micro_steps == 3
    assert type(desk.backend.of(Step)[0].micro_steps) is int


def test_totals_are_those_of_the_whole_run(desk):
    for _ in range(3):
        desk.fold(1.0, 1.0, samples=5, wait_seconds=0.25)
    totals = desk.backend.of(Step)[-1].totals
    assert (totals.steps, totals.samples, totals.data_wait_seconds) == (6, 30, 1.5)


def test_gradient_statistics_are_means_over_the_sampled_steps(desk):
    ledger, parameter = desk.books.ledger("0"), torch.nn.Parameter(torch.zeros(2))
    for value in (1.0, 3.0):
        parameter.grad = torch.full((2,), value)
        desk.sampler.sample_gradients(ledger, [parameter])
        desk.row(ledger)
    desk.row(ledger)
    desk.close(ledger)
    (event,) = desk.backend.of(Step)
    assert (event.steps, event.gradient_steps) == (3, 2)
    assert (event.gradient_mean, event.gradient_max_abs) == (2.0, 3.0)
    assert event.gradient_norm == pytest.approx((2**0.5 + 18**0.5) / 2)
    assert event.layers["p0"].mean == 2.0
    assert event.layers["p0"].max_abs == 3.0


def test_gradients_that_are_not_finite_are_counted_by_step(desk):
    ledger, parameter = desk.books.ledger("0"), torch.nn.Parameter(torch.zeros(2))
    for value in (1.0, NAN, INF):
        parameter.grad = torch.tensor([1.0, value])
        desk.sampler.sample_gradients(ledger, [parameter])
        desk.row(ledger)
    desk.close(ledger)
    (event,) = desk.backend.of(Step)
    assert event.gradient_nonfinite == 2
    assert event.totals.nonfinite == {"gradient": 2}
    assert math.isnan(event.gradient_norm)
    assert math.isnan(event.gradient_max_abs)


def test_gradients_of_the_first_bad_step_go_into_its_record(desk):
    ledger, parameter = desk.books.ledger("0"), torch.nn.Parameter(torch.zeros(2))
    for loss in (1.0, NAN):
        parameter.grad = torch.full((2,), loss)
        desk.sampler.sample_gradients(ledger, [parameter])
        desk.row(ledger, loss)
    desk.close(ledger)
    good, bad = desk.backend.of(Step)
    assert (good.gradient_mean, good.gradient_nonfinite) == (1.0, None)
    assert bad.gradient_nonfinite == 1


def test_norms_before_clipping_go_into_the_record_of_their_step(desk):
    ledger = desk.books.ledger("0")
    for loss, norm in ((1.0, 2.0), (NAN, NAN), (1.0, 4.0)):
        ledger.preclip_norms.append((len(ledger.rows), norm))
        desk.row(ledger, loss)
    desk.close(ledger)
    first, bad, last = [step.gradient_preclip_norm for step in desk.backend.of(Step)]
    assert (first, last) == (2.0, 4.0)
    assert math.isnan(bad)


def test_steps_that_a_fused_optimizer_skipped_are_left_out_with_all_they_measured(desk):
    ledger, parameter = desk.books.ledger("0"), torch.nn.Parameter(torch.zeros(1))
    for loss, found_inf in ((1.0, 0.0), (INF, 1.0), (3.0, 0.0)):
        parameter.grad = torch.tensor([loss])
        desk.sampler.sample_gradients(ledger, [parameter])
        ledger.preclip_norms.append((len(ledger.rows), loss))
        desk.row(ledger, torch.tensor(loss), found_inf=torch.tensor(found_inf))
    desk.close(ledger)
    desk.books.flush()
    (event,) = desk.backend.of(Step)
    assert (event.steps, event.loss, event.gradient_steps, event.gradient_mean) == (2, 2.0, 2, 2.0)
    assert event.gradient_preclip_norm == 2.0
    assert event.skipped == {"scaler": 1}
    assert event.totals.nonfinite == {"loss": 1}


@pytest.fixture
def recorder(desk):
    models, passes = Models(), Passes(lambda sums: None, lambda epoch, sums: None)
    recorder = Recorder(
        desk.books, desk.sampler, passes, Criteria(models, passes, Spacing(0.0), lambda: desk.now), Meter()
    )
    recorder.clock = lambda: desk.now
    return recorder


@pytest.mark.parametrize("validated_every", [10_000, 100, 3])
@pytest.mark.parametrize("optimizers", [1, 3])
def test_records_are_at_most_ten_a_second_and_no_step_is_lost(desk, recorder, optimizers, validated_every):
    ledgers = [desk.books.ledger(str(index)) for index in range(optimizers)]
    for step in range(10_000):
        desk.now += 1e-3
        for ledger in ledgers:
            recorder.record(ledger, [1.0], None, desk.now)
        if step % validated_every == validated_every - 1:
            desk.books.validation(passed(batches=2))
    desk.books.flush()
    records = desk.backend.of(Step)
    assert 10 <= len(records) <= 100
    assert sum(record.steps for record in records if record.phase == "train") == 10_000 * optimizers
    assert sum(record.steps for record in records if record.phase == "validation") == 10_000 // validated_every * 2


def passed(batches):
    sums = PassSums()
    for _ in range(batches):
        sums.add(Criterion(1.0, 1.0, 1), None, 1)
    return sums


@pytest.mark.parametrize(
    "end",
    [
        lambda desk: desk.close(desk.books.ledger("0")),
        lambda desk: desk.books.validation(passed(batches=1)),
        lambda desk: desk.books.end_epoch(1, None),
        lambda desk: desk.books.flush(),
        lambda desk: desk.books.count_on(),
    ],
    ids=["step", "validation", "epoch", "flush", "count_on"],
)
def test_record_is_told_of_whatever_ends_it(desk, end):
    told = []
    desk.books.on_record = lambda: told.append(desk.now)
    desk.row(desk.books.ledger("0"))
    end(desk)
    assert told == [0.0]
    end(desk)
    assert told == [0.0], "nothing has come since"


def test_fault_of_one_block_costs_no_other(desk):
    ledger, faults = desk.books.ledger("0"), iter([True])
    emit = desk.backend.write

    def write(events):
        if next(faults, False):
            raise OSError("once")
        emit(events)

    desk.backend.write = write
    desk.row(ledger)
    with pytest.raises(OSError, match="once"):
        desk.close(ledger)
    desk.row(ledger)
    desk.close(ledger)
    assert [event.totals.steps for event in desk.backend.of(Step)] == [2]
