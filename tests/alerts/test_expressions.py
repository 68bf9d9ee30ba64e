"""Expressions of silences mean what they mean to Alertmanager, and end in time."""

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.alerts import expressions
from trimtab.alerts.expressions import Unreadable, matches

ATOMS = st.sampled_from(["a", "b", "ab", ".", "[ab]", "[^a]", "[.:a-c]", r"\.", r"\d", r"\W", "(a|b)", "(?:ab|)", "x"])
REPEATED = st.builds(str.__add__, ATOMS, st.sampled_from(["", "*", "+", "?", "{2}", "{1,3}", "{2,}", "*?"]))
EXPRESSIONS = st.lists(st.lists(REPEATED, max_size=4).map("".join), min_size=1, max_size=3).map("|".join)


@settings(max_examples=500, deadline=None)
@given(EXPRESSIONS, st.text("abcx.1", max_size=8))
def test_expression_matches_whole_values_as_re_does(expression, text):
    assert matches(expression, text) == bool(re.fullmatch(expression, text))


@pytest.mark.parametrize("expression", ["(a*)*$b", "(a|a)*b", "(a+)+" * 20 + "b", "((((a*)*)*)*)*b", "(.*.*.*)*x"])
def test_hostile_expression_ends(expression):
    steps = expressions._Text("a" * 128, expressions.Effort())
    with contextlib.suppress(Unreadable):
        expressions._Reader(expression).read()(steps, {0})
    assert steps.steps <= expressions.MAX_STEPS + 1_000


@pytest.mark.parametrize(
    "expression",
    [
        "(",
        ")",
        "a**",
        "*",
        "[a",
        "[z-a]",
        "(?i)a",
        "(?P<x>a)",
        r"\b",
        "a\\",
        "[[:alpha:]]",
        "[[",
        "a{999}",
        "a{x}",
        "a{1,x}",
        "x" * 513,
    ],
)
def test_expression_that_is_not_read_says_so(expression):
    with pytest.raises(Unreadable):
        matches(expression, "a")


def test_no_expression_takes_more_than_its_share_of_the_effort():
    with pytest.raises(Unreadable, match="too long"):
        matches("(a*a*a*a*a*a*){60}x", "a" * 128)


@pytest.mark.parametrize("part", ["()", "^", "(|)", "(" + "|" * 100 + ")", "^" * 300])
def test_repetitions_of_nothing_are_counted(part):
    with pytest.raises(Unreadable, match="too long"):
        matches("((((" + part + "{64}){64}){64}){64}){64}", "")


def test_groups_that_are_nested_deeply_are_not_read():
    with pytest.raises(Unreadable, match="too deeply"):
        matches("(" * 11 + "a" + ")" * 11, "a")
