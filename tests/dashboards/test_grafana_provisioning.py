"""The files that give Grafana its data source and dashboards agree with everything else that names these."""

import runpy
from pathlib import Path

import pytest
import yaml

from trimtab_dashboards import grafana_rules, library, pushing

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def datasource():
    (found,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/trimtab.yml").read_text())["datasources"]
    return found


@pytest.fixture
def provider():
    (found,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/trimtab.yml").read_text())["providers"]
    return found


@pytest.fixture
def environ(tmp_path):
    return runpy.run_path(str(DEPLOY / "stack.py"))["grafana_environ"](tmp_path, 3000, "http://127.0.0.1:9090")


def test_datasource_is_the_one_that_alert_rules_name(datasource):
    assert datasource["uid"] == grafana_rules.DATASOURCE_UID
    assert datasource["type"] == "prometheus"


def test_datasource_knows_the_scrape_interval(datasource):
    prometheus = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert datasource["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


def test_dashboards_go_where_a_push_puts_them(provider):
    assert (provider["folderUid"], provider["folder"]) == (pushing.FOLDER_UID, pushing.FOLDER)


def test_stack_fills_in_what_the_files_leave_open(provider, datasource, environ):
    assert environ[datasource["url"].strip("${}")] == "http://127.0.0.1:9090"
    folder = Path(environ[provider["options"]["path"].strip("${}")])
    assert {path.stem for path in folder.rglob("*.json")} == library.shipped().keys()
