"""A log of ours is judged by the worst levels that it holds, at its own thresholds or at others."""

import math

import pytest

from trimtab.errors import ConfigError
from trimtab.lint.judging import judge
from trimtab.testing import sample_step
from trimtab.types import RunStart


@pytest.fixture
def fired(runs):
    """`fired(path, rule=threshold)`: what fired, as (rule, step) pairs."""

    def fired(path, **asked):
        return [(found.rule, found.step) for found in judge(str(path), runs, asked, {}).findings]

    return fired


@pytest.fixture
def finding(runs):
    def finding(path, **asked):
        (found,) = judge(str(path), runs, asked, {}).findings
        return found

    return finding


def test_rule_fired_where_a_record_holds_a_level_of_1(watched, fired):
    path = watched({"loss_spike": 0.2}, {"loss_spike": 0.99}, {"loss_spike": 1.0}, {"loss_spike": 3.0})
    assert fired(path) == [("loss_spike", 30)]


@pytest.mark.parametrize("how", [5, "high", {"threshold": "high"}, {"threshold": 0}, {"severity": "odd"}])
def test_log_that_says_what_no_rule_is_judged_by_is_refused(watched, fired, how):
    path = watched({"loss_spike": 2.0}, rules={"loss_spike": how})
    with pytest.raises(ConfigError, match="says of loss_spike what no rule is judged by"):
        fired(path)


@pytest.mark.parametrize("threshold", [-1.0, None])
def test_alert_with_a_threshold_that_no_rule_has_says_nothing_of_it(watched, alert, finding, threshold):
    assert finding(watched({"loss_spike": 2.0}, more=[alert("loss_spike", 7, threshold=threshold)])).threshold == 25.0


def test_run_that_never_came_to_a_step_is_judged_by_its_alerts(watched, alert, runs):
    judged = judge(str(watched(more=[alert("run_hung", 0)])), runs, {}, {})
    assert (judged.kind, [found.rule for found in judged.findings]) == ("log", ["run_hung"])
    assert judged.unjudged["loss_spike"].startswith("no level in the log: the run was too short")
    assert "run_hung" not in judged.unjudged


def test_healthy_run_has_no_findings(watched, fired):
    assert fired(watched({"loss_spike": 0.999}, {"loss_spike": 0.0})) == []


def test_levels_count_where_the_last_record_has_none(watched, fired):
    """As of a validation pass at the end."""
    assert fired(watched({"loss_spike": 2.0}, None)) == [("loss_spike", 10)]


def test_finding_says_how_high_the_worst_was(watched, finding):
    found = finding(
        watched({"loss_diverged": 2.5}, {"loss_diverged": 1.5}, rules={"loss_diverged": {"threshold": 0.8}})
    )
    assert (found.level, found.threshold, found.severity) == (2.5, 0.8, "critical")
    assert found.value == pytest.approx(2.0)


@pytest.mark.parametrize(("threshold", "step"), [(4.0, 10), (8.0, 20), (14.9, 30), (15.0, 30)])
def test_other_threshold_finds_the_record_where_it_would_have_fired(watched, fired, threshold, step):
    path = watched(*({"loss_spike": level} for level in (0.4, 0.8, 1.5)), rules={"loss_spike": {"threshold": 10.0}})
    assert fired(path, loss_spike=threshold) == [("loss_spike", step)]


def test_higher_threshold_than_the_worst_finds_nothing(watched, fired):
    path = watched({"loss_spike": 1.5}, rules={"loss_spike": {"threshold": 10.0}})
    assert fired(path, loss_spike=15.1) == []


def test_judging_again_rests_on_the_threshold_that_the_run_had(watched, finding):
    path = watched({"loss_spike": 1.5}, rules={"loss_spike": {"threshold": 2.0}})
    found = finding(path, loss_spike=3.0)
    assert (found.level, found.value) == (1.0, 3.0)


def test_threshold_of_an_alert_counts_where_the_run_does_not_say(watched, finding, alert):
    path = watched({"mine": 1.5}, more=[alert("mine", 7, value=5.0, threshold=4.0, severity="critical")])
    found = finding(path, mine=2.0)
    assert (found.value, found.severity) == (6.0, "critical")


def test_infinite_level_comes_back_and_fires_at_any_threshold(watched, finding):
    path = watched({"loss_nonfinite": 0.0}, {"loss_nonfinite": math.inf})
    assert '"nonfinite":["levels.loss_nonfinite"]' in path.read_text()
    assert finding(path, loss_nonfinite=1e9).level == math.inf


def test_only_rules_asked_for_are_judged(watched, fired):
    path = watched({"loss_spike": 2.0, "loss_diverged": 2.0})
    assert fired(path, loss_diverged=None) == [("loss_diverged", 10)]


def test_alert_is_sure_of_the_step(watched, fired, alert):
    path = watched({"loss_spike": 0.1}, {"loss_spike": 1.2}, more=[alert("loss_spike", 13)])
    assert fired(path) == [("loss_spike", 13)]


