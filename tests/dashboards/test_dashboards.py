"""The dashboards that are committed: current, whole, readable, and about metrics that exist."""

import itertools
import json
import re
from pathlib import Path

import pytest
from panel_queries import DASHBOARDS, annotated, asked, choices, labels_of, panels

from trimtab import catalog
from trimtab.catalog import COMMON_LABELS
from trimtab_dashboards import library
from trimtab_dashboards.dashboard import UIDS
from trimtab_dashboards.promql import of_run
from trimtab_dashboards.server_rules import RECORDINGS, judged_by_server

ROOT = Path(__file__).parents[2]
OF_PROMETHEUS = {"ALERTS", "up", "scrape_duration_seconds", "scrape_samples_scraped"}
LABELS_OF_PROMETHEUS = {"job", "instance", "exported_job", "alertname", "alertstate", "severity", "purpose", "le"}
KINDS = {"stat", "timeseries", "heatmap", "table"}  # none of Angular, none younger than Grafana 9.4
ALL_PANELS = [(uid, panel) for uid, dashboard in DASHBOARDS.items() for panel in panels(dashboard)]

each_panel = pytest.mark.parametrize(
    ("uid", "panel"), ALL_PANELS, ids=[f"{uid}-{panel['title']}" for uid, panel in ALL_PANELS]
)
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())


def series_of_a_metric(spec):
    return {f"{spec.name}_{part}" for part in ("bucket", "count", "sum")} if spec.kind == "histogram" else {spec.name}


def test_dashboards_are_current():
    made = {uid: library.text(dashboard) for uid, dashboard in library.made().items()}
    found = {path.stem: path.read_text() for path in library.FOLDER.glob("*.json")}
    assert found == made, "run: python -m trimtab_dashboards"


def test_every_dashboard_that_links_lead_to_ships():
    assert DASHBOARDS.keys() == UIDS.keys()
    for target in re.findall(r"/d/([\w-]+)", json.dumps(list(DASHBOARDS.values()))):
        assert target in DASHBOARDS


@each_panel
def test_panel_tells_what_it_shows(uid, panel):
    assert panel["type"] in KINDS
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    assert all(target["legendFormat"] for target in panel["targets"]) or panel["type"] == "table"


def test_steps_are_shown_to_the_last_digit():
    """Grafana's `short` makes 12.3 K of them, in which no step is seen to pass."""
    tables = [panel for panel in DASHBOARDS["trimtab-fleet"]["panels"] if panel["type"] == "table"]
    columns = [each for table in tables for each in table["fieldConfig"]["overrides"]]
    units = {
        each["matcher"]["options"]: {p["id"]: p["value"] for p in each["properties"]}.get("unit") for each in columns
    }
    assert units["step"] == units["steps behind"] == "locale"


@each_panel
def test_panel_asks_the_datasource_that_is_chosen(uid, panel):
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert [panel["datasource"]] + [target["datasource"] for target in panel["targets"]] == [chosen] * (
        1 + len(panel["targets"])
    )
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)


@each_panel
def test_rates_are_over_a_time_that_holds_enough_scrapes(uid, panel):
    for target in panel["targets"]:
        assert set(re.findall(r"\[([^\]]*)\]", target["expr"])) <= {"$__rate_interval"}


@each_dashboard
def test_panels_have_numbers_of_their_own_and_titles_too(dashboard):
    for key in ("id", "title"):
        found = [panel[key] for panel in dashboard["panels"]]
        assert len(set(found)) == len(found)


@each_dashboard
def test_panels_lie_side_by_side_within_the_grid(dashboard):
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for a, b in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


@each_dashboard
def test_no_place_is_left_empty_between_panels(dashboard):
    """Grafana moves panels up into a hole, and the picture is not what was meant."""
    taken = {(x, y) for p in dashboard["panels"] for x, y in cells(p["gridPos"])}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        above = {(x, place["y"] - 1) for x in range(place["x"], place["x"] + place["w"])}
        assert place["y"] == 0 or above & taken, panel["title"]


def cells(place):
    return itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))


@each_dashboard
def test_dashboard_is_of_a_schema_that_grafana_has_loaded_since_9_4(dashboard):
    assert dashboard["schemaVersion"] == 39
    assert "id" not in dashboard
    assert {"datasource", "run"} <= {variable["name"] for variable in dashboard["templating"]["list"]}
    assert "rank" in {v["name"] for v in dashboard["templating"]["list"]} or "run=~" in json.dumps(dashboard)


@pytest.mark.parametrize("query", [*asked(), *annotated(), *choices()], ids=str)
def test_query_is_about_metrics_and_labels_that_exist(query):
    known = set().union(*map(series_of_a_metric, catalog.METRICS)) | {each.name for each in RECORDINGS} | OF_PROMETHEUS
    text = re.sub(r'"[^"]*"', '""', query.expr)
    named = set(re.findall(r"\b([a-zA-Z_:][\w:]*)\{", text)) | set(re.findall(r"\b\w*:?trimtab_[\w:]+", text))
    assert named
    assert named <= known
    labels = {label for spec in catalog.METRICS for label in spec.labels} | {*COMMON_LABELS} | LABELS_OF_PROMETHEUS
    listed = re.findall(r"\b(?:by|on|group_left|group_right|ignoring|without) ?\(([\w, ]*)\)", text)
    used = {label.strip() for each in listed for label in each.split(",") if label.strip()}
    assert used | set(re.findall(r"(\w+)=", text)) | labels_of(query.legend) <= labels


def test_alert_path_is_asked_by_the_name_of_its_alert():
    (name,) = set(re.findall(r'alertname="(\w+)"', json.dumps(DASHBOARDS).replace("\\", "")))
    assert name in {alert.name for alert in judged_by_server()}


def test_selector_refuses_a_label_that_the_metric_has_not():
    with pytest.raises(ValueError, match=r"trimtab_loss has no label 'phrase'; it has phase, optimizer"):
        of_run(catalog.LOSS, phrase="train")


def test_installed_package_has_the_dashboards():
    from hatchling.builders.wheel import WheelBuilder

    packed = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"trimtab_dashboards/json/{uid}.json" for uid in DASHBOARDS} <= packed
