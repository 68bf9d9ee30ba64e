"""Puts the alert rules into a Grafana, changes only what differs, and can tell what that would be."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.errors import ConfigError, did_you_mean
from trimtab_dashboards.grafana_client import Grafana
from trimtab_dashboards.grafana_rules import FOLDER, FOLDER_UID, Group, body, groups

# Rules stay editable in Grafana, where a person may pause one; a pause is kept, other edits go with the next push.
HEADERS = {"X-Disable-Provenance": "true"}

_UNITS_S = {"h": 3600, "m": 60, "s": 1}
_DURATIONS = ("for", "keep_firing_for")


@dataclass(frozen=True, slots=True)
class Pushed:
    """One group of rules. `diff` has the lines of a unified diff; `state` tells what was done, or would be."""

    group: str
    state: str  # created, changed, unchanged
    diff: tuple[str, ...] = ()


def push(grafana: Grafana, *, docs_url: str, datasource: str | None = None, dry_run: bool = False) -> Iterator[Pushed]:
    """Bring every group up to date, one after the other. A dry run only reads.

    `datasource` is the uid or the name of a Prometheus that Grafana knows; None takes the only one, or the default.

    Raises:
        ConfigError: there is no such datasource, or it is not clear which is meant.
        GrafanaError: Grafana cannot be reached, or refuses.
    """
    uid = find_datasource(grafana.get("datasources"), datasource)
    has_folder = grafana.find("folders", FOLDER_UID) is not None
    for group in groups():
        path = ("v1", "provisioning", "folder", FOLDER_UID, "rule-groups", group.name)
        found = grafana.find(*path) if has_folder else None
        wanted = _with_pauses(body(group, docs_url, uid), found)
        pushed = _compared(group, wanted, found)
        if not dry_run and pushed.state != "unchanged":
            if not has_folder:
                grafana.post("folders", body={"uid": FOLDER_UID, "title": FOLDER})
                has_folder = True
            grafana.put(*path, body=wanted, headers=HEADERS)
        yield pushed


def find_datasource(datasources: list[Mapping[str, Any]], asked: str | None) -> str:
    """The uid of the Prometheus that is meant."""
    known = {str(each["uid"]): each for each in datasources if each.get("type") == "prometheus"}
    if asked is not None:
        for uid, each in known.items():
            if asked in (uid, each.get("name")):
                return uid
        names = sorted(str(each.get("name")) for each in known.values())
        raise ConfigError(f"--datasource {asked}: Grafana has no Prometheus of that uid or name. {_near(asked, names)}")
    if not known:
        raise ConfigError("Grafana has no datasource of the type prometheus. Add one, then push again.")
    chosen = list(known) if len(known) == 1 else [uid for uid, each in known.items() if each.get("isDefault")]
    if len(chosen) != 1:
        raise ConfigError(f"Grafana has several datasources of Prometheus. Name one: --datasource {sorted(known)[0]}")
    return chosen[0]


def _near(asked: str, names: list[str]) -> str:
    return did_you_mean(asked, names) if names else "It has none at all: add one, then push again."


def _with_pauses(wanted: dict[str, Any], found: Mapping[str, Any] | None) -> dict[str, Any]:
    paused = {each["uid"] for each in (found or {}).get("rules", ()) if each.get("isPaused")}
    rules = [{**rule, "isPaused": rule["uid"] in paused} for rule in wanted["rules"]]
    return {**wanted, "rules": rules}


def _compared(group: Group, wanted: dict[str, Any], found: Mapping[str, Any] | None) -> Pushed:
    before, after = _by_name(_seen(wanted, found) if found else {}), _by_name(wanted)
    # What an older Grafana does not know, it does not give back.
    for name in before.keys() & after.keys():
        if name.startswith("rule ") and "keep_firing_for" not in before[name]:
            after[name] = {key: value for key, value in after[name].items() if key != "keep_firing_for"}
    diff: list[str] = []
    for name in dict.fromkeys((*before, *after)):
        there, ours = (_lines(side[name]) if name in side else [] for side in (before, after))
        diff += difflib.unified_diff(there, ours, f"Grafana: {name}", f"Trimtab: {name}", n=1, lineterm="")
    state = "created" if found is None else "changed" if diff else "unchanged"
    return Pushed(group.name, state, tuple(diff))


def _by_name(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The group itself and each of its rules, for a diff that people can read."""
    if not body:
        return {}
    rules = {f"rule {rule['title']}": _in_seconds(rule) for rule in body["rules"]}
    return {"group": {key: value for key, value in body.items() if key != "rules"}, **rules}


def _seen(wanted: Any, found: Any) -> Any:
    """What Grafana has of what is wanted: it adds fields of its own, which are its business."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return {
            key: found[key] if key in ("labels", "annotations") else _seen(value, found[key])
            for key, value in wanted.items()
            if key in found
        }
    if isinstance(wanted, list) and isinstance(found, list):
        if all(isinstance(each, dict) and "uid" in each for each in wanted):
            by_uid = {each["uid"]: each for each in wanted}
            return [_seen(by_uid.get(each["uid"], each), each) for each in found]
        return [_seen(*pair) for pair in zip(wanted, found, strict=False)] + found[len(wanted) :]
    return found


def _in_seconds(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Grafana writes `5m` as it likes: `5m0s`, `300s`."""
    return {key: _seconds(value) if key in _DURATIONS else value for key, value in rule.items()}


def _seconds(duration: str) -> str:
    parts = re.findall(r"(\d+)([hms])", str(duration))
    return f"{sum(int(number) * _UNITS_S[unit] for number, unit in parts)}s"


def _lines(value: Any) -> list[str]:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).splitlines()