def test_alert_counts_where_the_run_was_killed_before_its_level_was_written(watched, fired, alert):
    assert fired(watched({"loss_spike": 0.1}, more=[alert("loss_nonfinite", 17)])) == [("loss_nonfinite", 17)]


@pytest.mark.parametrize(("threshold", "found"), [(12.1, []), (12.0, [("loss_spike", 3)]), (5.0, [("loss_spike", 3)])])
def test_alert_stands_for_a_level_that_an_adjustment_ended(watched, fired, alert, threshold, found):
    path = watched({"loss_spike": 0.1}, more=[alert("loss_spike", 3, value=12.0)])
    assert fired(path, loss_spike=threshold) == found


def test_alert_of_a_rule_with_a_hold_says_its_level_too(watched, fired, alert):
    path = watched({"loss_diverged": 0.1}, more=[alert("loss_diverged", 3, value=0.9, threshold=0.8)])
    assert fired(path, loss_diverged=0.91) == []
    assert fired(path, loss_diverged=0.89) == [("loss_diverged", 3)]


@pytest.mark.parametrize("value", [math.nan, None])
def test_alert_whose_value_was_infinite_fires_at_any_threshold(watched, fired, alert, value):
    path = watched({"loss_nonfinite": 0.0}, more=[alert("loss_nonfinite", 3, value=value, threshold=1.0)])
    assert fired(path, loss_nonfinite=1e9) == [("loss_nonfinite", 3)]


def test_alert_that_came_from_a_server_or_is_over_is_no_finding(watched, fired, alert):
    more = [alert("loss_spike", 3, source="alertmanager"), alert("loss_diverged", 4, state="resolved")]
    assert fired(watched({"loss_spike": 0.1}, more=more)) == []


def test_episodes_are_those_of_the_alerts_or_what_the_levels_show(watched, finding, alert):
    levels = [{"loss_spike": level} for level in (1.2, 1.1, 0.1, 1.3, 0.9, 1.1)]
    assert finding(watched(*levels)).episodes == 2
    more = [alert("loss_spike", 3, episode=5), alert("loss_spike", 33, episode=6), alert("loss_spike", 53, episode=7)]
    assert finding(watched(*levels, more=more, run="again")).episodes == 3
    assert finding(watched(*levels, more=more[:1], run="one"), loss_spike=9.9).episodes == 2


def test_each_optimizer_is_judged_by_itself_and_validation_is_about_none(watched, runs):
    path = watched({"loss_spike": 2.0, "overfitting": 2.0}, optimizer="generator")
    found = judge(str(path), runs, {}, {}).findings
    assert [(each.rule, each.optimizer) for each in found] == [("loss_spike", "generator"), ("overfitting", "")]


def test_rules_without_a_level_are_named(watched, runs):
    judged = judge(str(watched({"loss_spike": 0.5})), runs, {}, {})
    assert "loss_spike" not in judged.unjudged
    assert "no level in the log" in judged.unjudged["overfitting"]


def test_adjusted_run_says_from_where_on_it_is_another(watched, runs, adjustment):
    judged = judge(str(watched({"loss_spike": 2.0}, more=[adjustment(3, "dry_run"), adjustment(5)])), runs, {}, {})
    assert judged.notes == [
        "Adjusted from step 5 on (roll_back by loss_spike, 1 in all): what comes after it is the adjusted run."
    ]


def test_unknown_rule_names_the_nearest(watched, runs):
    with pytest.raises(ConfigError, match=r"--rule loss_spik: there is no such rule. Did you mean 'loss_spike'\?"):
        judge(str(watched({"loss_spike": 0.5})), runs, {"loss_spik": None}, {})


def test_last_run_of_a_file_is_judged(watched, fired):
    path = watched({"loss_spike": 2.0})
    path.write_text(path.read_text().replace("0a1b", "ffff"))
    watched({"loss_diverged": 2.0})
    assert fired(path) == [("loss_diverged", 10)]


def test_log_from_before_there_were_levels_is_judged_by_its_records(write, runs):
    steps = [sample_step(n, loss=math.nan if n == 7 else 1.0, optimizer="0") for n in range(1, 10)]
    judged = judge(str(write(*steps)), runs, {}, {})
    assert [(found.rule, found.step) for found in judged.findings] == [("loss_nonfinite", 7)]
    assert (judged.kind, judged.steps) == ("log without levels", 9)


def test_log_without_levels_may_lack_rates(write, runs):
    steps = [sample_step(n, loss=1.0, learning_rate=None, optimizer="0") for n in range(1, 10)]
    assert judge(str(write(*steps)), runs, {}, {}).findings == []


def test_run_is_judged_with_what_resumed_it(watched, write, runs):
    watched({"loss_spike": 3.0})
    facts = {"config": {"resume": True}}
    path = write(RunStart(ts=0.0, step=10, facts=facts), sample_step(20, levels={"loss_spike": 0.1}), run_id="2")
    judged = judge(str(path), runs, {}, {})
    assert [(found.rule, found.step) for found in judged.findings] == [("loss_spike", 10)]
    assert (judged.steps, judged.status) == (20, "no end in the log")
