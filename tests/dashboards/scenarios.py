"""Series over time, and which alerts they raise when: the unit tests that promtool runs.

Values are written as promtool reads them: `1x3` is 1 four times, `NaN+0x3` NaN four times, `stale` ends a series as a
scrape that fails does, `_` is no sample at all. One sample a minute, from time 0.
"""

from dataclasses import dataclass

from trimtab_dashboards.alert_rules import DOCS_URL
from trimtab_dashboards.yaml_text import dump

INFO = "trimtab_run_info"


@dataclass(frozen=True)
class Scenario:
    """`series` maps a series to its values, `firing` a time to the alerts of that name: their labels and `$value`."""

    alert: str
    says: str
    series: dict
    firing: dict


def of_level(alert, rule):
    """Every course that the level of one rule may take, one run for each."""
    runs = {"high": "1x60", "low": "0.99x60", "nan": "NaN+0x60", "inf": "Inf+0x60", "turns_nan": "2x1 NaN+0x60"}
    runs |= {"dies": "3x1 stale", "fenced": "3x1 0x60"}
    series = {_level(run, rule): values for run, values in runs.items()}
    going_on = [({"run": "high", "run_id": "high"}, "1"), ({"run": "inf", "run_id": "inf"}, "+Inf")]
    ended = [
        ({"run": run, "run_id": run}, value) for run, value in (("turns_nan", "2"), ("dies", "3"), ("fenced", "3"))
    ]
    if "rule" not in alert.labels:
        going_on = [({**labels, "rule": rule}, value) for labels, value in going_on]
        ended = [({**labels, "rule": rule}, value) for labels, value in ended]
    if not alert.for_s:
        firing = {"0m": going_on + ended, "1m": going_on + ended, "2m": going_on, "60m": going_on}
    else:
        patience = alert.for_s // 60
        firing = {f"{patience - 1}m": [], f"{patience}m": going_on, "60m": going_on}
    return Scenario(alert.name, "levels", series, firing)


def kept(alert, rule):
    """A paging alert holds on after its trouble is over, and then ends."""
    until = alert.for_s // 60 + 2
    after = until + alert.keep_s // 60
    labels = {"run": "a", "run_id": "a"} | ({} if "rule" in alert.labels else {"rule": rule})
    firing = {f"{until}m": [(labels, "2")], f"{after - 1}m": [(labels, "2")], f"{after + 2}m": []}
    return Scenario(alert.name, "kept", {_level("a", rule): f"2x{until} 0x60"}, firing)


def _level(run, rule):
    return f'trimtab_rule_level{{run="{run}", run_id="{run}", rank="0", rule="{rule}"}}'


def _target(run, *, rank="0", instance=None):
    return f'job="trimtab", instance="{instance or run}", run="{run}", rank="{rank}"'


def _info(run, values="1x200", **target):
    return {f'{INFO}{{{_target(run, **target)}, run_id="{run}", exported_job="77"}}': values}


def _of(run, metric, values, extra="", **target):
    return {f"trimtab_{metric}{{{_target(run, **target)}{extra}}}": values}


def _up(instance, values):
    return {f'up{{job="trimtab", instance="{instance}"}}': values}


def _ran(run, values, *, began="0x4 stale", status="running", instance=None, run_id=None):
    """A run that a target tells of, and what the scrapes of it say."""
    started = _of(run, "run_start_timestamp_seconds", began, f', run_id="{run_id or run}"', instance=instance)
    return started | _info(run, values, instance=instance) | _is(run, values, status, instance=instance)


def _is(run, values="1x200", status="running", **target):
    return _of(run, "run_status", values, f', status="{status}"', **target)


HUNG = [
    Scenario(
        "TrimtabRunHungLasts",
        "silent",
        _info("stuck") | _of("stuck", "last_activity_timestamp_seconds", "0x200")
        | _of("stuck", "hung_after_seconds", "600x200")
        | _info("alive") | _of("alive", "last_activity_timestamp_seconds", "0+60x200")
        | _of("alive", "hung_after_seconds", "600x200")
        | _info("nan") | _of("nan", "last_activity_timestamp_seconds", "NaN+0x200")
        | _of("nan", "hung_after_seconds", "600x200")
        | _info("patient") | _of("patient", "last_activity_timestamp_seconds", "0x200")
        | _of("patient", "hung_after_seconds", "Inf+0x200")
        | _info("over") | _of("over", "last_activity_timestamp_seconds", "0x200")
        | _of("over", "hung_after_seconds", "600x200") | _is("over", "1x2 0x198")
        | _is("stuck") | _is("alive") | _is("nan") | _is("patient"),
        {"10m": [], "11m": [({"run": "stuck", "run_id": "stuck"}, "1.1")]},
    ),
    Scenario(
        "TrimtabRunHungLasts",
        "target gone",
        _info("stuck", "1x12 stale") | _of("stuck", "last_activity_timestamp_seconds", "0x12 stale")
        | _of("stuck", "hung_after_seconds", "600x12 stale") | _is("stuck", "1x12 stale"),
        {"12m": [({"run": "stuck", "run_id": "stuck"}, "1.2")], "19m": []},
    ),
    Scenario(
        "TrimtabRunHungLasts",
        "its watchdog says so",
        {_level("a", "run_hung"): "0x1 1.5x20", _level("b", "run_hung"): "Inf+0x60"}
        | {_level("c", "run_hung"): "NaN+0x60", _level("over", "run_hung"): "1.5x60"}
        | {f'trimtab_run_status{{run="{run}", rank="0", status="running"}}': "1x60" for run in "abc"}
        | {'trimtab_run_status{run="over", rank="0", status="running"}': "0x60"},
        {"0m": [], "5m": [({"run": "a", "run_id": "a"}, "1.5"), ({"run": "b", "run_id": "b"}, "+Inf")]},
    ),
]  # fmt: skip

