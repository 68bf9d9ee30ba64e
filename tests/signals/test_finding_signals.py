import pytest

from trimtab import signals
from trimtab.catalog.rules import RULES
from trimtab.errors import ConfigError


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_signal_of_a_shipped_rule_exists_and_says_its_formula(rule):
    spec = signals.find(rule.signal)
    assert spec.formula.__doc__
    made = spec.make(signals.Course())
    made.fence()


def test_unknown_signal_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="'loss_spike_score'"):
        signals.find("loss_spike_scor")
