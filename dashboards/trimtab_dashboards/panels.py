"""Panels of a Grafana dashboard, as plain values that turn into its JSON. Only kinds that Grafana 9.4 to 13 have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24  # columns of a dashboard
COUNT = "locale"  # 12,345, of which `short` makes 12.3 K

GREEN, BLUE, ORANGE, RED, GREY = "green", "blue", "orange", "red", "#808080"
ANSWERED = {-2.0: ("never answered", RED), -1.0: ("not set up", GREY)}  # see `promql.since_answer`


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and how its series are called: `{{label}}` is filled in."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. `defaults` are those of its fields, `custom` what the kind of panel adds to them."""

    kind: Literal["stat", "timeseries", "heatmap", "table"]
    title: str
    description: str
    unit: str  # of Grafana: s, percentunit, short, ...
    queries: Sequence[Query]
    width: int
    height: int
    instant: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    overrides: Sequence[Mapping[str, Any]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    transformations: Sequence[Mapping[str, Any]] = ()

    def json(self, id: int, x: int, y: int) -> dict[str, Any]:
        """As Grafana has it, at a place of the grid."""
        table = {"format": "table"} if self.kind == "table" else {}
        made: dict[str, Any] = {
            "id": id,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [
                {
                    "refId": chr(ord("A") + at),
                    "datasource": DATASOURCE,
                    "editorMode": "code",
                    "expr": query.expr,
                    "legendFormat": query.legend,
                    "instant": self.instant,
                    "range": not self.instant,
                    **table,
                }
                for at, query in enumerate(self.queries)
            ],
            "fieldConfig": {"defaults": {"unit": self.unit, **self.defaults}, "overrides": list(self.overrides)},
            "options": dict(self.options),
        }
        if self.transformations:
            made["transformations"] = list(self.transformations)
        return made


def stat(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    width: int = 4,
    show: Literal["value", "name", "value_and_name"] = "value",
    bounds: Sequence[tuple[float | None, str]] = ((None, GREEN),),
    states: Mapping[float, tuple[str, str]] | None = None,
    names: Mapping[str, str] | None = None,
    empty: str = "no data",
    decimals: int | None = None,
) -> Panel:
    """The newest value, large. `bounds` color it from a value on, `states` give values a word and a color, `names`
    series a color; `empty` stands where there is no series."""
    defaults: dict[str, Any] = {
        "noValue": empty,
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in bounds]},
        "mappings": [_mapping(states)] if states else [],
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    return Panel(
        kind="stat",
        title=title,
        description=description,
        unit=unit,
        queries=queries,
        width=width,
        height=4,
        instant=True,
        defaults=defaults,
        overrides=[override(name, color={"mode": "fixed", "fixedColor": c}) for name, c in (names or {}).items()],
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": show,
            "colorMode": "background" if states or names else "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
        },
    )


def lines(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    width: int = 8,
    height: int = 8,
    log: bool = False,
    least: float | None = None,
    legend: Literal["bottom", "right"] = "bottom",
    states: Mapping[float, tuple[str, str]] | None = None,
) -> Panel:
    """Series over time. `log` for what spans decades, `least` for where the axis begins, `states` as for `stat`."""
    scale = {"type": "log", "log": 10} if log else {"type": "linear"}
    defaults: dict[str, Any] = {
        "color": {"mode": "palette-classic"},
        "custom": {"drawStyle": "line", "lineWidth": 1, "showPoints": "auto", "scaleDistribution": scale},
    }
    if least is not None:
        defaults["min"] = least
    if states:
        defaults["mappings"] = [_mapping(states)]
    return Panel(
        kind="timeseries",
        title=title,
        description=description,
        unit=unit,
        queries=queries,
        width=width,
        height=height,
        defaults=defaults,
        options={
            "legend": {"displayMode": "table", "placement": legend, "showLegend": True, "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def heatmap(title: str, description: str, query: Query) -> Panel:
    """One row for each series, in the order in which the server sends them, from the top; color is the value."""
    return Panel(
        kind="heatmap",
        title=title,
        description=description,
        unit="short",
        queries=[query],
        width=12,
        height=14,
        options={
            "calculate": False,
            "cellGap": 0,
            "cellValues": {"unit": "short"},
            "color": {"mode": "scheme", "scheme": "Turbo", "steps": 64, "reverse": False, "fill": "dark-orange"},
            "filterValues": {"le": -1e9},  # by default Grafana hides what is 0 or less, as a logarithm often is
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "show": True, "yHistogram": False},
            "yAxis": {"axisPlacement": "left", "reverse": True},
        },
    )


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: a query, and how its values are shown."""

    name: str
    expr: str
    unit: str = "short"
    states: Mapping[float, tuple[str, str]] | None = None
    decimals: int | None = None


def table(
    title: str,
    description: str,
    labels: Sequence[str],
    *columns: Column,
    width: int = WIDTH,
    height: int = 8,
    sort: str = "",
    descending: bool = False,
    links: Mapping[str, str] | None = None,
) -> Panel:
    """One row for each label set that the columns share. `labels` become columns too, before the others."""
    values = {f"Value #{chr(ord('A') + at)}" if len(columns) > 1 else "Value": c for at, c in enumerate(columns)}
    order = {**{label: label for label in labels}, **{value: column.name for value, column in values.items()}}
    overrides = [override(c.name, **_cell(c)) for c in columns]
    overrides += [override(name, links=[_link(url)]) for name, url in (links or {}).items()]
    keep = {"include": {"names": list(order)}}
    return Panel(
        kind="table",
        title=title,
        description=description,
        unit="short",
        queries=[Query(column.expr) for column in columns],
        width=width,
        height=height,
        instant=True,
        defaults={"custom": {"align": "auto", "filterable": False}},
        overrides=overrides,
        options={"showHeader": True, "sortBy": [{"displayName": sort, "desc": descending}] if sort else []},
        transformations=[
            {"id": "merge", "options": {}},
            {"id": "filterFieldsByName", "options": keep},
            {
                "id": "organize",
                "options": {"renameByName": order, "indexByName": {n: at for at, n in enumerate(order)}},
            },
        ],
    )


def override(name: str, **properties: Any) -> dict[str, Any]:
    """Properties of one field, by its displayed name."""
    listed = [{"id": key, "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": listed}


def _cell(column: Column) -> dict[str, Any]:
    found: dict[str, Any] = {"unit": column.unit}
    if column.decimals is not None:
        found["decimals"] = column.decimals
    if column.states:
        found["mappings"] = [_mapping(column.states)]
    return found


def _mapping(states: Mapping[float, tuple[str, str]]) -> dict[str, Any]:
    options = {
        f"{value:g}": {"text": text, "color": color, "index": at}
        for at, (value, (text, color)) in enumerate(states.items())
    }
    return {"type": "value", "options": options}


def _link(url: str) -> dict[str, Any]:
    return {"title": "Open the run", "url": url, "targetBlank": False}
