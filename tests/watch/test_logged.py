import fractions
import math

import numpy
import pytest
import torch

import trimtab
from trimtab.logged import NAMES_EXPORTED
from trimtab.sample import books


def logged(seen):
    return [(metric.values, metric.phase) for metric in seen.metrics]


def test_values_are_logged_by_name_or_in_a_mapping_and_with_a_phase(watching):
    with watching() as seen:
        trimtab.log(bleu=31.2, loss=1)
        seen.run.log({"perplexity": 12.3}, phase="validation", wer=0.5)
    assert logged(seen) == [({"bleu": 31.2, "loss": 1.0}, None), ({"perplexity": 12.3, "wer": 0.5}, "validation")]


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (2, 2.0),
        (True, 1.0),
        pytest.param(10**400, math.inf, id="huge"),
        pytest.param(-(10**400), -math.inf, id="huge and negative"),
        (fractions.Fraction(1, 4), 0.25),
        (numpy.float32(0.5), 0.5),
        (numpy.int64(3), 3.0),
        (numpy.array([[1.5]]), 1.5),
        (torch.tensor(2.5, requires_grad=True), 2.5),
        (torch.tensor([[3]]), 3.0),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    ],
)
def test_whatever_is_one_number_is_logged(watching, given, number):
    with watching() as seen:
        trimtab.log(value=given)
    assert logged(seen) == [({"value": number}, None)]
    assert all(type(value) is float for value in seen.metrics[0].values.values())


class LetGo:
    """An array on a device, of which nothing can be read any more."""

    @property
    def size(self):
        raise RuntimeError("Array has been deleted.")


class Touchy:
    def __float__(self):
        raise RuntimeError("do not touch")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("12", "a str"),
        (LetGo(), "a LetGo"),
        (Touchy(), "a Touchy"),
        (None, "a NoneType"),
        ([1.0], "a list"),
        (1j, "a complex"),
        (torch.ones(2, 3), "a tensor of shape (2, 3)"),
        (torch.ones(0), "a tensor of shape (0,)"),
        (torch.ones(1, device="meta"), "a tensor of shape (1,) without values"),
        (torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged), "a tensor of shape ?"),
        (numpy.ones(3), "a ndarray"),
        (numpy.str_("12"), "a str_"),
    ],
)
def test_what_is_no_number_is_told_once_and_costs_nothing_else(watching, given, told):
    with watching() as seen:
        for _ in range(3):
            trimtab.log(value=given, other=1.0)
    assert logged(seen) == [({"other": 1.0}, None)] * 3
    (notice,) = seen.notices
    assert notice.startswith("log(value=...): expected a number")
    assert told in notice


def test_telling_what_is_no_number_does_not_read_all_of_it(watching):
    class Item:
        read = 0

        def __repr__(self):
            Item.read += 1
            return "item"

    with watching() as seen:
        trimtab.log(value=[Item() for _ in range(1000)])
        trimtab.log([Item() for _ in range(1000)])
    assert len(seen.notices) == 2
    assert Item.read < 20


@pytest.mark.parametrize("log", [trimtab.log, None])
def test_names_of_our_own_arguments_are_names_like_any(watching, log):
    with watching() as seen:
        (log or seen.run.log)(self=1, values=2.0)
    assert logged(seen) == [({"self": 1.0, "values": 2.0}, None)]
    assert seen.notices == []


@pytest.mark.parametrize("given", ["hello", 3, [("loss", 1)], torch.ones(2)])
def test_what_has_no_names_is_told_and_never_reaches_the_training(watching, given):
    with watching() as seen:
        seen.run.log(given, loss=1)
    assert logged(seen) == [({"loss": 1.0}, None)]
    (notice,) = seen.notices
    assert "expected names and numbers. Use log(loss=0.5)." in notice


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_logged_as_it_is_and_counted(watching, value):
    with watching() as seen:
        trimtab.log(value=value)
    assert repr(seen.metrics[0].values["value"]) == repr(value)
    assert seen.end.totals["nonfinite"] == {"logged": 1}


def test_names_beyond_the_limit_are_logged_and_not_exported(watching):
    names = [f"name{index}" for index in range(NAMES_EXPORTED + 3)]
    with watching() as seen:
        for _ in range(2):
            for name in names:
                trimtab.log({name: 1.0})
    assert [name for metric in seen.metrics[: len(names)] for name in metric.values] == names
    assert {name for metric in seen.metrics for name in metric.unexported} == set(names[NAMES_EXPORTED:])
    assert sum("more than 50 names" in notice for notice in seen.notices) == 1


def test_phase_that_is_not_known_is_told_and_left_out(watching):
    with watching() as seen:
        trimtab.log(value=1, phase="evaluation")
        trimtab.log(value=2, phase="evaluation 2")
    assert logged(seen) == [({"value": 1.0}, None), ({"value": 2.0}, None)]
    (told,) = (notice for notice in seen.notices if "expected one of train, validation, test" in notice)
    assert "'evaluation'" in told


def test_value_is_logged_under_the_step_that_the_loop_is_at(watching, model, monkeypatch):
    monkeypatch.setattr(books, "RECORD_INTERVAL_S", 3600.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        for _ in range(5):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        trimtab.log(value=1)
    assert seen.metrics[0].step == 5


def test_logging_nothing_is_nothing(watching):
    with watching() as seen:
        trimtab.log()
        trimtab.log({})
    assert seen.metrics == []
