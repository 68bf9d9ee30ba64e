"""Imports point at the nouns, and faults are caught in one place. An exception needs a decision note."""

import ast
from pathlib import Path

import pytest

import trimtab
import trimtab_backends
import trimtab_dashboards

ROOTS = {package.__name__: Path(package.__file__).parent for package in (trimtab, trimtab_backends, trimtab_dashboards)}

# Which rooms a room imports, no more and no less. Rooms that are not here import what they like, but for `KNOWN_BY`.
IMPORTS = {
    "settings": set(),
    "types": {"settings"},
    "errors": set(),
    "catalog": set(),
    "measurements": {"types", "catalog"},
    "devices": set(),
    "sample": {"types", "devices"},
    "guard": {"sample"},
    "capture": {"sample", "devices", "guard", "types", "facts", "frames", "marks", "searches"},
    "marks": {"sample"},
    "signals": {"errors"},
    "rules": {"types", "errors", "catalog", "signals"},
    "tokens": {"errors", "files"},
    "http": set(),
    "alerts": {"types", "errors", "catalog", "guard", "http", "policies", "tokens"},
    "steering.best": {"actions", "actuators", "rules"},
    "steering.keeping": {"actions", "actuators", "steering.best", "policies", "steering.ranks", "rules", "sample"},
    "steering.controller": {
        "types",
        "alerts",
        "steering.absent",
        "actuators",
        "steering.answering",
        "steering.best",
        "steering.control",
        "steering.elsewhere",
        "steering.execution",
        "steering.forgetting",
        "steering.judging",
        "guard",
        "steering.keeping",
        "steering.membership",
        "steering.orders",
        "policies",
        "rules",
        "sample",
        "steering.standing",
        "steering.telling",
        "steering.wariness",
    },
    "steering.absent": {"actuators", "policies", "rules"},
    "steering.standing": {"errors", "actuators", "alerts", "guard", "policies", "rules"},
    "steering.answering": {
        "types",
        "alerts",
        "steering.execution",
        "steering.membership",
        "policies",
        "rules",
        "steering.telling",
    },
    "steering.elsewhere": {"types", "steering.judging", "steering.keeping", "rules"},
    "steering.forgetting": {"steering.answering", "steering.judging", "steering.telling", "policies", "rules"},
    "steering.telling": {"types", "actuators", "policies", "rules", "sample"},
    "steering.evidence": {"types", "actuators", "policies", "rules"},
    "steering.wariness": {"policies"},
    "steering.judging": {"types", "steering.evidence", "rules", "sample"},
    "steering.execution": {"types", "actions", "actuators", "guard", "steering.noting", "policies"},
    "steering.noting": {"actions"},
    "steering.agreement": set(),
    "steering.ranks": {"types", "stores", "steering.agreement", "steering.execution", "guard", "policies", "sample"},
    "steering.membership": {
        "facts",
        "actuators",
        "guard",
        "policies",
        "sample",
        "steering.execution",
        "steering.ranks",
    },
    "steering.orders": {"types", "actions", "actuators", "steering.control", "steering.execution", "guard", "policies"},
    "bus": {"types", "errors", "guard"},
    "health": {"types", "bus", "sample"},
    "bookends": {"types", "bus", "facts", "guard", "sample"},
    "lint": {"types", "errors", "catalog", "logs", "rules", "signals"},
    "attaching": {"errors"},
    "watchdog": {"types", "frames", "guard", "sample"},
    "logged": {"types", "guard", "sample"},
    "steering.state": {"types", "directory", "guard", "sample"},
    "files": set(),
    "commits": {"files"},
    "facts": {"commits"},
    "stores": set(),
    "searches": set(),
    "frames": set(),
    "apart": set(),
    "actuators": {"actions", "devices", "errors", "marks", "searches"},
    "lifecycle": set(),
    "actions": {"errors"},
    "steering.control": {"types", "errors", "actions", "files", "policies", "renaming"},
    "policies": {"types", "errors", "actions"},
    "plugins": {"settings", "types", "errors", "guard"},
    "processes": set(),
    "snapshot_places": {"types", "directory", "files", "processes", "renaming"},
    "renaming": set(),
    "discovery": {"types", "files", "processes", "renaming"},
    "doctor": {"errors", "alerts", "catalog", "http", "plugins", "discovery", "trimtab_dashboards"},
    "trimtab_backends": {  # decision 0015; see below
        "types",
        "errors",
        "guard",
        "catalog",
        "measurements",
        "discovery",
        "tokens",
        "trimtab_dashboards",
    },
    "trimtab_dashboards": {"errors", "catalog", "tokens"},
    "testing": {"types"},
}

