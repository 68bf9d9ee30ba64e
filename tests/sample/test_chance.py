"""The loss at chance: what the best answer that is the same for every input costs."""

import math

import pytest
import torch
from torch.nn import functional as F

from trimtab.sample.chance import FIRST, LABELS, NUMBERS, TALLIES, THEN_EVERY, Chance, Tally, next_call, tally
from trimtab.sample.criteria import MEAN, LossCall

ROWS = 1000


def call(input, target, name="cross_entropy_loss", classes="multiclass", **fields):
    return LossCall(name, len(target), input.sum(), input, target, MEAN, classes, **fields)


def after(*calls, times=FIRST):
    """What is known after each of these calls was made so often."""
    chance = Chance()
    for _ in range(times):
        for each in calls:
            found = tally(each)
            if found is not None:
                chance.add(found)
    return chance.read()


@pytest.fixture
def labels():
    """Four classes of which no two come equally often, and one that never comes."""
    return torch.tensor([0] * 400 + [1] * 300 + [2] * 200 + [4] * 100)


def cost(answer, labels, **options):
    """The loss of giving this answer, in log probabilities, to every input."""
    return F.cross_entropy(answer.expand(len(labels), *answer.shape), labels, **options).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_chance_is_the_least_cost_of_one_answer_to_all(labels, smoothing):
    chance = after(call(torch.zeros(ROWS, 5), labels, smoothing=smoothing))
    found = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([found], lr=1.0, max_iter=200, tolerance_change=0.0)

    def loss():
        search.zero_grad()
        answer = found.log_softmax(0).expand(ROWS, 5)
        value = F.cross_entropy(answer, labels, label_smoothing=smoothing)
        value.backward()
        return value

    least = search.step(loss) and loss().item()
    assert chance == pytest.approx(least, abs=1e-3)


@pytest.mark.parametrize("ignore_index", [-100, 2, None])
def test_few_labels_are_counted_one_by_one_like_many(labels, monkeypatch, ignore_index):
    few = call(torch.zeros(100, 5), labels[::10], ignore_index=ignore_index, smoothing=0.1)
    one_by_one = tally(few)
    monkeypatch.setattr("trimtab.sample.chance.FEW", 0)
    by_kernels = tally(few)
    assert torch.equal(one_by_one.wanted, by_kernels.wanted)
    assert one_by_one[1:] == by_kernels[1:]


@pytest.mark.parametrize(("most", "is_counted"), [(4, False), (5, True)])
def test_so_many_classes_that_counting_takes_memory_are_not_counted(labels, monkeypatch, most, is_counted):
    monkeypatch.setattr("trimtab.sample.chance.MOST_CLASSES", most)
    assert (tally(call(torch.zeros(ROWS, 5), labels)) is not None) == is_counted
    assert (tally(call(torch.zeros(2, 5), torch.ones(2, 5), classes="binary_logits")) is not None) == is_counted


def test_even_classes_cost_their_logarithm():
    labels = torch.arange(ROWS) % 10
    few = 9 / (2 * ROWS * FIRST)  # what is added for what is not known of the shares
    assert after(call(torch.zeros(ROWS, 10), labels)) == pytest.approx(math.log(10) + few, rel=1e-9)


def test_labels_that_are_ignored_are_left_out(labels):
    ignored = labels.clone()
    ignored[::3] = -100
    kept = labels[labels == ignored]
    whole = after(call(torch.zeros(ROWS, 5), ignored, ignore_index=-100))
    assert whole == after(call(torch.zeros(len(kept), 5), kept, ignore_index=-100))


def test_places_of_a_picture_count_one_by_one(labels):
    flat = after(call(torch.zeros(ROWS, 5), labels))
    assert after(call(torch.zeros(10, 5, 20, 5), labels.reshape(10, 20, 5))) == flat


