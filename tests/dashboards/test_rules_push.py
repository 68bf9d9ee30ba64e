"""`trimtab rules push` against a server that answers as Grafana's provisioning API does."""

import os
import subprocess
import sys

import pytest
from grafana_server import TOKEN
from rules_server import RulesServer

from trimtab.errors import ConfigError
from trimtab_dashboards.grafana_rules import FOLDER_UID, groups
from trimtab_dashboards.rules_push import find_datasource, push

DOCS = "https://docs.example.org"


@pytest.fixture(params=[True, False], ids=["new Grafana", "old Grafana"])
def server(request):
    server = RulesServer(knows_keep_firing_for=request.param)
    yield server
    server.close()


@pytest.fixture
def pushing(grafana):
    return lambda **options: list(push(grafana, docs_url=DOCS, **options))


def rule(server, title):
    return next(each for group in server.groups.values() for each in group["rules"] if each["title"] == title)


def test_push_puts_every_group_into_a_folder_of_their_own(server, pushing):
    assert [each.state for each in pushing()] == ["created"] * len(groups())
    assert set(server.groups) == {(FOLDER_UID, group.name) for group in groups()}
    assert rule(server, "TrimtabLossDiverged")["data"][0]["datasourceUid"] == "prom"


def test_push_again_writes_nothing(server, pushing):
    pushing()
    before = list(server.writes)
    assert {each.state for each in pushing()} == {"unchanged"}
    assert server.writes == before


def test_dry_run_writes_nothing_and_shows_what_would_change(server, pushing):
    assert [each.state for each in pushing(dry_run=True)] == ["created"] * len(groups())
    assert not server.writes
    pushing()
    rule(server, "TrimtabLossSpike")["labels"]["severity"] = "info"
    rule(server, "TrimtabLossSpike")["data"][1]["model"]["expr"] = "up"
    changed = next(each for each in pushing(dry_run=True) if each.state == "changed")
    assert '-    "severity": "info"' in changed.diff
    assert not [line for line in changed.diff if line[1:].lstrip().startswith('"id"')]
    assert rule(server, "TrimtabLossSpike")["labels"]["severity"] == "info"


@pytest.mark.parametrize(
    "edit",
    [
        lambda rule: rule["labels"].update(team="x"),
        lambda rule: rule["annotations"].clear(),
        lambda rule: rule.update({"for": "1h"}),
        lambda rule: rule["data"].pop(),
        lambda rule: rule["data"].append(rule["data"][0]),
    ],
)
def test_push_puts_an_edited_rule_right(server, pushing, edit):
    pushing()
    edit(rule(server, "TrimtabLossSpike"))
    assert [each.state for each in pushing()] == ["changed", "unchanged", "unchanged"]
    assert {each.state for each in pushing()} == {"unchanged"}


def test_push_removes_a_rule_that_is_no_more_and_adds_one_that_is_new(server, pushing):
    pushing()
    rules = server.groups[FOLDER_UID, "trimtab-acting"]["rules"]
    rules[0] = {**rules[0], "uid": "trimtab-Old", "title": "TrimtabOld"}
    diff = next(each for each in pushing() if each.state == "changed").diff
    assert {"--- Grafana: rule TrimtabOld", "+++ Trimtab: rule TrimtabLossNonfinite"} <= set(diff)
    assert "trimtab-Old" not in str(server.groups)


def test_rule_that_a_person_paused_stays_paused(server, pushing):
    pushing()
    rule(server, "TrimtabLossSpike").update(isPaused=True, labels={})
    pushing()
    assert rule(server, "TrimtabLossSpike")["isPaused"]
    assert rule(server, "TrimtabLossSpike")["labels"]["rule"] == "loss_spike"


A, B = ({"uid": uid, "name": uid.upper(), "type": "prometheus"} for uid in "ab")


def test_datasource_is_the_one_asked_for_or_the_only_one_or_the_default():
    assert find_datasource([A, {"uid": "l", "type": "loki"}], None) == "a"
    assert find_datasource([A, {**B, "isDefault": True}], None) == "b"
    assert find_datasource([A, B], "B") == "b"


@pytest.mark.parametrize(
    ("there", "asked", "said"),
    [([], None, "no datasource of the type"), ([A, B], None, "Name one: --datasource a"), ([A], "x", "uid or name")],
)
def test_datasource_that_is_not_clear_is_refused(there, asked, said):
    with pytest.raises(ConfigError, match=said):
        find_datasource(there, asked)


def test_command_pushes_and_says_so(server, token_file):
    settings = {**os.environ, "TRIMTAB_GRAFANA": server.url, "TRIMTAB_GRAFANA_TOKEN_FILE": str(token_file)}
    command = [sys.executable, "-m", "trimtab", "rules", "push"]
    dry = subprocess.run([*command, "--dry-run"], env=settings, capture_output=True, text=True)
    assert "trimtab-acting: would be created" in dry.stdout
    assert '+  "title": "TrimtabLossSpike",' in dry.stdout.splitlines()
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{group.name}: created" for group in groups()]
    assert TOKEN not in dry.stdout + done.stdout + done.stderr


def test_command_without_a_token_gets_one_sentence(server):
    command = [sys.executable, "-m", "trimtab", "rules", "push", "--grafana", server.url]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("trimtab: grafana without grafana_token_file")
    assert not server.requests
