"""What only a server can judge: that a run is gone, hangs, lags behind its other ranks, or fails with others.

A run's name and id are joined to a series by `run_info` of the same target, since two processes may bear one name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trimtab import catalog
from trimtab.catalog.rules import RULES
from trimtab_dashboards.alert_rules import AlertRule, Operator
from trimtab_dashboards.promql import ASKED

SLOWER = 1.5  # a rank's step over the median of its run
WAITS_MORE = 0.2  # share of its time that a rank waits for data beyond the median of its run
FAILING_RUNS = 3
UNREACHABLE_S = 120  # a source of alerts; after 300 s a run forgets the silences that it knew

IDENTIFIED = f"* on (job, instance, run, rank) group_left (run_id) {catalog.RUN_INFO.name}"
# One that is over may linger to be scraped, and is silent then.
RUNNING = f'and on (job, instance, run, rank) {catalog.RUN_STATUS.name}{{status="running"}} == 1'


@dataclass(frozen=True, slots=True)
class Recording:
    """A series that Prometheus computes ahead, for alerts and panels."""

    name: str
    expression: str


# Two runs of one process each that bear one name have one rank between them, and neither lags behind the other.
SEVERAL_RANKS = f"and on (run) count by (run) (count by (run, rank) ({catalog.RUN_INFO.name})) > 1"
STEP_SECONDS = Recording(
    "rank:trimtab_step_seconds:mean5m",
    f"rate({catalog.STEP_DURATION.name}_sum[5m]) / rate({catalog.STEP_DURATION.name}_count[5m])\n{SEVERAL_RANKS}",
)
DATA_WAIT = Recording("rank:trimtab_data_wait:rate5m", f"rate({catalog.DATA_WAIT.name}[5m])\n{SEVERAL_RANKS}")
GONE = Recording(
    "run:trimtab_gone:group",
    f"""\
group by (run, run_id) (
  topk by (job, instance) (1, last_over_time({catalog.RUN_START.name}[1h]))
  and on (job, instance, run, rank) last_over_time({catalog.RUN_STATUS.name}{{status="running"}}[1h]) == 1
  and on (job, instance) up == 0
)""",
)
FAILING = Recording(
    "run:trimtab_failing:group",
    f"""\