GONE = [
    Scenario(
        "TrimtabRunGone",
        "killed",
        _ran("killed", "1x4 stale") | _up("killed", "1x4 0x200"),
        {"4m": [], "6m": [({"run": "killed", "run_id": "killed"}, "1")], "70m": []},
    ),
    Scenario(
        "TrimtabRunGone",
        "ended, or alive",
        _ran("ended", "1x4 stale", status="completed") | _up("ended", "1x4 0x200")
        | _ran("forgotten", "1x4 stale") | _up("forgotten", "1x4 stale")
        | _ran("alive", "1x200", began="0x200") | _up("alive", "1x200")
        | _ran("nan", "NaN+0x4 stale", began="NaN+0x4 stale") | _up("nan", "1x4 0x200"),
        {"6m": [], "20m": []},
    ),
    Scenario(
        "TrimtabRunGone",
        "the newest run of an address",
        _ran("first", "1x4 stale", instance="host") | _up("host", "1x10 0x200")
        | _ran("second", "_x6 1x4 stale", began="_x6 360x4 stale", instance="host"),
        {"12m": [({"run": "second", "run_id": "second"}, "1")]},
    ),
    Scenario(
        "TrimtabRunGone",
        "the newest of its name at an address",
        _ran("same", "1x10 stale", began="0x4 stale", run_id="old") | _up("same", "1x10 0x200")
        | _ran("same", "1x10 stale", began="_x6 360x4 stale", run_id="new"),
        {"12m": [({"run": "same", "run_id": "new"}, "1")]},
    ),
]  # fmt: skip

DOWN = [
    Scenario(
        "TrimtabTargetDown",
        "never reached",
        _up("lost", "0x200") | _up("nan", "NaN+0x200") | _up("well", "1x200") | _up("removed", "0x3 stale")
        | {'up{job="node", instance="other"}': "0x200"}
        | _up("died", "1x4 0x200") | _ran("died", "1x4 stale"),  # it is gone, for an hour
        {
            "1m": [],
            "2m": [({"job": "trimtab", "instance": i}, "0") for i in ("lost", "removed")],
            "20m": [({"job": "trimtab", "instance": "lost"}, "0")],
            "70m": [({"job": "trimtab", "instance": i}, "0") for i in ("lost", "died")],
        },
    ),
    Scenario(
        "TrimtabTargetDown",
        "found later, in a job of another name",
        {'up{job="ml/trimtab-runs", instance="a"}': "0x30 1x30"},
        {"5m": [({"job": "ml/trimtab-runs", "instance": "a"}, "0")], "40m": []},
    ),
]  # fmt: skip


def _steps(run, rank, seconds, gone=False, instance=None):
    """A rank that takes a step in so many seconds, 60 steps a minute by count."""
    target = {"rank": rank, "instance": instance or f"{run}{rank}"}
    end = "x5 stale" if gone else "x60"
    series = _of(run, "step_duration_seconds_sum", f"0+{60 * seconds:g}{end}", **target)
    series |= _of(run, "step_duration_seconds_count", f"0+60{end}", **target)
    return series | _info(run, "1" + end, **target)


def _waits(run, rank, share, instance=None):
    target = {"rank": rank, "instance": instance or f"{run}{rank}"}
    return _of(run, "data_wait_seconds_total", f"0+{60 * share:g}x60", **target) | _info(run, "1x60", **target)


