"""A dashboard around panels: variables, annotations, links to the others, and a place for each panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab import catalog
from trimtab_dashboards.panels import DATASOURCE, WIDTH, Panel
from trimtab_dashboards.promql import of_run

SCHEMA_VERSION = 39  # loads from Grafana 9.4 on
TAG = "trimtab"
UIDS = {  # title and scope
    "trimtab-fleet": ("Trimtab: fleet", "runs"),
    "trimtab-run": ("Trimtab: run", "run"),
    "trimtab-layers": ("Trimtab: layers", "run"),
    "trimtab-own": ("Trimtab: itself", "runs"),
}
GRAFANA = {"type": "grafana", "uid": "-- Grafana --"}  # its own store, of annotations


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels under a heading, from left to right; one that does not fit begins a new line."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One dashboard of `UIDS`, whose scope says whether its variable `run` is one run, with ranks, or several."""

    uid: str
    description: str
    rows: Sequence[Row]

    def json(self) -> dict[str, Any]:
        """The classic model of Grafana: what `POST /api/dashboards/db` and file provisioning take."""
        title, scope = UIDS[self.uid]
        return {
            "uid": self.uid,
            "title": title,
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "editable": True,
            "graphTooltip": 1,  # one crosshair over all panels
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "annotations": {"list": _annotations(scope)},
            "templating": {"list": _variables(scope)},
            "links": _links(self.uid, scope),
            "panels": list(_placed(self.rows)),
        }


def _placed(rows: Sequence[Row]) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        grid = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        placed.append({"id": len(placed) + 1, "type": "row", "title": row.title, "collapsed": False, "gridPos": grid,
                       "panels": []})  # fmt: skip
        x, y, tallest = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            placed.append(panel.json(len(placed) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return placed


def _variables(scope: str) -> list[dict[str, Any]]:
    # Newest first, and those that ended within the time that is shown as well.
    newest = f"max by (run) (max_over_time({catalog.LAST_ACTIVITY.name}[$__range]))"
    several = scope == "runs"
    runs = _query_variable("run", "Run", f"query_result(sort_desc({newest}))", several=several, regex='/run="([^"]+)"/')
    ranks = f'label_values({catalog.LAST_ACTIVITY.name}{{run="$run"}}, rank)'
    datasource = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "regex": "",
        "options": [],
        "current": {},
    }
    if several:
        return [datasource, runs]
    return [datasource, runs, _query_variable("rank", "Rank", ranks, several=True, sort=3)]


def _query_variable(
    name: str, label: str, query: str, *, several: bool, regex: str = "", sort: int = 0
) -> dict[str, Any]:
    every = {"includeAll": True, "allValue": ".+", "current": {"text": ["All"], "value": ["$__all"]}}
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"variable-{name}"},
        "definition": query,
        "regex": regex,
        "refresh": 2,  # when the time range changes
        "sort": sort,
        "hide": 0,
        "multi": several,
        "options": [],
        **(every if several else {"includeAll": False, "current": {}}),
    }


def _annotations(scope: str) -> list[dict[str, Any]]:
    own = {
        "builtIn": 1,
        "datasource": GRAFANA,
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }
    if scope == "runs":
        return [own]
    # A run that writes annotations itself says more in them, so its adjustments are not drawn twice.
    unwritten = f"{of_run(catalog.LAST_ADJUSTMENT)} unless on (run) {of_run(catalog.BACKEND_INFO, backend='grafana')}"
    return [
        own,
        _from_prometheus(
            "Adjustments",
            "purple",
            f"({unwritten}) * 1000",
            "{{action}} ({{outcome}})",
            "policy {{policy}}, optimizer {{optimizer}}",
            at_value=True,
        ),
        _from_prometheus(
            "Rules", "orange", f"max by (rule) ({of_run(catalog.RULE_LEVEL)}) >= 1", "{{rule}}", "its level is at 1"
        ),
        _from_prometheus(
            "Alerts",
            "red",
            'ALERTS{run="$run", alertstate="firing", purpose="page"}',
            "{{alertname}}",
            "severity {{severity}}, rule {{rule}}",
        ),
        {
            "datasource": GRAFANA,
            "enable": True,
            "hide": False,
            "iconColor": "purple",
            "name": "Written by the run",
            "target": {"type": "tags", "tags": [TAG, "$run"], "matchAny": False, "limit": 200},
        },
    ]


def _from_prometheus(
    name: str, color: str, expr: str, title: str, text: str, *, at_value: bool = False
) -> dict[str, Any]:
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "name": name,
        "expr": expr,
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": "",
        "useValueForTime": at_value,  # the value is the time, in milliseconds
    }


def _links(uid: str, scope: str) -> list[dict[str, Any]]:
    """To each other dashboard, with the data source, and with the run where both are about one."""
    return [
        {
            "type": "link",
            "title": title,
            "url": f"/d/{other}?${{datasource:queryparam}}" + ("&${run:queryparam}" if scope == of == "run" else ""),
            "keepTime": True,
            "targetBlank": False,
            "icon": "dashboard",
            "tooltip": "",
            "tags": [],
            "asDropdown": False,
            "includeVars": False,
        }
        for other, (title, of) in UIDS.items()
        if other != uid
    ]
