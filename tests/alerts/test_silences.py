"""Silences are understood as Alertmanager does; in doubt nothing is done."""

import json

import pytest
from sending import RUN, RUN_ID, silence

from trimtab.alerts import payloads
from trimtab.alerts.silences import HOLD_S, Silences, covered, expected_labels
from trimtab.catalog.rules import RULES
from trimtab_dashboards.alert_rules import acting

LABELS = expected_labels(RUN, RUN_ID, ["loss_diverged", "mine", "alert:GpuHot"])


def silenced(*silences):
    return covered(payloads.silences(json.dumps(silences).encode()), LABELS)[0]


@pytest.mark.parametrize(
    ("matchers", "rules"),
    [
        ([("run", RUN)], {"loss_diverged", "mine", "alert:GpuHot"}),
        ([("run_id", RUN_ID), ("rule", "loss_diverged")], {"loss_diverged"}),
        ([("run", "other")], set()),
        ([("alertname", "=~", "Trimtab.*")], {"loss_diverged", "mine"}),
        ([("alertname", "=~", "Trimtab")], set()),
        ([("alertname", "TrimtabLossDiverged")], {"loss_diverged"}),
        ([("alertname", "TrimtabUserRule"), ("rule", "mine")], {"mine"}),
        ([("alertname", "GpuHot")], {"alert:GpuHot"}),
        ([("run", RUN), ("severity", "!=", "critical")], {"mine", "alert:GpuHot"}),
        ([("run", RUN), ("rule", "!~", "loss_.*|mine")], {"alert:GpuHot"}),
        ([("run", RUN), ("team", "")], {"loss_diverged", "mine", "alert:GpuHot"}),
        ([("run", RUN), ("purpose", "page")], set()),
        ([("team", "vision")], set()),
    ],
)
def test_silence_covers_what_its_matchers_say(matchers, rules):
    assert silenced(silence(*matchers)) == rules


@pytest.mark.parametrize("state", ["expired", "pending"])
def test_silence_that_does_not_hold_now_covers_nothing(state):
    assert silenced(silence(("run", RUN), state=state)) == set()


def test_matcher_that_cannot_be_read_counts_as_matching_a_label_of_ours():
    mine, other = silence(("run", "=~", "(?i)RESNET")), silence(("team", "=~", "(?i)x"))
    found, unread = covered(payloads.silences(json.dumps([mine, other]).encode()), LABELS)
    assert found == LABELS.keys()
    assert "flags" in unread[0]


def test_matcher_that_cannot_be_read_does_not_match_a_label_that_nobody_has():
    assert silenced(silence(("run", RUN), ("team", "=~", "(?i)vision"))) == set()


def test_more_silences_than_can_be_read_in_time_silence_everything():
    """Reading them holds the interpreter, and so the training: whoever can silence must not be able to slow it."""
    hostile = [silence(("run", "=~", f"(a|b)*x{number}" * 8)) for number in range(5_000)]
    found, unread = covered(payloads.silences(json.dumps(hostile).encode()), LABELS)
    assert found == LABELS.keys()
    assert "more of them than can be read in time" in unread[-1]


def test_labels_are_those_that_the_rules_of_servers_give():
    shipped = {rule.labels["rule"]: rule for rule in acting() if "rule" in rule.labels}
    for name, labels in expected_labels(RUN, RUN_ID, RULES).items():
        assert labels == {**shipped[name].labels, "alertname": shipped[name].name, "run": RUN, "run_id": RUN_ID}


def test_a_thousand_silences_of_a_fleet_can_be_read():
    others = [silence(("run", f"other-{number}"), ("alertname", "=~", "Trimtab.*")) for number in range(1_000)]
    labels = expected_labels(RUN, RUN_ID, RULES)
    mine = silence(("run", "=~", f"{RUN}|spare"), ("rule", "loss_diverged"))
    found, unread = covered(payloads.silences(json.dumps([*others, mine]).encode()), labels)
    assert (found, unread) == ({"loss_diverged"}, ())


def test_last_known_silences_hold_for_five_minutes(clock):
    silences = Silences(clock)
    silences.set(frozenset({"loss_diverged"}))
    clock.now += HOLD_S
    assert silences.cover("loss_diverged")
    clock.now += 1
    assert not silences.cover("loss_diverged")
    assert silences.lapsed
