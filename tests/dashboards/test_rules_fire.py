"""When each alert fires, when it does not, and when it ends: as promtool judges the committed files."""

from pathlib import Path

import pytest
from scenarios import SERVER, kept, of_level, unit_test

from trimtab_dashboards.alert_rules import acting, lasting
from trimtab_dashboards.server_rules import judged_by_server

RULES = sorted((Path(__file__).parents[2] / "deploy" / "prometheus").glob("*.rules.yml"))
BY_NAME = {alert.name: alert for alert in [*acting(), *lasting(), *judged_by_server()]}

pytestmark = pytest.mark.servers


@pytest.fixture
def hold(promtool, tmp_path):
    """Let promtool judge scenarios, all of them in one go."""

    def hold(*scenarios):
        paths = [tmp_path / f"{number}.yml" for number in range(len(scenarios))]
        for path, scenario in zip(paths, scenarios, strict=True):
            path.write_text(unit_test(scenario, BY_NAME[scenario.alert], RULES))
        promtool("test", "rules", *paths)

    return hold


def rule_of(alert):
    return alert.labels.get("rule", "mine")


def test_acting_alerts_follow_their_level_at_once(hold):
    hold(*(of_level(alert, rule_of(alert)) for alert in acting()))


def test_lasting_alerts_wait_for_trouble_that_outlives_a_level(hold):
    hold(*(of_level(alert, rule_of(alert)) for alert in lasting()))


def test_lasting_alerts_hold_on_and_then_end(hold):
    hold(*(kept(alert, rule_of(alert)) for alert in lasting()))


@pytest.mark.parametrize("scenario", SERVER, ids=lambda scenario: f"{scenario.alert}, {scenario.says}")
def test_alerts_that_only_a_server_can_judge(hold, scenario):
    hold(scenario)


def test_every_alert_has_a_scenario():
    assert {scenario.alert for scenario in SERVER} == {alert.name for alert in judged_by_server()}
