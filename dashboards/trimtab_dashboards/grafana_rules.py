"""The same alerts for Grafana: a provisioning file, or bodies for its HTTP API.

A rule asks for the value (A, shown in annotations, held under a billion since JSON has no infinity) and for whether it
is over its bound as 0 or 1 (B), which a threshold (C) turns into the condition. So no NaN ever reaches the condition,
where Grafana would take it for an alert. Where there is no series there is no alert (`noDataState: OK`), and a
Prometheus that is down shows as an error of the rule. Nothing about contact points or policies is written, since a tree
of policies would replace the organisation's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trimtab_dashboards.alert_rules import DOCS_URL, AlertRule, acting, lasting
from trimtab_dashboards.prometheus_rules import duration
from trimtab_dashboards.server_rules import RECORDINGS, judged_by_server
from trimtab_dashboards.yaml_text import dump

FILE = "trimtab-rules.yml"
FOLDER = "Trimtab alerts"
FOLDER_UID = "trimtab-alerts"
DATASOURCE_UID = "trimtab-prometheus"
LARGEST = 1e9
LOOKBACK_S = 300

_HEAD = (
    "# Made from the catalog by `trimtab rules export --format grafana`. Do not edit: a test compares.\n"
    "# For provisioning/alerting. The datasource is named by its uid; give --datasource for another one.\n"
)


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that Grafana evaluates together. Its intervals are multiples of 10 s."""

    name: str
    interval_s: int
    alerts: tuple[AlertRule, ...]


def groups() -> list[Group]:
    """All alerts: those that act as often as Grafana can, those that page once a minute."""
    return [
        Group("trimtab-acting", 10, tuple(acting())),
        Group("trimtab-lasting", 60, tuple(lasting())),
        Group("trimtab-servers", 60, tuple(judged_by_server())),
    ]


def files(docs_url: str = DOCS_URL, datasource: str = DATASOURCE_UID) -> dict[str, str]:
    """The provisioning file by its name. `datasource` is the uid of a Prometheus that Grafana knows."""
    written = [
        {
            "orgId": 1,
            "name": group.name,
            "folder": FOLDER,
            "interval": duration(group.interval_s),
            "rules": [_provisioned(alert, docs_url, datasource) for alert in group.alerts],
        }
        for group in groups()
    ]
    return {FILE: _HEAD + dump({"apiVersion": 1, "groups": written})}


def body(group: Group, docs_url: str, datasource: str) -> dict[str, Any]:
    """A group as the HTTP API takes it: `PUT /api/v1/provisioning/folder/<uid>/rule-groups/<name>`."""
    place = {"orgID": 1, "folderUID": FOLDER_UID, "ruleGroup": group.name}
    rules = [
        {**rule(alert, docs_url, datasource), **place, "keep_firing_for": duration(alert.keep_s)}
        for alert in group.alerts
    ]
    return {"title": group.name, "folderUid": FOLDER_UID, "interval": group.interval_s, "rules": rules}


def rule(alert: AlertRule, docs_url: str, datasource: str) -> dict[str, Any]:
    """What the file and the API say alike of one alert."""
    return {
        "uid": uid(alert),
        "title": alert.name,
        "condition": "C",
        "data": _data(alert, datasource),
        "noDataState": "OK",
        "execErrState": "Error",
        "for": duration(alert.for_s),
        "annotations": {
            "summary": _filled(alert.summary),
            "description": alert.description,
            "value": "{{ $values.A.Value }}",
            "runbook_url": f"{docs_url.rstrip('/')}/{alert.page}",
        },
        "labels": alert.labels,
        "isPaused": False,
    }


def uid(alert: AlertRule) -> str:
    """The same for ever, so that a rule is changed and not added: at most 40 letters, digits, - and _."""
    return f"trimtab-{alert.name.removeprefix('Trimtab')}"


def _provisioned(alert: AlertRule, docs_url: str, datasource: str) -> dict[str, Any]:
    keep = {"keepFiringFor": duration(alert.keep_s)} if alert.keep_s else {}
    return {**rule(alert, docs_url, datasource), **keep}


def _data(alert: AlertRule, datasource: str) -> list[dict[str, Any]]:
    value = _without_recordings(alert.value)
    return [
        _query("A", f"clamp_max({value}, {LARGEST:g})", datasource),
        _query("B", f"{value} {alert.operator} bool {alert.bound:g}", datasource),
        {
            "refId": "C",
            "relativeTimeRange": {"from": LOOKBACK_S, "to": 0},
            "datasourceUid": "__expr__",
            "model": {
                "refId": "C",
                "type": "threshold",
                "expression": "B",
                "conditions": [{"evaluator": {"type": "gt", "params": [0]}}],
                "datasource": {"type": "__expr__", "uid": "__expr__"},
            },
        },
    ]


def _query(name: str, expression: str, datasource: str) -> dict[str, Any]:
    return {
        "refId": name,
        "relativeTimeRange": {"from": LOOKBACK_S, "to": 0},
        "datasourceUid": datasource,
        "model": {
            "refId": name,
            "expr": expression,
            "instant": True,
            "range": False,
            "intervalMs": 1000,
            "maxDataPoints": 43200,
            "datasource": {"type": "prometheus", "uid": datasource},
        },
    }


def _without_recordings(expression: str) -> str:
    """Grafana may ask a Prometheus that has none of our rules, so what they would record is asked for itself."""
    for each in reversed(RECORDINGS):  # one may rest on those before it
        expression = expression.replace(each.name, f"({each.expression})")
    return expression


def _filled(text: str) -> str:
    return text.replace("{{ $value }}", "{{ $values.A.Value }}")
