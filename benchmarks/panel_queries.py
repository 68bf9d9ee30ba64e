"""What a dashboard asks Prometheus: its queries, with its variables filled in."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import trimtab_dashboards

DASHBOARDS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(trimtab_dashboards.__file__).parent / "json").glob("*.json"))
}
VARIABLES = {
    '"$run"': '".+"',
    '"$rank"': '".+"',
    "$__rate_interval": "5s",
    "$__range": "60s",
}


@dataclass(frozen=True)
class Asked:
    dashboard: str
    panel: str
    expr: str
    legend: str
    instant: bool
    kind: str = ""  # of the panel

    def __str__(self):
        return f"{self.dashboard}, {self.panel!r}: {self.expr}"


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def filled(expr, run=".+"):
    expr = expr.replace('run="$run"', f'run=~"{run}"')
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    return expr


def asked():
    """Every query of every panel."""
    return [
        Asked(uid, panel["title"], filled(target["expr"]), target["legendFormat"], target["instant"], panel["type"])
        for uid, dashboard in DASHBOARDS.items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


def annotated():
    """Every query of an annotation."""
    return [
        Asked(uid, each["name"], filled(each["expr"]), each["titleFormat"] + each["textFormat"], False)
        for uid, dashboard in DASHBOARDS.items()
        for each in dashboard["annotations"]["list"]
        if "expr" in each
    ]


def choices():
    """What the variables ask, as PromQL: `query_result(x)` as x, `label_values(x, y)` as a query of x."""
    for uid, dashboard in DASHBOARDS.items():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                query = filled(variable["query"]["query"])
                inner = re.fullmatch(r"query_result\((.*)\)|label_values\((.*), \w+\)", query)
                yield Asked(uid, variable["name"], inner[1] or inner[2], "", True)


def labels_of(legend):
    return set(re.findall(r"\{\{(\w+)\}\}", legend))