def test_probabilities_as_targets_count_as_the_shares_that_they_are(labels):
    hard = after(call(torch.zeros(ROWS, 5), labels))
    assert after(call(torch.zeros(ROWS, 5), F.one_hot(labels, 5).double())) == pytest.approx(hard, rel=1e-9)
    mixed = torch.full((ROWS, 5), 0.2)
    assert after(call(torch.zeros(ROWS, 5), mixed)) == pytest.approx(math.log(5), abs=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_several_classes_may_be_wanted_of_each_input(smoothing):
    wanted = torch.zeros(ROWS, 5).scatter_(1, torch.arange(2 * ROWS).view(ROWS, 2) % 5, 1.0)
    even = F.cross_entropy(torch.zeros(ROWS, 5), wanted, label_smoothing=smoothing).item()
    assert after(call(torch.zeros(ROWS, 5), wanted, smoothing=smoothing)) == pytest.approx(even, abs=1e-3)


def test_nothing_is_known_while_every_label_is_ignored():
    assert after(call(torch.zeros(ROWS, 5), torch.full((ROWS,), -100), ignore_index=-100)) is None


def test_nothing_is_known_where_a_target_was_nan():
    targets = (torch.arange(ROWS) % 2.0).index_fill_(0, torch.tensor(3), math.nan)
    assert after(call(torch.zeros(ROWS), targets, "binary_cross_entropy_with_logits", "binary_logits")) is None


def test_binary_outputs_have_a_share_each():
    targets = torch.zeros(ROWS, 2)
    targets[: ROWS // 2, 0] = 1.0
    targets[: ROWS // 10, 1] = 1.0
    found = after(call(torch.zeros(ROWS, 2), targets, "binary_cross_entropy_with_logits", "binary_logits"))
    tenth = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert found == pytest.approx((math.log(2) + tenth) / 2, abs=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"weighted": True},
        {"name": "multi_margin_loss"},
        {"name": "l1_loss", "classes": None},
    ],
)
def test_loss_that_is_no_plain_entropy_has_no_chance(labels, changes):
    assert tally(call(torch.zeros(ROWS, 5), labels, **changes)) is None


def test_nothing_is_known_of_classes_that_came_too_seldom():
    classes = 40
    labels = torch.arange(classes)
    assert after(call(torch.zeros(classes, classes), labels), times=FIRST) is None
    assert LABELS <= TALLIES
    assert after(call(torch.zeros(classes, classes), labels), times=TALLIES) == pytest.approx(
        math.log(classes), rel=0.01
    )


def test_labels_of_the_first_calls_are_counted_and_then_of_a_few():
    calls, call_ = [], 0
    while call_ < math.inf:
        calls.append(call_)
        call_ = next_call(call_, len(calls))
    assert calls[: FIRST + 3] == [*range(FIRST), THEN_EVERY, 2 * THEN_EVERY, 3 * THEN_EVERY]
    assert len(calls) == TALLIES


def test_one_class_alone_leaves_nothing_to_learn():
    assert after(call(torch.zeros(ROWS, 5), torch.zeros(ROWS, dtype=torch.long))) is None


@pytest.mark.parametrize("held", [float, lambda value: torch.tensor(value, dtype=torch.float64)])
@pytest.mark.parametrize(
    ("objective", "criterion", "known"), [(1.0, 1.01, True), (2.0, 1.0, False), (1.0, None, False)]
)
def test_chance_is_known_only_if_the_objective_is_the_loss_of_the_labels(labels, held, objective, criterion, known):
    chance = Chance()
    chance.compare(held(objective), None if criterion is None else held(criterion))
    for _ in range(FIRST):
        chance.add(tally(call(torch.zeros(ROWS, 5), labels)))
    chance.read()
    assert (chance.read() is not None) == known


def test_chance_is_known_no_more_once_a_penalty_has_grown(labels):
    chance = Chance()
    for _ in range(FIRST):
        chance.add(tally(call(torch.zeros(ROWS, 5), labels)))
    found = []
    for step in range(200):
        chance.compare(1.0 + step / 1000, 1.0)
        found.append(chance.read() is not None)
    assert found[0]
    assert not found[-1]


def test_on_a_device_it_is_read_when_it_is_asked_for_again(labels):
    chance = Chance()
    for _ in range(FIRST):
        found = tally(call(torch.zeros(ROWS, 5), labels))
        chance.add(found._replace(labels=torch.tensor(found.labels)))
    assert chance.read() is None
    assert chance.read() == pytest.approx(after(call(torch.zeros(ROWS, 5), labels)))
    chance.compare(torch.tensor(2.0), torch.tensor(1.0))
    assert chance.read() is not None
    assert chance.read() is None


@pytest.mark.gpu
def test_labels_on_a_device_are_counted_there(labels):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: run on a machine that has one")
    on_device = [call(torch.zeros(ROWS, 5, device="cuda"), labels.cuda(), ignore_index=-100)]
    chance = Chance()
    for _ in range(FIRST):
        chance.add(tally(on_device[0]))
    assert chance.read() is None
    assert chance.read() == pytest.approx(after(call(torch.zeros(ROWS, 5), labels)), rel=1e-6)


@pytest.mark.parametrize(
    "other", [Tally(torch.ones(5), 5.0, "classes"), Tally(torch.tensor([0.0, 64.0]), 64.0, "binary")]
)
def test_labels_of_another_number_of_classes_are_left_out(other):
    chance = Chance()
    for _ in range(FIRST):
        chance.add(Tally(torch.tensor([8.0, 8.0]), 16.0, "classes"))
        chance.add(other)
    assert chance.read() == pytest.approx(math.log(2), rel=0.02)


def of_numbers(targets, input=None, **fields):
    input = torch.zeros_like(targets) if input is None else input
    return call(input, targets, "mse_loss", None, **fields)


def known_after(chance, targets):
    """What is known each time that a batch of these was counted, and it was asked for."""
    for each in targets:
        chance.add(tally(of_numbers(each)))
        yield chance.read()


def rests(rows=4096, offset=0.0, size=64):
    """A batch at a time of three outputs, of which each varies in its own way."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.randn(rows, 3, generator=generator) * torch.tensor([0.5, 1.0, 2.0])
    return (targets + offset * torch.tensor([1.0, -2.0, 3.0])).split(size)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_numbers_cost_their_variance(offset):
    targets = rests(offset=offset)
    *_, found = known_after(Chance(), targets)
    constant = torch.cat(targets).double().mean(0)
    least = F.mse_loss(constant.expand(4096, 3), torch.cat(targets).double()).item()
    assert found == pytest.approx(least, rel=1e-3)


def test_variance_is_not_known_of_few_numbers():
    found = list(known_after(Chance(), rests(size=16)))
    assert 16 * 2 * FIRST < NUMBERS <= 16 * 4 * FIRST  # they are asked for after 8, 16 and 32 batches
    assert found[: 4 * FIRST - 1] == [None] * (4 * FIRST - 1)
    assert found[4 * FIRST - 1] is not None


def test_variance_is_not_known_while_it_moves():
    steady = rests()
    grows = [targets * 1.05**batch for batch, targets in enumerate(steady)]
    assert not any(known_after(Chance(), grows))
    assert any(known_after(Chance(), steady))


def test_targets_that_are_all_the_same_leave_nothing_to_learn():
    assert not any(known_after(Chance(), [torch.ones(64, 1)] * 32))


@pytest.mark.parametrize(
    "each",
    [
        of_numbers(torch.randn(64, 1, requires_grad=True)),  # two views of one input, or two networks
        of_numbers(torch.randn(64), torch.zeros(64, 1)),  # each with each, by mistake
        of_numbers(torch.zeros(64, dtype=torch.long)),
    ],
)
def test_targets_that_are_no_given_numbers_are_not_counted(each):
    assert tally(each) is None


def test_so_many_outputs_that_sums_take_memory_are_not_counted(monkeypatch):
    monkeypatch.setattr("trimtab.sample.chance.MOST_CLASSES", 4)
    assert tally(of_numbers(torch.zeros(8, 4))) is not None
    assert tally(of_numbers(torch.zeros(8, 5))) is None


def test_numbers_are_counted_at_once_until_there_are_enough():
    assert next_call(FIRST, FIRST, 2 * NUMBERS - 1) == FIRST + 1
    assert next_call(FIRST, FIRST, 2 * NUMBERS) == THEN_EVERY
    assert next_call(FIRST, TALLIES, 0) == math.inf
