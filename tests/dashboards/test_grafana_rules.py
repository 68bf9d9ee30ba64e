"""The rules as Grafana takes them: safe where nothing is known, never more than the catalog says."""

import re
from pathlib import Path

import pytest
import yaml

from trimtab_dashboards import grafana_rules
from trimtab_dashboards.alert_rules import acting, lasting
from trimtab_dashboards.server_rules import judged_by_server

FILE = Path(__file__).parents[2] / "deploy" / "grafana" / "provisioning" / "alerting" / "trimtab-rules.yml"
ALERTS = {alert.name: alert for alert in [*acting(), *lasting(), *judged_by_server()]}


@pytest.fixture(scope="module")
def provisioned():
    return yaml.safe_load(FILE.read_text())


@pytest.fixture
def rules(provisioned):
    return [rule for group in provisioned["groups"] for rule in group["rules"]]


def test_file_holds_every_alert_and_nothing_of_anybodys_policies(provisioned, rules):
    assert set(provisioned) == {"apiVersion", "groups"}
    assert {rule["title"] for rule in rules} == set(ALERTS)
    assert not any("notification_settings" in rule for rule in rules)


def test_groups_are_evaluated_at_multiples_of_ten_seconds(provisioned):
    assert [group["interval"] for group in provisioned["groups"]] == ["10s", "1m", "1m"]


def test_no_data_is_no_alert_and_an_error_is_an_error(rules):
    assert {(rule["noDataState"], rule["execErrState"]) for rule in rules} == {("OK", "Error")}


def test_uids_are_stable_short_and_of_one_rule_each(rules):
    assert {rule["uid"]: rule["title"] for rule in rules} == {f"trimtab-{name[7:]}": name for name in ALERTS}
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,40}", rule["uid"]) for rule in rules)


def test_condition_is_a_threshold_over_a_query_that_is_0_or_1(rules):
    for rule in rules:
        shown, asked, condition = (part["model"] for part in rule["data"])
        assert rule["condition"] == condition["refId"] == "C"
        assert (condition["type"], condition["expression"]) == ("threshold", asked["refId"])
        assert re.search(r"(>|>=|==) bool [0-9.]+$", asked["expr"])
        assert shown["expr"].startswith("clamp_max(")


def test_queries_need_no_recording_rule(rules):
    assert not [part for rule in rules for part in rule["data"] if re.search(r"\w:trimtab", str(part))]


def test_labels_and_waiting_are_those_of_the_prometheus_rules(rules):
    for rule in rules:
        alert = ALERTS[rule["title"]]
        assert rule["labels"] == alert.labels
        assert rule["for"] == grafana_rules.duration(alert.for_s)


@pytest.mark.servers
def test_prometheus_can_parse_every_query(rules, promtool, tmp_path):
    file = tmp_path / "queries.yml"
    expressions = [{"record": "x", "expr": part["model"]["expr"]} for rule in rules for part in rule["data"][:2]]
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": expressions}]}))
    assert len(expressions) == 2 * len(ALERTS)
    promtool("check", "rules", "--lint=none", file)
