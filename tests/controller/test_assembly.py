"""Which policies a run has, from its settings."""

import pytest

from trimtab import config
from trimtab.actions import Halt
from trimtab.assembly import rules_and_policies
from trimtab.policies.policy import Policy


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


def test_raised_severity_brings_the_shipped_policy_in():
    assert "no_improvement" in answered(rules=[{"name": "no_improvement", "severity": "warning"}])


def test_lowered_severity_leaves_the_shipped_policy_out():
    assert "loss_oscillating" not in answered(rules=[{"name": "loss_oscillating", "severity": "info"}])
