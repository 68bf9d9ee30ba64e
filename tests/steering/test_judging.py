"""What the judge is given, when, and beside what."""

import math

import pytest
import torch

from trimtab.capture.tracked import Unjudged
from trimtab.rules.judge import Judge
from trimtab.rules.rule import resolve
from trimtab.sample import readings
from trimtab.sample.books import Books
from trimtab.sample.gradients import take
from trimtab.sample.layers import LayerChoice
from trimtab.sample.ledger import GradientSample
from trimtab.sample.readings import Due
from trimtab.sample.updates import UpdateSample
from trimtab.steering.judging import Judging
from trimtab.types import PhaseSummary


class Asked(Judge):
    """A judge that remembers what a validation pass was compared with."""

    def validation(self, step, loss, accuracy, train_loss, beginning=None, **options):
        self.train_loss = train_loss
        return super().validation(step, loss, accuracy, train_loss, beginning, **options)


@pytest.fixture
def judge():
    return Asked(resolve(()))


@pytest.fixture
def said():
    return []


@pytest.fixture
def judging(judge, said):
    books = Books(lambda event: None, LayerChoice(None, lambda p: None, said.append))
    return Judging(judge, books, lambda kind, text: said.append(text))


def summary(loss):
    return PhaseSummary(loss=loss, accuracy=None, samples=4)


@pytest.mark.parametrize(("train", "validation", "told"), [(1.0, math.nan, 1), (1.0, 1.0, 0), (math.nan, math.nan, 0)])
def test_validation_that_alone_is_not_finite_is_told_of(judging, said, train, validation, told):
    trained(judging, [train] * 4)
    judging.validation(4, summary(validation))
    assert [text.startswith("After step 4 the validation loss is nan") for text in said] == [True] * told


def trained(judging, losses, label="0"):
    ledger = judging._books.ledger(label)
    verdicts, late = judging.steps(ledger, len(losses), Due(losses))
    assert not late
    return verdicts


class Known:
    """A loss at chance that is known."""

    is_exact = True

    def read(self):
        return 1.0


@pytest.mark.parametrize(
    ("loss", "blocks", "epochs", "rates", "told"),
    [
        (4.0, 5, 2, [0.1] * 5, True),
        (4.0, 4, 2, [0.1] * 4, False),
        (4.0, 5, 1, [0.1] * 5, False),
        (1.05, 5, 2, [0.1] * 5, False),
        (4.0, 6, 2, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], False),
        (4.0, 7, 2, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4], True),
    ],
    ids=["worse", "of few values", "in the first epoch", "near", "in a warm-up", "after a warm-up"],
)
def test_loss_that_was_worse_than_a_constant_all_along_is_told_of(judging, said, loss, blocks, epochs, rates, told):
    ledger = judging._books.ledger("0")
    ledger.chance, judging._books.epochs = Known(), epochs
    for block, rate in zip(range(1, blocks + 1), rates, strict=True):
        ledger.learning_rate = [rate]
        judging.steps(ledger, 48 * block, Due([loss] * 48))
    assert [text.startswith(f"After {epochs} epochs the mean training loss is 4,") for text in said] == [True] * told


def test_warm_up_of_the_training_before_says_nothing_of_the_next_one(judging, said):
    ledger = judging._books.ledger("0")
    ledger.chance, judging._books.epochs = Known(), 2
    for block in range(1, 16):
        if block == 11:
            judging.begin_anew("0", 480)
        ledger.learning_rate = [0.1 * min(block, 11)]
        judging.steps(ledger, 48 * block, Due([4.0] * 48))
    assert len(said) == 1


@pytest.mark.parametrize("doubt", ["rivals", "reinforcement"])
def test_loss_that_need_not_come_down_is_not_told_of(judging, judge, said, doubt):
    ledger = judging._books.ledger("0")
    ledger.chance, judging._books.epochs = Known(), 2
    if doubt == "rivals":
        judge.step("1", 0, 1.0, None, None)
        judge.contest.held_fixed(["0"], "1")
    else:
        judge.distrust_loss()
    trained(judging, [4.0] * 300)
    trained(judging, [4.0] * 300)
    assert said == []


def test_validation_is_compared_with_the_training_since_the_one_before(judging, judge):
    trained(judging, [4.0, 2.0])
    judging.validation(2, summary(3.0))
    assert judge.train_loss == 3.0
    trained(judging, [1.0, 0.5])
    judging.validation(4, summary(1.0))
    assert judge.train_loss == 0.75


