"""`trimtab dashboards push`, against a server with Grafana's endpoints and status codes."""

import copy
import json

import pytest
from click.testing import CliRunner
from grafana_server import TOKEN

from trimtab.cli import trimtab as cli
from trimtab.errors import ConfigError, GrafanaError
from trimtab_dashboards import library
from trimtab_dashboards.pushing import FOLDER_UID, push


def states(pushed):
    return {each.uid: each.state for each in pushed}


@pytest.fixture
def run_cli(server, token_file, monkeypatch):
    monkeypatch.setenv("TRIMTAB_GRAFANA", server.url)
    monkeypatch.setenv("TRIMTAB_GRAFANA_TOKEN_FILE", str(token_file))
    return lambda *arguments: CliRunner().invoke(cli, ["dashboards", *arguments])


def test_push_over_http_to_another_machine_warns_of_its_token(run_cli, monkeypatch):
    monkeypatch.setenv("TRIMTAB_GRAFANA", "http://grafana.invalid")
    assert "grafana='http://grafana.invalid': the token is sent in plain text. Use https." in run_cli("push").stderr


def test_push_to_this_machine_warns_of_nothing(run_cli):
    assert "plain text" not in run_cli("push").output


def test_push_creates_the_folder_and_every_dashboard(server, grafana):
    pushed = push(grafana, library.shipped())
    assert set(states(pushed).values()) == {"created"}
    assert server.folders[FOLDER_UID]["title"] == "Trimtab"
    held = server.dashboards["trimtab-run"]
    assert held["meta"]["folderUid"] == FOLDER_UID
    assert held["dashboard"]["panels"] == library.shipped()["trimtab-run"]["panels"]


def test_push_again_writes_nothing(server, grafana):
    push(grafana, library.shipped())
    for held in server.dashboards.values():  # what later versions of Grafana add by themselves
        held["dashboard"]["panels"][1]["pluginVersion"] = "11.6.0"
        held["dashboard"]["preload"] = False
    server.requests.clear()
    assert set(states(push(grafana, library.shipped())).values()) == {"unchanged"}
    assert server.writes == []


def without_empty(value):
    if isinstance(value, dict):
        return {key: without_empty(item) for key, item in value.items() if item or key == "version"}
    return [without_empty(item) for item in value] if isinstance(value, list) else value


def test_push_again_writes_nothing_where_grafana_migrated_and_dropped_what_is_empty(server, grafana):
    push(grafana, library.shipped())
    for held in server.dashboards.values():
        held["dashboard"] = {**without_empty(held["dashboard"]), "schemaVersion": 42}
    assert set(states(push(grafana, library.shipped())).values()) == {"unchanged"}


def test_push_changes_what_differs_and_nothing_else(server, grafana):
    push(grafana, library.shipped())
    held = server.dashboards["trimtab-run"]["dashboard"]
    held["panels"][1]["title"] = "Renamed by hand"
    held["panels"].append({"type": "text", "title": "Added by hand"})
    server.requests.clear()
    pushed = push(grafana, library.shipped())
    assert [each.uid for each in pushed if each.state == "changed"] == ["trimtab-run"]
    assert server.writes == ["/grafana/api/dashboards/db"]
    assert server.dashboards["trimtab-run"]["dashboard"]["version"] == 2
    assert server.dashboards["trimtab-run"]["dashboard"]["panels"] == library.shipped()["trimtab-run"]["panels"]


def test_push_brings_a_dashboard_back_into_its_folder(server, grafana):
    push(grafana, library.shipped())
    server.dashboards["trimtab-own"]["meta"]["folderUid"] = "elsewhere"
    assert states(push(grafana, library.shipped()))["trimtab-own"] == "changed"
    assert server.dashboards["trimtab-own"]["meta"]["folderUid"] == FOLDER_UID


def test_dry_run_reads_only(server, grafana):
    assert set(states(push(grafana, library.shipped(), dry_run=True)).values()) == {"created"}
    assert server.writes == []


def test_push_leaves_a_provisioned_dashboard_alone(server, grafana):
    push(grafana, library.shipped())
    held = server.dashboards["trimtab-run"]
    held["meta"]["provisioned"], held["dashboard"]["title"] = True, "from a file"
    assert states(push(grafana, library.shipped()))["trimtab-run"] == "provisioned"
    assert held["dashboard"]["title"] == "from a file"


def test_push_refuses_to_overwrite_what_changes_meanwhile(server, grafana):
    push(grafana, library.shipped())
    older = copy.deepcopy(server.dashboards["trimtab-run"])
    older["dashboard"].update(title="changed", version=7)
    server.routes.insert(0, ("GET", "/api/dashboards/uid/(trimtab-run)", lambda *_: (200, older)))
    with pytest.raises(GrafanaError, match=r"412.*changed by someone else"):
        push(grafana, library.shipped())


def test_push_without_a_prometheus_writes_nothing(server, grafana):
    server.datasources = [{"name": "Loki", "type": "loki"}]
    with pytest.raises(ConfigError, match="no Prometheus data source"):
        push(grafana, library.shipped())
    assert server.writes == []


def test_push_goes_on_where_data_sources_may_not_be_read(server, grafana):
    server.routes.insert(0, ("GET", "/api/datasources", lambda _: (403, {"message": "datasources:read"})))
    said = []
    assert len(push(grafana, library.shipped(), say=said.append)) == 4
    assert said[0] == "data sources: not checked, the token may not read them"


def test_command_shows_what_a_push_would_change(server, run_cli):
    assert run_cli("push").exit_code == 0
    server.dashboards["trimtab-run"]["dashboard"]["refresh"] = "1m"
    done = run_cli("push", "--dry-run")
    assert "trimtab-run: would be changed\n" in done.stdout
    assert '- "refresh": "1m",\n+ "refresh": "10s",\n' in done.stdout
    assert "trimtab-fleet: unchanged\n" in done.stdout
    assert TOKEN not in done.output
    assert server.dashboards["trimtab-run"]["dashboard"]["refresh"] == "1m"


def test_command_needs_an_address_and_a_token(monkeypatch):
    said = [
        CliRunner().invoke(cli, ["dashboards", "push", *more]).exception for more in ([], ["--grafana", "http://x"])
    ]
    assert [type(each) for each in said] == [ConfigError, ConfigError]
    assert "TRIMTAB_GRAFANA" in str(said[0])
    assert "grafana_token_file" in str(said[1])


def test_export_writes_what_ships(run_cli, tmp_path):
    done = run_cli("export", "-o", str(tmp_path / "new"))
    assert done.exit_code == 0
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "new").glob("*.json")}
    assert found == library.shipped()
