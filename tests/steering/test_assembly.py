"""Which policies a run has, from its settings."""

import math
import re

import pytest

import trimtab
from trimtab import config
from trimtab.actions import Halt
from trimtab.errors import ConfigError
from trimtab.policies.policy import Policy
from trimtab.steering.assembly import rules_and_policies


def answered(**settings):
    found = rules_and_policies(config.resolve(run="test", environ={}, **settings))[1]
    return {policy.on for policy in found}


def test_rule_of_severity_info_is_not_acted_upon():
    assert "no_improvement" not in answered()
    assert "no_improvement" not in answered(policies=["shipped"])
    assert "loss_diverged" in answered()


@pytest.mark.parametrize("own", ["no_improvement", Policy(on="no_improvement", ladder=[Halt()])])
def test_rule_of_severity_info_is_acted_upon_where_the_user_says_so(own):
    assert answered(policies=["shipped", own]) >= {"no_improvement", "loss_diverged"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[[rules]]\nname = "loss_spik"\nthreshold = 3', "rule loss_spik: there is no such rule"),
        ('[[policies]]\non = "loss_spike"\nladder = ["rollback"]', "policies[0]: there is no action 'rollback'"),
        ('policies = ["loss_spik"]', "policies: 'loss_spik' is no shipped policy"),
        ('[[policies]]\non = "nosuch"\nladder = ["halt"]', "Policy(on='nosuch'): there is no such rule"),
    ],
)
def test_error_in_a_rule_or_a_policy_names_the_file_that_it_is_in(tmp_path, text, sentence):
    path = tmp_path / "trimtab.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{path}: {sentence}')}"):
        answered(config=path)
    with pytest.raises(ConfigError, match=r"^rule loss_spik: "):
        answered(config=path, rules=[{"name": "loss_spik"}], policies=[])  # which win over the file


def test_raised_severity_brings_the_shipped_policy_in():
    assert "no_improvement" in answered(rules=[{"name": "no_improvement", "severity": "warning"}])


def test_lowered_severity_leaves_the_shipped_policy_out():
    assert "loss_oscillating" not in answered(rules=[{"name": "loss_oscillating", "severity": "info"}])


def test_record_begins_with_what_each_rule_is_judged_by(watching):
    own = trimtab.Rule("too_perplexed", signal="logged:perplexity", threshold=100, hold=2)
    with watching(rules=[own, {"name": "loss_spike", "threshold": 9.0}]) as seen:
        pass
    rules = seen.start.facts["config"]["rules"]
    assert rules["too_perplexed"] == {
        "threshold": 100, "hold": 2, "clear": 0.8, "severity": "warning", "judged": "record",
    }  # fmt: skip
    assert (rules["loss_spike"]["threshold"], rules["loss_spike"]["judged"]) == (9.0, "step")


def test_rule_of_the_watchdog_takes_its_threshold_from_the_user(watching):
    with watching(rules=[{"name": "run_hung", "threshold": 2.0}]) as seen:
        limit_s = seen.run._watchdog.limit_s
    with watching(rules=[{"name": "run_hung", "enabled": False}], run="other") as seen:
        assert (limit_s, seen.run._watchdog.limit_s) == (7200.0, math.inf)


def test_second_rule_on_the_watchdogs_signal_is_refused():
    with pytest.raises(ConfigError, match="the watchdog alone judges by it"):
        answered(rules=[trimtab.Rule("very_hung", signal="hung_seconds_ratio", threshold=3.0)])


def test_what_keeping_the_first_state_costs_is_counted(watching, training, monkeypatch):
    with watching(act="process") as seen:
        before = seen.run._meter.seconds
        monkeypatch.setattr(seen.run._controller, "met", lambda *_: sum(range(2_000_000)))
        training.step()
        assert seen.run._meter.seconds - before > 0.005
