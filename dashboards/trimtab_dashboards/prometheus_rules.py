"""The alert rules as files for Prometheus, in the grammar of 2.42."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trimtab_dashboards.alert_rules import DOCS_URL, AlertRule, acting, lasting
from trimtab_dashboards.server_rules import RECORDINGS, judged_by_server
from trimtab_dashboards.yaml_text import dump

ACTING = "trimtab-acting.rules.yml"
PAGING = "trimtab-paging.rules.yml"

_HEAD = "# Made from the catalog by `trimtab rules export --format prometheus`. Do not edit: a test compares.\n"
_ACTING = "# Alerts that a run may act upon: its own level of a rule is at 1. They end when the run sets a fence.\n"
_PAGING = "# Alerts for people, and the series that they and the dashboards need.\n"


def files(docs_url: str = DOCS_URL) -> dict[str, str]:
    """The rule files by their names. `docs_url` is where the pages of `docs/` are found, for `runbook_url`."""
    return {
        ACTING: _HEAD + _ACTING + dump({"groups": [_group("trimtab-acting", acting(), docs_url)]}),
        PAGING: _HEAD + _PAGING + dump({"groups": _paging(docs_url)}),
    }


def _paging(docs_url: str) -> list[dict[str, Any]]:
    servers = _group("trimtab-servers", judged_by_server(), docs_url)
    # Rules of one group are evaluated in their order, groups in none.
    servers["rules"][:0] = [{"record": each.name, "expr": each.expression} for each in RECORDINGS]
    return [_group("trimtab-lasting", lasting(), docs_url), servers]


def _group(name: str, alerts: Iterable[AlertRule], docs_url: str) -> dict[str, Any]:
    return {"name": name, "rules": [_rule(alert, docs_url) for alert in alerts]}


def _rule(alert: AlertRule, docs_url: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": alert.name, "expr": alert.expression, "for": duration(alert.for_s)}
    if alert.keep_s:
        rule["keep_firing_for"] = duration(alert.keep_s)
    rule["labels"] = alert.labels
    rule["annotations"] = {
        "summary": alert.summary,
        "description": alert.description,
        "value": "{{ $value }}",
        "runbook_url": f"{docs_url.rstrip('/')}/{alert.page}",
    }
    return rule


def duration(seconds: int) -> str:
    """`90s`, `5m`: as Prometheus and Grafana write it."""
    return f"{seconds // 60}m" if seconds and seconds % 60 == 0 else f"{seconds}s"