# Who imports a room at all, besides the room itself.
KNOWN_BY = {
    "capture": {"run", "steering.assembly"},
    "signals": {"lint", "rules"},
    "alerts": {"doctor", "steering.answering", "steering.assembly", "steering.controller", "steering.standing"},
    "http": {"alerts", "doctor"},
    "steering.controller": {"steering.assembly"},
    "steering.absent": {"steering.controller"},
    "steering.best": {"steering.controller", "steering.keeping"},
    "steering.keeping": {"steering.controller", "steering.elsewhere"},
    "steering.answering": {"steering.controller", "steering.forgetting"},
    "steering.elsewhere": {"steering.controller"},
    "steering.forgetting": {"steering.controller"},
    "steering.telling": {"steering.answering", "steering.controller", "steering.forgetting"},
    "steering.evidence": {"steering.assembly", "steering.judging"},
    "steering.wariness": {"steering.controller"},
    "steering.judging": {"steering.controller", "steering.elsewhere", "steering.forgetting"},
    "steering.execution": {
        "steering.answering",
        "steering.controller",
        "steering.membership",
        "steering.orders",
        "steering.ranks",
    },
    "steering.noting": {"steering.execution"},
    "steering.agreement": {"steering.ranks"},
    "steering.membership": {"steering.answering", "steering.controller"},
    "steering.ranks": {"steering.keeping", "steering.membership"},
    "steering.orders": {"steering.controller"},
    "steering.standing": {"steering.controller"},
    "steering.assembly": {"run"},
    "bus": {"bookends", "health", "run"},
    "bookends": {"run"},
    "health": {"run"},
    "run": {"watching", "trimtab"},
    "watching": {"cli", "trimtab"},
    "trimtab_backends": set(),
    "trimtab_dashboards": {"cli", "doctor", "trimtab_backends"},
}


def modules():
    for package, root in ROOTS.items():
        for path in sorted(root.rglob("*.py")):
            yield ".".join((package, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"), path


def room(module):
    """`capture` for `trimtab.capture.losses`, `trimtab` for the package itself, `trimtab_backends` for all of those.

    Within `steering`, which wires others, each module is a room: `steering.ranks`.
    """
    package, *rest = module.split(".")
    if package != "trimtab" or not rest:
        return package
    return ".".join(rest[:2]) if rest[0] == "steering" else rest[0]


def imports(path):
    """The full names of all that is imported of ours: modules, and names that may be modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module in ("trimtab", "trimtab.steering")
            names = [f"{node.module}.{alias.name}" for alias in node.names] if whole else [node.module]
        yield from (name for name in names if name.split(".")[0] in ROOTS)


ARROWS = sorted({(module, name) for module, path in modules() for name in imports(path) if room(module) != room(name)})


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_room_imports_what_is_named_here(name):
    found = {room(imported) for module, imported in ARROWS if room(module) == name}
    assert found == IMPORTS[name]


@pytest.mark.parametrize("name", sorted(KNOWN_BY))
def test_room_is_known_by_those_who_are_named_here(name):
    found = {room(module) for module, imported in ARROWS if room(imported) == name}
    assert found == KNOWN_BY[name]


def test_backends_know_of_dashboards_only_the_client():
    found = {name for module, name in ARROWS if room(module) == "trimtab_backends"}
    assert {name for name in found if room(name) == "trimtab_dashboards"} <= {"trimtab_dashboards.grafana_client"}


def test_guard_knows_the_meter_alone():
    assert {imported for module, imported in ARROWS if room(module) == "guard"} == {"trimtab.sample.meter"}


def test_every_room_that_is_named_here_exists():
    rooms = {room(module) for module, _ in modules()}
    assert rooms >= IMPORTS.keys() | KNOWN_BY.keys()


def swallows(handler):
    """Whether an `except` clause catches everything, and does not raise it again."""
    caught = ast.unparse(handler.type) if handler.type else "BaseException"
    broad = {"Exception", "BaseException"} & set(caught.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return bool(broad) and not isinstance(handler.body[-1], ast.Raise)


def test_only_the_guard_and_the_hooks_of_every_step_swallow_exceptions():
    found = {
        module
        for module, path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and swallows(node)
    }
    assert found == {"trimtab.guard", "trimtab.capture.hooks"}


def test_capture_reads_no_value():
    readers = {"item", "cpu", "tolist", "numpy"}
    found = {
        f"{module}:{node.lineno}"
        for module, path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if room(module) == "capture"
        and isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in readers
    }
    assert found == set()