group by (run) (
  {catalog.RULE_LEVEL.name}{{rule=~"{"|".join(s.name for s in RULES.values() if s.severity == "critical")}"}} >= 1
  or max_over_time({catalog.RUN_STATUS.name}{{status="failed"}}[10m]) == 1
  or {GONE.name} == 1
)""",
)
RECORDINGS = (STEP_SECONDS, DATA_WAIT, GONE, FAILING)


def judged_by_server() -> list[AlertRule]:
    """The alerts about runs that cannot speak for themselves, and about the way that alerts take."""
    return [*_silent(), *_ranks(), _several(), *_alert_path()]


def _silent() -> list[AlertRule]:
    idle = f"(time() - {catalog.LAST_ACTIVITY.name}) / {catalog.HUNG_AFTER.name}"
    return [
        _alert(
            "TrimtabRunHungLasts", "critical",
            f'max by (run, run_id) (\n  ({idle} {IDENTIFIED}\n  or {catalog.RULE_LEVEL.name}{{rule="run_hung"}})\n'
            f"  {RUNNING}\n)",
            ">=", 1, for_s=60, keep_s=300, rule="run_hung", page="rules/run_hung.md",
            summary="{{ $labels.run }}: no sign of life",
            description="The run has given no sign of life for longer than `trimtab_hung_after_seconds`, or its own "
            f"watchdog says that it hangs. {RULES['run_hung'].advice}",
        ),
        _alert(
            "TrimtabRunGone", "critical", GONE.name, "==", 1, for_s=60,
            summary="{{ $labels.run }}: gone without an end",
            description="The run was running when it last answered, and does not answer any more, though its discovery "
            "file is still there: the process was killed, the machine is gone, or an extension blocks the interpreter. "
            "See `trimtab targets list`; run `trimtab targets clean` once you know.",
        ),
        _alert(
            "TrimtabTargetDown", "warning",
            f'(up{{job=~".*trimtab.*"}} unless on (job, instance) last_over_time({catalog.RUN_INFO.name}[1h]))',
            "==", 0, for_s=120, keep_s=300,
            summary="{{ $labels.instance }}: not reached",
            description="A run says that it serves metrics here, but Prometheus has not reached it within an hour. "
            "Does the run listen on an address that Prometheus can reach? Is a token needed? Is a firewall between? "
            "Or was it killed, more than an hour ago? See `trimtab targets list`.",
        ),
    ]  # fmt: skip


def _ranks() -> list[AlertRule]:
    step, wait = STEP_SECONDS.name, DATA_WAIT.name
    return [
        _alert(
            "TrimtabRankStraggling", "warning",
            "max by (run, run_id, rank) (\n"
            f"  {step} / on (run) group_left () quantile by (run) (0.5, {step})\n  {IDENTIFIED}\n)",
            ">", SLOWER, for_s=300, keep_s=600,
            summary="{{ $labels.run }}: rank {{ $labels.rank }} is slower than the others",
            description="Its steps take more than 1.5 times as long as those of the median rank. If ranks wait for "
            "each other in every step, all take the same time: then see which rank waits for data.",
        ),
        _alert(
            "TrimtabRankStarving", "warning",
            "max by (run, run_id, rank) (\n"
            f"  ({wait} - on (run) group_left () quantile by (run) (0.5, {wait}))\n  {IDENTIFIED}\n)",
            ">", WAITS_MORE, for_s=300, keep_s=600,
            summary="{{ $labels.run }}: rank {{ $labels.rank }} waits for data, and the others for it",
            description="It waits for data for a larger part of its time than the median rank, by 20 percentage "
            "points. Look at its disk, its network and its DataLoader workers.",
        ),
    ]  # fmt: skip


def _several() -> AlertRule:
    return _alert(
        "TrimtabSeveralRunsFailing", "critical", f"count({FAILING.name})", ">=", FAILING_RUNS, for_s=60, keep_s=600,
        summary="{{ $value }} runs fail at once",
        description="Unrelated runs seldom fail together. Look at what they share: storage, network, driver, "
        "data set, the last commit.",
    )  # fmt: skip


def _alert_path() -> list[AlertRule]:
    last = f'{catalog.ALERT_SOURCE_LAST_SUCCESS.name}{{source=~"{ASKED}"}}'
    return [
        _alert(
            "TrimtabAlertSourceUnreachable", "warning",
            "max by (run, run_id) (\n"
            f"  (time() - max by (job, instance, run, rank) ({last})) {IDENTIFIED}\n  {RUNNING}\n)",
            ">", UNREACHABLE_S, for_s=60, keep_s=300,
            summary="{{ $labels.run }}: its alert server cannot be reached",
            description="The run asks this server for alerts and silences. Silences that it knew hold for five "
            "minutes; then its own rules go on without. A very large value means that there never was an answer. Run "
            "`trimtab doctor`.",
        ),
        _alert(
            catalog.ALERT_PATH, "none", "vector(1)", "==", 1,
            summary="Alerts get through",
            description="This alert always fires, and means no trouble. Send it to a service that pages you when it "
            "stops coming.",
        ),
    ]  # fmt: skip


def _alert(
    name: str,
    severity: Literal["critical", "warning", "none"],
    value: str,
    operator: Operator,
    bound: float,
    *,
    summary: str,
    description: str,
    for_s: int = 0,
    keep_s: int = 0,
    rule: str = "",
    page: str = "",
) -> AlertRule:
    return AlertRule(
        name=name,
        value=value,
        operator=operator,
        bound=bound,
        for_s=for_s,
        keep_s=keep_s,
        labels={"severity": severity, **({"rule": rule} if rule else {}), "purpose": "page"},
        summary=summary,
        description=description,
        page=page or f"alert-rules.md#{name.lower()}",
    )