RANKS = [
    Scenario(
        "TrimtabRankStraggling",
        "one of four",
        _steps("a", "0", 1) | _steps("a", "1", 1) | _steps("a", "2", 1) | _steps("a", "3", 2)
        | _steps("near", "0", 1) | _steps("near", "1", 2) | _steps("alone", "0", 9)
        | _steps("idle", "0", 0) | _steps("idle", "1", 0)
        | _of("nan", "step_duration_seconds_sum", "NaN+0x60") | _of("nan", "step_duration_seconds_count", "0+1x60")
        | _info("nan", "1x60"),
        {"5m": [], "10m": [({"run": "a", "run_id": "a", "rank": "3"}, "2")]},
    ),
    Scenario(
        "TrimtabRankStraggling",
        "two runs of one process, and of one name",
        _steps("a", "0", 1, instance="here") | _steps("a", "0", 9, instance="there"),
        {"10m": [], "30m": []},
    ),
    Scenario(
        "TrimtabRankStraggling",
        "it dies",
        _steps("a", "0", 1) | _steps("a", "1", 1) | _steps("a", "2", 1) | _steps("a", "3", 2, gone=True),
        {"30m": []},
    ),
    Scenario(
        "TrimtabRankStarving",
        "one of four",
        _waits("a", "0", 0.05) | _waits("a", "1", 0.05) | _waits("a", "2", 0.05) | _waits("a", "3", 0.55)
        | _waits("all", "0", 0.8) | _waits("all", "1", 0.8)
        | _of("nan", "data_wait_seconds_total", "NaN+0x60") | _info("nan", "1x60"),
        {"5m": [], "10m": [({"run": "a", "run_id": "a", "rank": "3"}, "0.5")]},
    ),
    Scenario(
        "TrimtabRankStarving",
        "two runs of one process, and of one name",
        _waits("a", "0", 0.05, instance="here") | _waits("a", "0", 0.95, instance="there"),
        {"10m": [], "30m": []},
    ),
]  # fmt: skip

SEVERAL = [
    Scenario(
        "TrimtabSeveralRunsFailing",
        "a rule, a status, a death",
        {_level("a", "loss_diverged"): "Inf+0x10 0x60", _level("d", "input_bound"): "9x60"}
        | {_level("e", "loss_diverged"): "NaN+0x60"}
        | _of("b", "run_status", "1x3 stale", ', status="failed"')
        | _ran("c", "1x2 stale") | _up("c", "1x2 0x60"),
        {"3m": [], "5m": [({}, "3")], "30m": []},
    ),
    Scenario(
        "TrimtabSeveralRunsFailing",
        "two rules of two runs",
        {_level(run, rule): "2x60" for run in "ab" for rule in ("loss_diverged", "loss_nonfinite")},
        {"5m": [], "20m": []},
    ),
]  # fmt: skip

SOURCE = "alert_source_last_success_timestamp_seconds"
PATH = [
    Scenario(
        "TrimtabAlertSourceUnreachable",
        "silent, or in touch",
        _info("a") | _of("a", SOURCE, "0x60", ', source="alertmanager"')
        | _info("b") | _of("b", SOURCE, "0+60x60", ', source="alertmanager"')
        | _info("nan") | _of("nan", SOURCE, "NaN+0x60", ', source="grafana"')
        | _info("gone", "1x2 stale") | _of("gone", SOURCE, "0x2 stale", ', source="grafana"')
        | _info("back") | _of("back", SOURCE, "0x5 360+60x60", ', source="grafana"')
        | _info("found") | _of("found", SOURCE, "0x60", ', source="alertmanager"')  # taken for one, until it was there
        | _of("found", SOURCE, "0+60x60", ', source="grafana"')
        | _info("hook") | _of("hook", SOURCE, "0x60", ', source="webhook"')
        | _info("over") | _of("over", SOURCE, "0x60", ', source="alertmanager"') | _is("over", "0x60")
        | _is("a") | _is("b") | _is("nan") | _is("gone", "1x2 stale") | _is("back") | _is("found") | _is("hook"),
        {
            "3m": [],
            "4m": [({"run": run, "run_id": run}, "240") for run in ("a", "back")],
            "12m": [({"run": "a", "run_id": "a"}, "720")],
        },
    ),
    Scenario("TrimtabAlertPathAlive", "with no series at all", {}, {"0m": [({}, "1")], "60m": [({}, "1")]}),
]  # fmt: skip

SERVER = [*HUNG, *GONE, *DOWN, *RANKS, *SEVERAL, *PATH]


def unit_test(scenario, alert, rule_files):
    """The scenario as a file for `promtool test rules`."""
    checks = [
        {"eval_time": at, "alertname": alert.name, "exp_alerts": [_expected(alert, *each) for each in expected]}
        for at, expected in scenario.firing.items()
    ]
    series = [{"series": name, "values": values} for name, values in scenario.series.items()]
    test = {"interval": "1m", "input_series": series, "alert_rule_test": checks}
    return dump({"rule_files": list(map(str, rule_files)), "evaluation_interval": "1m", "tests": [test]})


def _expected(alert, labels, value):
    everything = {**alert.labels, **labels}

    def filled(text):
        for name, content in everything.items():
            text = text.replace(f"{{{{ $labels.{name} }}}}", content)
        return text.replace("{{ $value }}", value)

    return {
        "exp_labels": everything,
        "exp_annotations": {
            "summary": filled(alert.summary),
            "description": alert.description,
            "value": value,
            "runbook_url": f"{DOCS_URL}/{alert.page}",
        },
    }