def test_validation_of_another_model_is_not_compared_with_the_losses_of_the_first(judging, judge):
    trained(judging, [4.0, 2.0])
    judging.begin_anew("0", 2)
    trained(judging, [1.0, 0.5])
    judging.validation(4, summary(1.0))
    assert judge.train_loss == 0.75


def test_losses_of_another_model_that_are_on_a_device_yet_are_none_of_its_successors(judging, judge):
    ledger = judging._books.ledger("0")
    judging.steps(ledger, 2, Due([torch.tensor(4.0), torch.tensor(2.0)]))
    judging.begin_anew("0", 2)
    for at in (4, 6):
        judging.steps(ledger, at, Due([torch.tensor(1.0), torch.tensor(0.5)]))
    judging.validation(6, summary(1.0))
    assert judge.train_loss == 0.75


def test_steps_before_a_fence_are_not_judged(judging, judge):
    judging.fence(["0"], 3, "0", None)
    assert trained(judging, [float("nan")] * 3) == []
    assert [verdict.rule for verdict in trained(judging, [float("nan")] * 4)] == ["loss_nonfinite"]


@pytest.mark.parametrize("fenced", [None, "0"])
def test_movement_before_a_fence_goes_with_no_reading_of_what_follows(judging, fenced):
    ledger, other = (judging._books.ledger(label) for label in "01")
    for each in (ledger, other):
        each.newest_update = UpdateSample(0, ["weight"], torch.tensor([18.0]))
    judging.fence(["0"], 3, fenced, back_to=None)
    assert ledger.newest_update is None
    assert (other.newest_update is None) == (fenced is None)


@pytest.mark.parametrize("back_to", [None, 1])
def test_moving_average_of_the_loss_begins_anew_where_the_weights_are_others(judging, back_to):
    ledger = judging._books.ledger("0")
    ledger.loss_ema = 1e9
    judging.fence(["0"], 3, "0", back_to)
    assert ledger.loss_ema == (1e9 if back_to is None else None)


def test_what_is_monitored_and_never_seen_is_told_after_the_second_pass(judge, said):
    judge = Judge(resolve(()), monitor=("f1", "max"))
    books = Books(lambda event: None, LayerChoice(None, lambda p: None, said.append))
    judging = Judging(judge, books, lambda kind, text: said.append(text))
    judging.logged(1, "f1_macro", 0.5)
    judging.validation(1, summary(1.0))
    assert said == []
    judging.validation(2, summary(1.0))
    assert len(said) == 1
    assert "f1_macro" in said[0]


def test_step_that_a_device_left_out_is_no_evidence_but_the_third_in_a_row_is(judging, judge):
    """GradScaler tells a fused optimizer on the device; who judges hears of it with the losses, one step later."""
    ledger, firing = judging._books.ledger("0"), {}
    for step, found in enumerate([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0], start=1):
        overflowed = GradientSample(0, [take([torch.tensor([math.inf if found else 1.0])])], ["weight"])
        due = Due([torch.tensor(1.0)], [(0, overflowed)], found_inf=[(0, torch.tensor(found))])
        verdicts, _ = judging.steps(ledger, step, due)
        firing |= {verdict.rule: verdict.step for verdict in verdicts or () if verdict.state == "firing"}
    assert firing == {"gradient_nonfinite": 7}
    judging.validation(8, summary(1.0))
    assert judge.train_loss == 1.0


def test_steps_that_wait_keep_what_may_have_left_them_out_by_their_place():
    unjudged = Unjudged()
    for step in range(2):
        unjudged.add([1.0], 0.0)  # it is known
        unjudged.add([2.0], torch.tensor(float(step)))
    points = readings.points(unjudged.take()).read()
    assert [point.loss for point in points] == [1.0, 2.0, 1.0, None]
    assert [point.is_skipped for point in points] == [False, False, False, True]
    assert readings.points(unjudged.take()).read() == []


def test_validation_between_two_judgements_is_compared_with_what_was_trained_before(judging, judge):
    """Where policies may act, steps wait for their turn to be judged, and a fast loop may validate after each."""
    trained(judging, [2.0, 4.0])
    compared = []
    for step in (2, 3):
        judging.validation(step, summary(1.0))
        compared.append(judge.train_loss)
    trained(judging, [1.0])
    judging.validation(4, summary(1.0))
    judging.begin_anew("0", 4)
    compared.append(judge.train_loss)
    judging.validation(5, summary(1.0))
    assert [*compared, judge.train_loss] == [3.0, 3.0, 1.0, None]
