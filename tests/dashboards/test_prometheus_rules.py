"""The rule files are those of the catalog, and Prometheus can read them."""

import re
import runpy
import subprocess
from pathlib import Path

import pytest
import yaml

from trimtab.catalog import METRICS
from trimtab.catalog.rules import RULES
from trimtab_dashboards.alert_rules import acting, lasting
from trimtab_dashboards.server_rules import RECORDINGS, judged_by_server

ROOT = Path(__file__).parents[2]
ALERTS = [*acting(), *lasting(), *judged_by_server()]
EXPRESSIONS = [alert.expression for alert in ALERTS] + [each.expression for each in RECORDINGS]


def test_files_of_rules_are_current():
    made = runpy.run_path(str(ROOT / "docs" / "make_alert_rules.py"))
    for path, text in made["pages"]().items():
        assert path.read_text() == text, "run: python docs/make_alert_rules.py"


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_an_alert_that_acts_at_once(rule):
    (alert,) = [alert for alert in acting() if alert.labels.get("rule") == rule]
    assert alert.expression == f'max by (run, run_id) (trimtab_rule_level{{rule="{rule}"}}) >= 1'
    assert (alert.for_s, alert.keep_s, alert.labels["severity"]) == (0, 0, RULES[rule].severity)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_an_alert_for_people_that_waits(rule):
    (alert,) = [alert for alert in [*lasting(), *judged_by_server()] if alert.labels.get("rule") == rule]
    assert alert.for_s >= 60
    assert alert.labels["purpose"] == "page"


@pytest.mark.parametrize("rule", RULES)
def test_what_an_alert_says_of_a_rule_holds_at_any_threshold(rule):
    for alert in [*acting(), *lasting()]:
        if alert.labels.get("rule") == rule:
            assert not re.search(r"\d", alert.description.removesuffix(RULES[rule].advice))


def test_no_two_alerts_share_a_name():
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)


def test_every_page_that_an_alert_names_is_there():
    for alert in ALERTS:
        page, _, anchor = alert.page.partition("#")
        text = (ROOT / "docs" / page).read_text()
        assert not anchor or anchor in [line.lstrip("# ").lower() for line in text.splitlines()], alert.name


def test_alerts_ask_only_for_metrics_that_exist():
    known = {spec.name for spec in METRICS} | {f"{spec.name}{part}" for spec in METRICS for part in ("_sum", "_count")}
    known |= {each.name for each in RECORDINGS}
    for expression in EXPRESSIONS:
        asked = set(re.findall(r"\b(?:\w+:)?trimtab_[a-z0-9_:]+", expression))
        assert asked <= known, expression


@pytest.mark.servers
def test_prometheus_reads_the_rules(promtool):
    promtool("check", "rules", *sorted((ROOT / "deploy" / "prometheus").glob("*.rules.yml")))


@pytest.mark.servers
def test_prometheus_reads_its_configuration(promtool):
    promtool("check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")


@pytest.mark.servers
def test_alertmanager_reads_its_configuration(program):
    configuration = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
    done = subprocess.run([program("amtool"), "check-config", configuration], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alert_that_always_fires_is_sent_in_every_interval():
    """Alertmanager looks once in a `group_interval`, a moment before a `repeat_interval` of the same length is over."""
    routes = yaml.safe_load((ROOT / "deploy" / "alertmanager" / "alertmanager.yml").read_text())["route"]["routes"]
    (route,) = [each for each in routes if each["receiver"] == "heartbeat"]
    assert route["group_interval"] == "1m"
    assert int(re.fullmatch(r"(\d+)s", route["repeat_interval"])[1]) < 60


@pytest.mark.servers
@pytest.mark.parametrize(
    ("alert", "receiver"),
    [
        ("TrimtabLossSpike", "nobody"),
        ("TrimtabLossDivergedLasts", "on-call"),
        ("TrimtabLossSpikeLasts", "team"),
        ("TrimtabInputBoundLasts", "nobody"),
        ("TrimtabRunGone", "on-call"),
        ("TrimtabAlertPathAlive", "heartbeat"),
    ],
)
def test_alertmanager_sends_each_alert_where_it_belongs(program, alert, receiver):
    configuration = f"--config.file={ROOT / 'deploy' / 'alertmanager' / 'alertmanager.yml'}"
    labels = {"alertname": alert, **next(each.labels for each in ALERTS if each.name == alert)}
    command = [program("amtool"), "config", "routes", "test", configuration]
    done = subprocess.run([*command, *map("=".join, labels.items())], capture_output=True, text=True)
    assert done.stdout.strip() == receiver
