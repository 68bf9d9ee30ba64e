"""The alerts that a server raises, as plain values: those that act, and those that page a person.

An acting alert asks nothing but whether the run's own level of a rule is at 1, since the hold is in the level already.
It has no `for` and no `keep_firing_for`, so that it ends when the run sets a fence. A paging alert waits until the
trouble has outlived the minute that a level looks back over, and holds on for a while so that nobody is paged twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trimtab import catalog
from trimtab.catalog.rules import RULES, RuleSpec, alert_name

DOCS_URL = "https://trimtab.example/docs"  # where runbooks are read; no place of ours is public yet

Operator = Literal[">", ">=", "=="]

PATIENCE_S = {"critical": 120, "warning": 300, "info": 900}  # of a paging alert: over the 60 s of a level
KEEP_S = {"critical": 300, "warning": 600, "info": 1800}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """One alert: it fires for each series of `value` that compares true with `bound`.

    `labels` are added to those of the series; in annotations `{{ $labels.run }}` and `{{ $value }}` are filled in.
    `page` is the runbook, relative to `DOCS_URL`.
    """

    name: str
    value: str  # PromQL
    operator: Operator
    bound: float
    for_s: int = 0
    keep_s: int = 0
    labels: dict[str, str]
    summary: str
    description: str
    page: str

    @property
    def expression(self) -> str:
        """The PromQL that yields a series for each alert."""
        return f"{self.value} {self.operator} {self.bound:g}"


def acting() -> list[AlertRule]:
    """The alerts that may come back into a run: one for each rule that ships, and one for those that users add."""
    return [_of_rule(spec, "act") for spec in RULES.values()] + [_of_user_rules("act")]


def lasting() -> list[AlertRule]:
    """The same for people: trouble that lasts, whether nobody may act or acting did not help.

    `run_hung` is not among them: the servers judge it too, see `trimtab_dashboards.server_rules`.
    """
    shipped = [_of_rule(spec, "page") for spec in RULES.values() if spec.judged != "watchdog"]
    return [*shipped, _of_user_rules("page")]


def level(rule: str) -> str:
    """PromQL for the level of one rule in each run, the worst over its ranks."""
    return f'max by (run, run_id) ({catalog.RULE_LEVEL.name}{{rule="{rule}"}})'


def _of_rule(spec: RuleSpec, purpose: Literal["act", "page"]) -> AlertRule:
    paging = purpose == "page"
    return AlertRule(
        name=alert_name(spec.name) + ("Lasts" if paging else ""),
        value=level(spec.name),
        operator=">=",
        bound=1,
        for_s=PATIENCE_S[spec.severity] if paging else 0,
        keep_s=KEEP_S[spec.severity] if paging else 0,
        labels={"severity": spec.severity, "rule": spec.name, "purpose": purpose},
        summary=f"{{{{ $labels.run }}}}: {spec.name}{' lasts' if paging else ''}",
        description=f"{spec.meaning} {spec.advice}",
        page=f"rules/{spec.name}.md",
    )


def _of_user_rules(purpose: Literal["act", "page"]) -> AlertRule:
    """Any rule that does not ship. Its `rule` label is that of the series."""
    paging = purpose == "page"
    shipped = "|".join(RULES)
    return AlertRule(
        name="TrimtabUserRule" + ("Lasts" if paging else ""),
        value=f'max by (run, run_id, rule) ({catalog.RULE_LEVEL.name}{{rule!~"{shipped}"}})',
        operator=">=",
        bound=1,
        for_s=PATIENCE_S["warning"] if paging else 0,
        keep_s=KEEP_S["warning"] if paging else 0,
        labels={"severity": "warning", "purpose": purpose},
        summary=f"{{{{ $labels.run }}}}: {{{{ $labels.rule }}}}{' lasts' if paging else ''}",
        description="A rule that the run added itself fires. Its owner knows what it means.",
        page="rules/README.md",
    )
