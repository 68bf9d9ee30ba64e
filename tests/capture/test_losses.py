import contextlib
import functools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import cross_entropy as imported_before

from trimtab.capture.hooks import loss_of
from trimtab.capture.lane import OUT
from trimtab.capture.losses import BUILTIN_LOSSES, PYTHON_LOSSES, watch_losses
from trimtab.capture.patches import Patches
from trimtab.sample.criteria import criterion, predictions

LOGITS = torch.linspace(-2, 2, 24).reshape(6, 4).sin()
LABELS = torch.tensor([0, 1, 2, 3, 1, 1])
OTHER, THIRD = LOGITS.cos(), LOGITS.roll(1, 0)
ONES = torch.tensor([1.0, -1, 1, 1, -1, 1])
BINARY = (LOGITS > 0.3).float()

# Everything but the reduction, for each built-in loss.
CALLS = {
    "cross_entropy_loss": (F.cross_entropy, LOGITS, LABELS),
    "nll_loss_nd": (F.nll_loss, LOGITS.log_softmax(1), LABELS),
    "multi_margin_loss": (F.multi_margin_loss, LOGITS, LABELS),
    "binary_cross_entropy": (F.binary_cross_entropy, LOGITS.sigmoid(), BINARY),
    "binary_cross_entropy_with_logits": (F.binary_cross_entropy_with_logits, LOGITS, BINARY),
    "mse_loss": (F.mse_loss, LOGITS, OTHER),
    "l1_loss": (F.l1_loss, LOGITS, OTHER),
    "smooth_l1_loss": (F.smooth_l1_loss, LOGITS, OTHER),
    "huber_loss": (F.huber_loss, LOGITS, OTHER),
    "soft_margin_loss": (F.soft_margin_loss, LOGITS[:, 0], ONES),
    "multilabel_margin_loss": (F.multilabel_margin_loss, LOGITS, torch.tensor([[3, 0, -1, 1]] * 6)),
    "poisson_nll_loss": (F.poisson_nll_loss, LOGITS, OTHER.abs()),
    "hinge_embedding_loss": (F.hinge_embedding_loss, LOGITS, BINARY * 2 - 1),
    "margin_ranking_loss": (F.margin_ranking_loss, LOGITS[:, 0], OTHER[:, 0], ONES),
    "cosine_embedding_loss": (F.cosine_embedding_loss, LOGITS, OTHER, ONES),
    "triplet_margin_loss": (F.triplet_margin_loss, LOGITS, OTHER, THIRD),
}
MODULES = {
    "GaussianNLLLoss": (nn.GaussianNLLLoss, LOGITS, OTHER, OTHER.abs() + 0.1),
    "MultiLabelSoftMarginLoss": (nn.MultiLabelSoftMarginLoss, LOGITS, BINARY),
    "TripletMarginWithDistanceLoss": (nn.TripletMarginWithDistanceLoss, LOGITS, OTHER, THIRD),
}
CROSS_ENTROPIES = {
    "weights": (LOGITS, LABELS, {"weight": torch.tensor([0.1, 1, 2, 4])}),
    "ignored": (LOGITS, torch.tensor([0, -100, 2, -100, 1, 1]), {}),
    "ignored beyond the classes": (LOGITS, torch.tensor([0, 255, 2, 3, 255, 1]), {"ignore_index": 255}),
    "weights and ignored beyond the classes": (
        LOGITS,
        torch.tensor([0, 255, 2, 3, 255, 1]),
        {"ignore_index": 255, "weight": torch.tensor([0.1, 1, 2, 4])},
    ),
    "soft targets": (LOGITS, OTHER.softmax(1), {}),
    "soft targets and weights": (LOGITS, OTHER.softmax(1), {"weight": torch.tensor([0.1, 1, 2, 4])}),
    "label smoothing": (LOGITS, LABELS, {"label_smoothing": 0.1}),
    "label smoothing and weights": (LOGITS, LABELS, {"label_smoothing": 0.1, "weight": torch.tensor([0.1, 1, 2, 4])}),
    "pixels": (LOGITS.reshape(2, 4, 3), LABELS.reshape(2, 3), {}),
    "soft pixels": (LOGITS.reshape(2, 4, 3), OTHER.reshape(2, 4, 3).softmax(1), {}),
    "no batch": (LOGITS[0], LABELS[0], {}),
}

