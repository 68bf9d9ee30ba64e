"""The dashboard *Trimtab itself*: what watching costs, what was lost, and what became of alerts that came in."""

from __future__ import annotations

from trimtab import catalog
from trimtab_dashboards.dashboard import Dashboard, Row
from trimtab_dashboards.panels import ANSWERED, Panel, Query, lines
from trimtab_dashboards.promql import ASKED, of_runs, or_zero, rate, since_answer


def dashboard() -> Dashboard:
    return Dashboard(
        uid="trimtab-own",
        description="What Trimtab costs the runs that it watches, and what it lost.",
        rows=[
            Row(title="What watching costs", panels=_cost()),
            Row(title="What was lost", panels=_lost()),
            Row(title="Alerts that came in", panels=_alerts()),
            Row(title="Scrapes", panels=_scrapes()),
        ],
    )


def _cost() -> list[Panel]:
    return [
        lines(
            "Overhead since the start",
            "Share of a run's time that Trimtab took, by its own measurement.",
            Query(f"max by (run) ({of_runs(catalog.OVERHEAD_RATIO)})", "{{run}}"),
            unit="percentunit",
            least=0,
        ),
        lines(
            "Overhead now",
            "The same, over the last minutes.",
            Query(f"max by (run) ({rate(of_runs(catalog.OVERHEAD_SECONDS))})", "{{run}}"),
            unit="percentunit",
            least=0,
        ),
        lines(
            "Steps between gradient statistics",
            "The more steps, the less they cost.",
            Query(f"max by (run) ({of_runs(catalog.GRADIENT_INTERVAL)})", "{{run}}"),
            least=0,
        ),
    ]


def _lost() -> list[Panel]:
    dropped = f"sum by (run, backend, reason) ({of_runs(catalog.DROPPED)})"
    errors = f"sum by (run, backend) ({of_runs(catalog.BACKEND_ERRORS)})"
    return [
        lines(
            "Events that a backend did not get",
            "Since the start, by reason: its queue was full, it raised, or the run ended before it was done.",
            Query(or_zero(dropped, "run"), "{{run}} {{backend}} {{reason}}"),
            least=0,
        ),
        lines(
            "Exceptions of backends",
            "Since the start. The log has the first of each kind, with its place in the code.",
            Query(or_zero(errors, "run"), "{{run}} {{backend}}"),
            least=0,
        ),
        lines(
            "Backends",
            "How many runs use each backend.",
            Query(f"count by (backend) ({of_runs(catalog.BACKEND_INFO)})", "{{backend}}"),
            least=0,
        ),
    ]


def _alerts() -> list[Panel]:
    received = f"sum by (source, outcome) ({of_runs(catalog.ALERTS_RECEIVED)})"
    heard = f"max by (run) ({of_runs(catalog.ALERT_SOURCE_LAST_SUCCESS, source=ASKED)})"
    made = f"sum by (outcome) ({of_runs(catalog.ADJUSTMENTS)})"
    return [
        lines(
            "Alerts received",
            "Alerts from outside, by source and outcome.",
            Query(or_zero(received, "source"), "{{source}} {{outcome}}"),
            least=0,
        ),
        lines(
            "Alerts last asked for",
            "Time since the last answer of the server that each run asks for alerts. No line: it never had an answer.",
            Query(since_answer(heard, "run"), "{{run}}"),
            unit="s",
            least=0,
            states=ANSWERED,
        ),
        lines(
            "Adjustments by outcome",
            "Of all runs, since their start.",
            Query(or_zero(made, "outcome"), "{{outcome}}"),
            least=0,
        ),
    ]


def _scrapes() -> list[Panel]:
    targets = 'job=~".*trimtab.*"'
    return [
        lines(
            "Time of a scrape",
            "How long Prometheus waited for each process.",
            Query(f"scrape_duration_seconds{{{targets}}}", "{{instance}}"),
            unit="s",
            least=0,
            width=12,
        ),
        lines(
            "Samples of a scrape",
            "Number of series of each process. About 1,000 are fine; `layers=` makes them fewer.",
            Query(f"scrape_samples_scraped{{{targets}}}", "{{instance}}"),
            least=0,
            width=12,
        ),
    ]
