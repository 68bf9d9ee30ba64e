"""Selectors in PromQL from the metrics of the catalog, so that no panel retypes a name or asks for a label in vain."""

from __future__ import annotations

from trimtab.catalog import COMMON_LABELS, MetricSpec

ONE_RUN = 'run="$run", rank=~"$rank"'  # the variables of a dashboard
MANY_RUNS = 'run=~"$run"'
ASKED = "alertmanager|grafana"  # sources of alerts that a run asks; a webhook is silent as long as nothing fires
EACH_PROCESS = "on (job, instance, run, rank)"  # what tells two processes apart, though they bear one name


def of_run(spec: MetricSpec, suffix: str = "", **labels: str) -> str:
    """The series of the run and the ranks that are chosen: `of_run(LOSS, phase="train")`."""
    return _selector(spec, suffix, ONE_RUN, labels)


def of_runs(spec: MetricSpec, suffix: str = "", **labels: str) -> str:
    """The series of every run that is chosen, all ranks."""
    return _selector(spec, suffix, MANY_RUNS, labels)


def rate(series: str) -> str:
    """What a counter gains in a second, over a time that holds enough scrapes."""
    return f"rate({series}[$__rate_interval])"


def or_zero(query: str, label: str = "") -> str:
    """0 where a query has no series, since a counter of what never happened has none; `label` names that zero."""
    return f"{query} or on () {_constant(0, label)}"


def since_answer(last: str, label: str = "") -> str:
    """Seconds since the `last` answer; -2 where there was none yet, -1 where no server is asked (see `label` above)."""
    return f"time() - ({last} > 0) or 0 * {last} - 2 or on () {_constant(-1, label)}"


def _constant(value: int, label: str) -> str:
    return f'label_replace(vector({value}), "{label}", "none", "", "")' if label else f"vector({value})"


def _selector(spec: MetricSpec, suffix: str, chosen: str, labels: dict[str, str]) -> str:
    unknown = labels.keys() - {*spec.labels, *COMMON_LABELS}
    if unknown:
        raise ValueError(f"{spec.name} has no label {sorted(unknown)[0]!r}; it has {', '.join(spec.labels) or 'none'}")
    matchers = [f'{name}=~"{value}"' if "|" in value else f'{name}="{value}"' for name, value in labels.items()]
    return f"{spec.name}{suffix}{{{', '.join([chosen, *matchers])}}}"