PER_CLASS, PER_ELEMENT = torch.tensor([0.1, 1, 2, 4]), LOGITS.abs() + 0.1
RARELY_USED = {  # arguments that change the value
    "weighted huber": (F.huber_loss, LOGITS, OTHER, {"weight": PER_ELEMENT, "delta": 0.3}),
    "weighted mse": (F.mse_loss, LOGITS, OTHER, {"weight": PER_ELEMENT}),
    "weighted l1": (F.l1_loss, LOGITS, OTHER, {"weight": PER_ELEMENT}),
    "smooth l1 without a smooth part": (F.smooth_l1_loss, LOGITS, OTHER, {"beta": 0.0}),
    "weighted nll": (F.nll_loss, LOGITS.log_softmax(1), LABELS, {"weight": PER_CLASS, "ignore_index": 1}),
    "multi margin": (F.multi_margin_loss, LOGITS, LABELS, {"weight": PER_CLASS, "p": 2, "margin": 0.5}),
    "weighted bce": (F.binary_cross_entropy, LOGITS.sigmoid(), BINARY, {"weight": PER_ELEMENT}),
    "weighted bce with logits": (
        F.binary_cross_entropy_with_logits, LOGITS, BINARY, {"weight": PER_CLASS, "pos_weight": PER_CLASS},
    ),
    "poisson": (F.poisson_nll_loss, LOGITS.abs(), OTHER.abs(), {"log_input": False, "full": True}),
    "hinge": (F.hinge_embedding_loss, LOGITS, BINARY * 2 - 1, {"margin": 0.2}),
    "cosine": (F.cosine_embedding_loss, LOGITS, OTHER, ONES, {"margin": 0.2}),
    "triplet": (F.triplet_margin_loss, LOGITS, OTHER, THIRD, {"margin": 0.2, "p": 1, "swap": True}),
    "broadcast ranking": (F.margin_ranking_loss, LOGITS[:1, 0], OTHER[:, 0], ONES, {}),
    "broadcast poisson": (F.poisson_nll_loss, LOGITS[:, :1], OTHER.abs(), {}),
    "old names": (F.mse_loss, LOGITS, OTHER, {"size_average": False}),
}  # fmt: skip
if hasattr(F, "linear_cross_entropy"):  # newer than 2.6
    in_chunks = {"options": nn.LinearCrossEntropyOptions(batch_chunk_size=2)}
    RARELY_USED |= {
        "linear cross entropy": (F.linear_cross_entropy, LOGITS, OTHER, LABELS, {"weight": torch.ones(6)}),
        "linear cross entropy in chunks": (F.linear_cross_entropy, LOGITS, OTHER, LABELS, in_chunks),
    }
UNSEEN = {"weighted mse", "weighted l1", "linear cross entropy in chunks"}  # which call no loss function of torch's


@contextlib.contextmanager
def watched_losses():
    patches, calls = Patches(), []

    def report(loss, output, args):
        if type(output) is torch.Tensor:  # not the fake one of a compiler
            calls.append(loss.call(output, args))
        return output

    lane = SimpleNamespace(awaits=OUT, ways=SimpleNamespace(loss=report))  # nothing is ordinary
    undo = watch_losses(patches, functools.partial(loss_of, lane), report)
    try:
        yield calls
    finally:
        patches.restore()
        undo()


@pytest.fixture
def calls():
    """What is reported of every call, while the loss functions are watched."""
    with watched_losses() as calls:
        yield calls


def mean_of(calls):
    return criterion(calls[-1]).value


