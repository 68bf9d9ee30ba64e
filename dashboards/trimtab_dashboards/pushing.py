"""Puts the dashboards into a Grafana: its folder, then each one that is not there yet, or differs.

What Grafana adds to a dashboard (ids, a version, defaults), what it drops because it is empty, and a newer schema that
it migrated to are no difference. A dashboard that came from a provisioning file is left alone, since Grafana refuses
to change it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.errors import ConfigError, GrafanaError
from trimtab_dashboards.grafana_client import Grafana

FOLDER_UID = "trimtab"
FOLDER = "Trimtab"
MESSAGE = "trimtab dashboards push"  # in Grafana's history of a dashboard

State = Literal["created", "changed", "unchanged", "provisioned"]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of one dashboard, or would have. `diff` is empty unless it changed."""

    uid: str
    state: State
    diff: str = ""


def push(
    grafana: Grafana,
    dashboards: Mapping[str, dict[str, Any]],
    *,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[Pushed]:
    """Bring every dashboard up to date, and tell what was done. A dry run only reads.

    Raises:
        ConfigError: Grafana has no data source of the kind Prometheus.
        GrafanaError: Grafana cannot be reached or refuses, or somebody changed a dashboard in between.
    """
    _check_datasource(grafana, say)
    if grafana.find("folders", FOLDER_UID) is None:
        say(f"folder {FOLDER}: {'would be ' if dry_run else ''}created")
        if not dry_run:
            grafana.post("folders", body={"uid": FOLDER_UID, "title": FOLDER})
    return [_push(grafana, uid, dashboard, dry_run) for uid, dashboard in dashboards.items()]


def _check_datasource(grafana: Grafana, say: Callable[[str], None]) -> None:
    try:
        found = grafana.get("datasources")
    except GrafanaError as error:
        if error.status != 403:
            raise
        say("data sources: not checked, the token may not read them")
        return
    prometheus = [each for each in found if each.get("type") == "prometheus"]
    if not prometheus:
        raise ConfigError(f"Grafana at {grafana.url} has no Prometheus data source. Add one, and push again.")
    for each in prometheus:
        interval = (each.get("jsonData") or {}).get("timeInterval")
        hint = "" if interval else ". Set its scrape interval, or Grafana takes 15 s and short rates show nothing"
        say(f"data source {each.get('name')}: found{hint}")


def _push(grafana: Grafana, uid: str, dashboard: dict[str, Any], dry_run: bool) -> Pushed:
    found = grafana.find("dashboards", "uid", uid)
    there = found["dashboard"] if found else {}
    meta = found["meta"] if found else {}
    if there.get("schemaVersion", 0) > dashboard["schemaVersion"]:
        there = {**there, "schemaVersion": dashboard["schemaVersion"]}
    diff = _diff(uid, _as_far_as(there, dashboard), dashboard) if found else ""
    moved = bool(found) and meta.get("folderUid") != FOLDER_UID
    if found and not diff and not moved:
        return Pushed(uid, "unchanged")
    if meta.get("provisioned"):
        return Pushed(uid, "provisioned", diff)
    if not dry_run:
        known = {"version": there.get("version", 0)}  # a change in between is refused (412)
        grafana.post(
            "dashboards",
            "db",
            body={"dashboard": {**dashboard, **known}, "folderUid": FOLDER_UID, "message": MESSAGE, "overwrite": False},
        )
    return Pushed(uid, "changed" if found else "created", diff + (f"moved to folder {FOLDER}\n" if moved else ""))


def _as_far_as(there: Any, ours: Any) -> Any:
    """What Grafana holds, without the keys that we do not set. What it dropped though we set it was empty is there."""
    if there is None and not ours:
        return ours
    if isinstance(there, dict) and isinstance(ours, dict):
        return {key: _as_far_as(there.get(key), value) for key, value in ours.items()}
    if isinstance(there, list) and isinstance(ours, list):
        beyond = there[len(ours) :]
        return [_as_far_as(a, b) for a, b in zip(there, ours, strict=False)] + beyond
    return there


def _diff(uid: str, there: Any, ours: Any) -> str:
    before, after = (list(_lines(each)) for each in (there, ours))
    return "".join(difflib.unified_diff(before, after, f"{uid} in Grafana", f"{uid} as it ships", n=2))


def _lines(dashboard: Any) -> Iterator[str]:
    yield from json.dumps(dashboard, indent=1, sort_keys=True, ensure_ascii=False).splitlines(keepends=True)
