import dataclasses
import math

import pytest

from trimtab.catalog.rules import RULES
from trimtab.errors import ConfigError
from trimtab.rules.rule import Rule, resolve


def by_name(given):
    return {rule.name: rule for rule in resolve(given)}


def test_rules_of_a_run_are_the_shipped_ones_where_nothing_is_given():
    assert by_name(None) == RULES


def test_table_with_a_shipped_name_changes_that_rule_alone():
    changed = by_name([{"name": "loss_spike", "threshold": 3.0, "hold": 2}])
    assert (changed["loss_spike"].threshold, changed["loss_spike"].hold) == (3.0, 2)
    assert changed["loss_spike"].severity == RULES["loss_spike"].severity
    assert {**changed, "loss_spike": None} == {**RULES, "loss_spike": None}


def test_least_improvement_is_of_the_rule_about_improvement_alone():
    assert by_name([{"name": "no_improvement", "min_delta": 0.1}])["no_improvement"].min_delta == 0.1
    with pytest.raises(ConfigError, match="no_improvement: min_delta=-1"):
        resolve([{"name": "no_improvement", "min_delta": -1}])
    with pytest.raises(ConfigError, match="min_delta is not a key"):
        resolve([{"name": "overfitting", "min_delta": 0.1}])


@pytest.mark.parametrize("change", [{"threshold": 0.0}, {"hold": 0}, {"signal": "loss_spik"}], ids=str)
def test_changed_spec_is_checked_as_a_table_is(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        resolve([dataclasses.replace(RULES["loss_spike"], **change)])


def test_rule_that_is_not_enabled_is_left_out():
    assert set(RULES) - set(by_name([{"name": "overfitting", "enabled": False}])) == {"overfitting"}


def test_rule_from_a_table_is_the_rule_from_python():
    table = {"name": "perplexed", "signal": "logged:perplexity", "threshold": 100, "hold": 3}
    assert by_name([table])["perplexed"] == Rule("perplexed", "logged:perplexity", 100, hold=3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "loss_spik", "threshold": 1.0}, "'loss_spike'"),
        ({"name": "loss_spike", "treshold": 1.0}, "'threshold'"),
        ({"name": "mine", "signal": "loss_divergenc", "threshold": 1.0}, "'loss_divergence'"),
        ({"name": "mine", "signal": "logged:a", "threshold": 1.0, "severity": "warn"}, "'warning'"),
        ({"name": "mine", "signal": "logged:a", "threshold": 1.0, "holds": 2}, "'hold'"),
    ],
    ids=["rule", "key", "signal", "severity", "key of a new one"],
)
def test_unknown_name_is_refused_with_the_nearest_one(table, message):
    with pytest.raises(ConfigError, match=f"Did you mean {message}"):
        resolve([table])


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.0},
        {"threshold": -1.0},
        {"threshold": float("inf")},
        {"threshold": float("nan")},
        {"threshold": True},
        {"threshold": "high"},
        {"threshold": 10**400},
        {"hold": 0},
        {"hold": 1.5},
        {"clear": 0.0},
        {"clear": 1.1},
    ],
    ids=str,
)
def test_number_out_of_range_is_refused_and_named(change):
    (key,) = change
    with pytest.raises(ConfigError, match=f"loss_spike: {key}="):
        resolve([{"name": "loss_spike", **change}])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "loss_spike", "signal": "logged:a", "threshold": 1.0}, "shipped rule"),
        ({"name": "my rule", "signal": "logged:a", "threshold": 1.0}, "letters, digits and underscores"),
        ({"name": "mine", "signal": "logged:", "threshold": 1.0}, "lacks a name"),
        ({"name": "mine", "signal": "hung_seconds_ratio", "threshold": 1.0}, '"run_hung", "threshold": 2'),
        ({"name": "mine", "signal": 3, "threshold": 1.0}, "a function"),
        ({"name": "mine", "signal": "math:no_such", "threshold": 1.0}, "Give MODULE:FUNCTION"),
        ({"name": "mine", "signal": "math:pi", "threshold": 1.0}, "a function"),
        ({"name": "mine", "signal": "math:fabs", "threshold": 1.0, "relative": "yes"}, "relative='yes': expected true"),
        ({"name": "loss_spike", "enabled": "no"}, "enabled='no': expected true or false"),
        ({"name": "mine", "signal": "logged:a"}, "threshold is missing"),
        ({"name": "mine", "signal": "broken:f", "threshold": 1.0}, "RuntimeError: half done. Give MODULE:FUNCTION"),
        ({"name": "mine", "signal": "leaving:f", "threshold": 1.0}, "SystemExit: 3. Give MODULE:FUNCTION"),
        ({"name": "mine", "signal": ".here:f", "threshold": 1.0}, "Give MODULE:FUNCTION"),
        ({"name": "mine", "signal": "logged:a", "threshold": 1.0, "meaning": 5}, "meaning=5: expected a text"),
        ({"threshold": 1.0}, "name is missing"),
        ({"name": 3, "threshold": 1.0}, "name=3: expected a text"),
        ("loss_spike", "expected Rule"),
    ],
    ids=[
        "shipped name",
        "no identifier",
        "empty logged",
        "the watchdog's",
        "a number",
        "no such function",
        "no function",
        "no truth",
        "no truth for a shipped one",
        "no threshold",
        "a module that raises",
        "a module that exits",
        "a relative module",
        "a meaning that is no text",
        "no name",
        "a name that is no text",
        "a string",
    ],
)
def test_what_makes_no_rule_is_refused(given, message, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("raise RuntimeError('half done')")
    (tmp_path / "leaving.py").write_text("import sys; sys.exit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        resolve([given])


def test_function_of_a_table_is_named_by_its_module():
    table = {"name": "loss_large", "signal": "math:fabs", "threshold": 3.0}
    assert resolve([table])[-1] == Rule("loss_large", math.fabs, 3.0)


def test_rule_given_twice_is_refused():
    with pytest.raises(ConfigError, match="given twice"):
        resolve([Rule("mine", "logged:a", 1.0), {"name": "mine", "signal": "logged:b", "threshold": 1.0}])