def accuracy_of(calls):
    met, counted = predictions(calls[-1])
    return met / counted


def test_every_builtin_loss_has_a_test():
    assert {*CALLS, "kl_div", "ctc_loss"} == {loss.name for loss in BUILTIN_LOSSES}
    assert set(MODULES) == {module.__name__ for module in PYTHON_LOSSES}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", CALLS)
def test_value_is_what_the_mean_gives_whatever_the_reduction(calls, name, reduction):
    function, *args = CALLS[name]
    expected = function(*args, reduction="mean").item()
    function(*args, reduction=reduction)
    assert calls[-1].name == name
    assert len(calls) == 2
    assert mean_of(calls) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", MODULES)
def test_value_of_a_loss_module_that_is_python_is_what_the_mean_gives(calls, name, reduction):
    module, *args = MODULES[name]
    expected = module()(*args).item()
    module(reduction=reduction)(*args)
    assert calls[-1].name == name
    assert mean_of(calls) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (nn.GaussianNLLLoss, ("input", "target", "var")),
        (nn.MultiLabelSoftMarginLoss, ("input", "target")),
        (nn.TripletMarginWithDistanceLoss, ("anchor", "positive", "negative")),
    ],
)
def test_loss_module_that_is_python_takes_its_arguments_by_name(calls, module, names):
    tensors = MODULES[module.__name__][1:]
    expected = module()(*tensors).item()
    assert module()(**dict(zip(names, tensors, strict=True))).item() == expected
    assert mean_of(calls) == pytest.approx(expected, rel=1e-5)


def test_built_in_that_is_called_by_itself_is_left_out_where_its_arguments_are_named(calls):
    torch.binary_cross_entropy_with_logits(LOGITS, target=BINARY)
    torch.cosine_embedding_loss(LOGITS, OTHER, target=ONES, reduction=2)
    assert calls == []
    torch.cosine_embedding_loss(LOGITS, OTHER, ONES)
    F.kl_div(LOGITS.log_softmax(1), OTHER.log_softmax(1), reduction="sum", log_target=True)
    assert [call.name for call in calls] == ["cosine_embedding_loss", "kl_div"]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", CROSS_ENTROPIES)
def test_cross_entropy_counts_what_the_mean_counts(calls, case, reduction):
    logits, target, options = CROSS_ENTROPIES[case]
    expected = F.cross_entropy(logits, target, **options).item()
    F.cross_entropy(logits, target, reduction=reduction, **options)
    assert mean_of(calls) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", RARELY_USED)
@pytest.mark.filterwarnings("ignore:size_average and reduce")
def test_rarely_used_argument_is_in_the_value_or_none_is_shown(calls, case, reduction):
    function, *args, options = RARELY_USED[case]
    as_mean = {"size_average": True} if "size_average" in options else {"reduction": "mean"}
    expected = function(*args, **{**options, **as_mean}).item()
    calls.clear()
    function(*args, reduction=reduction, **options)
    if case in UNSEEN:
        assert not calls
    else:
        assert mean_of(calls) == pytest.approx(expected)


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "none"])
def test_kl_div_is_divided_by_the_batch(calls, reduction):
    log_probabilities, target = LOGITS.log_softmax(1), OTHER.softmax(1)
    expected = F.kl_div(log_probabilities, target, reduction="batchmean").item()
    F.kl_div(log_probabilities, target, reduction=reduction)
    assert mean_of(calls) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("concatenated", [False, True])
def test_ctc_loss_counts_sequences_however_their_targets_are_laid_out(calls, concatenated):
    log_probabilities = torch.randn(9, 2, 5).log_softmax(2)
    targets, lengths = torch.tensor([[1, 2, 3], [4, 3, 0]]), (3, 2)
    if concatenated:
        targets = torch.tensor([1, 2, 3, 4, 3])
    loss = F.ctc_loss(log_probabilities, targets, (9, 9), lengths)
    assert mean_of(calls) == pytest.approx(loss.item())
    assert criterion(calls[-1]).samples == 2


