"""The dashboards that ship: made from code, kept as JSON in this package, so that they can be read and provisioned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimtab_dashboards import fleet_dashboard, layers_dashboard, own_dashboard, run_dashboard

FOLDER = Path(__file__).with_name("json")


def made() -> dict[str, dict[str, Any]]:
    """Every dashboard by its uid, made anew."""
    found = [module.dashboard() for module in (run_dashboard, layers_dashboard, fleet_dashboard, own_dashboard)]
    return {each.uid: each.json() for each in found}


def shipped() -> dict[str, dict[str, Any]]:
    """Every dashboard by its uid, as it is committed."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def text(dashboard: dict[str, Any]) -> str:
    """One dashboard as a file holds it."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"
