"""The dashboard *Fleet*: every run and rank, who is hung, failing or behind, and the way down to each run."""

from __future__ import annotations

from trimtab import catalog
from trimtab_dashboards.dashboard import Dashboard, Row
from trimtab_dashboards.panels import BLUE, COUNT, GREEN, GREY, ORANGE, RED, Column, Panel, Query, lines, stat, table
from trimtab_dashboards.promql import EACH_PROCESS, of_runs, rate
from trimtab_dashboards.server_rules import GONE

RUN_URL = "/d/trimtab-run?${datasource:queryparam}&var-run=${__value.raw}&${__url_time_range}"
RUNNING = f"({of_runs(catalog.RUN_STATUS, status='running')} == 1)"
IDLE = f"(time() - {of_runs(catalog.LAST_ACTIVITY)})"
STATES = {0.0: ("over", GREY), 1.0: ("running", GREEN)}


def dashboard() -> Dashboard:
    return Dashboard(
        uid="trimtab-fleet",
        description="All runs that Prometheus scrapes.",
        rows=[
            Row(title="How the fleet stands", panels=_standing()),
            Row(title="Runs", panels=[_runs(), *_compared()]),
            Row(title="Ranks", panels=[_ranks(), *_stragglers()]),
        ],
    )


def _standing() -> list[Panel]:
    hung = f"({IDLE} > {EACH_PROCESS} {of_runs(catalog.HUNG_AFTER)}) and {EACH_PROCESS} {RUNNING}"
    failed = f"{of_runs(catalog.RUN_STATUS, status='failed')} == 1"
    return [
        stat(
            "Running",
            "Runs with at least one rank that is running.",
            Query(_count_runs(RUNNING), "runs"),
            bounds=[(None, BLUE)],
        ),
        stat(
            "Hung",
            "Runs with a rank that has said nothing for longer than trimtab_hung_after_seconds.",
            Query(_count_runs(hung), "runs"),
            bounds=[(None, GREEN), (1, RED)],
        ),
        stat(
            "Rules firing",
            "Runs with a rule at its threshold within the last minute.",
            Query(_count_runs(f"{of_runs(catalog.RULE_LEVEL)} >= 1"), "runs"),
            bounds=[(None, GREEN), (1, ORANGE)],
        ),
        stat(
            "Failed",
            "Runs that ended with an exception, and are still scraped.",
            Query(_count_runs(failed), "runs"),
            bounds=[(None, GREEN), (1, RED)],
        ),
        stat(
            "Gone",
            "Runs that were running when they last answered, and do not answer any more. From the paging rules.",
            Query(_count_runs(f'{GONE.name}{{run=~"$run"}}'), "runs"),
            bounds=[(None, GREEN), (1, RED)],
        ),
        stat(
            "Targets down",
            "Addresses of runs that Prometheus cannot scrape.",
            Query('count(up{job=~".*trimtab.*"} == 0) or vector(0)', "targets"),
            bounds=[(None, GREEN), (1, ORANGE)],
        ),
    ]


def _runs() -> Panel:
    def newest(spec: catalog.MetricSpec, **labels: str) -> str:
        return f"max by (run) ({of_runs(spec, **labels)})"

    return table(
        "All runs",
        "One row for each run. A click on a name opens the run.",
        ("run", "owner"),
        Column("state", _owned(newest(catalog.RUN_STATUS, status="running")), states=STATES),
        Column("step", _owned(newest(catalog.GLOBAL_STEP)), unit=COUNT),
        Column("epochs", _owned(newest(catalog.EPOCH_POSITION)), decimals=2),
        Column("train loss", _owned(f"avg by (run) ({of_runs(catalog.LOSS, phase='train')})"), decimals=4),
        Column("validation loss", _owned(f"avg by (run) ({of_runs(catalog.LOSS, phase='validation')})"), decimals=4),
        Column("samples/s", _owned(f"sum by (run) ({rate(of_runs(catalog.SAMPLES))})"), decimals=0),
        Column("worst level", _owned(newest(catalog.RULE_LEVEL)), decimals=2),
        Column("rate scale", _owned(f"min by (run) ({of_runs(catalog.LEARNING_RATE_SCALE)})"), decimals=3),
        Column("ranks", _owned(f"count by (run) ({of_runs(catalog.LAST_ACTIVITY)})")),
        Column("last sign", _owned(f"min by (run) {IDLE}"), unit="s"),
        height=10,
        sort="last sign",
        links={"run": RUN_URL},
    )


def _compared() -> list[Panel]:
    return [
        lines(
            "Validation loss by run",
            "Mean over the last pass.",
            Query(f"avg by (run) ({of_runs(catalog.LOSS, phase='validation')})", "{{run}}"),
        ),
        lines(
            "Samples per second by run",
            "Training samples, all ranks together.",
            Query(f"sum by (run) ({rate(of_runs(catalog.SAMPLES))})", "{{run}}"),
            least=0,
        ),
        lines(
            "Worst rule level by run",
            "At 1 a rule fires.",
            Query(f"max by (run) ({of_runs(catalog.RULE_LEVEL)})", "{{run}}"),
            least=0,
        ),
    ]


def _ranks() -> Panel:
    behind = f"max by (run) ({of_runs(catalog.GLOBAL_STEP)})"
    behind += f" - on (run) group_right () max by (run, rank) ({of_runs(catalog.GLOBAL_STEP)})"
    return table(
        "All ranks",
        "Every process of every run.",
        ("run", "rank"),
        Column("step", f"max by (run, rank) ({of_runs(catalog.GLOBAL_STEP)})", unit=COUNT),
        Column("steps behind", behind, unit=COUNT),
        Column("step time", _step_time("run, rank"), unit="s"),
        Column("waits for data", f"max by (run, rank) ({rate(of_runs(catalog.DATA_WAIT))})", unit="percentunit"),
        Column("last sign", f"min by (run, rank) {IDLE}", unit="s"),
        height=10,
        sort="steps behind",
        descending=True,
        links={"run": RUN_URL},
    )


def _stragglers() -> list[Panel]:
    ranks = _step_time("run, rank")
    return [
        lines(
            "Step time over the run's median",
            "1 is as fast as the median rank. Ranks that wait for each other in every step all take the same time: "
            "then see which waits for data, and which does not wait at all.",
            Query(f"({ranks}) / on (run) group_left () quantile by (run) (0.5, {ranks})", "{{run}} rank {{rank}}"),
        ),
        lines(
            "Waiting for data by rank",
            "Share of the time in which a rank waited for its loader.",
            Query(f"max by (run, rank) ({rate(of_runs(catalog.DATA_WAIT))})", "{{run}} rank {{rank}}"),
            unit="percentunit",
            least=0,
        ),
        lines(
            "Silence by rank",
            "How long ago each rank last said anything.",
            Query(f"min by (run, rank) {IDLE}", "{{run}} rank {{rank}}"),
            unit="s",
            least=0,
        ),
    ]


def _count_runs(query: str) -> str:
    return f"count(count by (run) ({query})) or vector(0)"


def _owned(query: str) -> str:
    """With the owner's name beside the run's; one of them where two persons gave one name."""
    owner = f"topk by (run) (1, max by (run, owner) ({of_runs(catalog.RUN_INFO)}))"
    return f"({query}) * on (run) group_left (owner) {owner}"


def _step_time(by: str) -> str:
    total, count = (rate(of_runs(catalog.STEP_DURATION, part)) for part in ("_sum", "_count"))
    return f"sum by ({by}) ({total}) / sum by ({by}) ({count})"