def test_ctc_loss_of_a_sequence_without_a_batch_counts_one(calls):
    F.ctc_loss(torch.randn(9, 5).log_softmax(1), torch.tensor([1, 2, 3]), torch.tensor(9), torch.tensor(3))
    assert criterion(calls[-1]).samples == 1


@pytest.mark.parametrize("times", [1, 20])  # few are counted in another way than many
def test_ignored_targets_do_not_weigh_in_the_mean_over_batches(calls, times):
    logits, targets = LOGITS.repeat(times, 1), torch.tensor([0, -100, -100, -100, 1, 1] * times)
    F.cross_entropy(logits, targets)
    assert criterion(calls[-1]).weight == 3 * times
    assert criterion(calls[-1]).samples == 6 * times
    F.cross_entropy(logits.T.unsqueeze(0), targets.unsqueeze(0))
    assert criterion(calls[-1]).weight == 3 * times


def test_a_batch_in_which_nothing_counts_weighs_nothing(calls):
    F.cross_entropy(LOGITS, torch.full((6,), -100))
    assert criterion(calls[-1]).weight == 0


def test_accuracy_of_classes_leaves_ignored_targets_out(calls):
    target = LOGITS.argmax(1)
    target[0] = -100
    target[1] = (target[1] + 1) % 4
    F.cross_entropy(LOGITS, target)
    assert accuracy_of(calls) == pytest.approx(4 / 5)


def test_accuracy_of_pixels_counts_every_pixel(calls):
    logits = torch.randn(2, 4, 3, 3)
    target = logits.argmax(1)
    target[0] = (target[0] + 1) % 4
    F.cross_entropy(logits, target)
    assert accuracy_of(calls) == 0.5
    assert predictions(calls[-1])[1] == 18


def test_accuracy_with_soft_targets_compares_the_largest(calls):
    F.cross_entropy(LOGITS, (10 * LOGITS).softmax(1))
    assert accuracy_of(calls) == 1.0


def test_accuracy_of_log_probabilities_is_that_of_classes(calls):
    F.nll_loss(LOGITS.log_softmax(1), LOGITS.argmax(1))
    assert accuracy_of(calls) == 1.0


@pytest.mark.parametrize("function", [F.binary_cross_entropy, F.binary_cross_entropy_with_logits])
def test_accuracy_of_binary_losses_has_its_threshold_in_the_middle(calls, function):
    target = torch.tensor([1.0, 1, 0, 0])
    probabilities = torch.tensor([0.9, 0.4, 0.6, 0.1])
    function(probabilities if function is F.binary_cross_entropy else probabilities.logit(), target)
    assert accuracy_of(calls) == 0.5


def test_binary_loss_with_targets_between_has_no_accuracy(calls):
    F.binary_cross_entropy_with_logits(LOGITS, OTHER.sigmoid())
    assert predictions(calls[-1])[1] == 0


def test_regression_has_no_accuracy(calls):
    F.mse_loss(LOGITS, OTHER)
    assert predictions(calls[-1]) is None


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), F.cross_entropy, imported_before])
def test_module_and_function_and_imported_name_are_seen_once_each(calls, loss):
    value = loss(LOGITS, LABELS)
    assert [call.output for call in calls] == [value]


def test_loss_functions_return_the_bits_that_they_return_unwatched():
    bare = [function(*args) for function, *args in CALLS.values()]
    with watched_losses():
        watched = [function(*args) for function, *args in CALLS.values()]
    assert all(map(torch.equal, bare, watched))


def test_loss_functions_are_put_back_exactly():
    def present():
        return [getattr(loss.owner, loss.name) for loss in BUILTIN_LOSSES] + [m.forward for m in PYTHON_LOSSES]

    before = present()
    with watched_losses():
        assert not set(before) & set(present())
    assert present() == before
