"""What panels say of series that a demo does not bring: hung, gone, dead. Asked of promtool, in made-up time."""

import pytest
import yaml
from panel_queries import asked

pytestmark = pytest.mark.servers

OF = '{run="r",rank="0",instance="a:1",job="trimtab"'
SAMPLES = 30  # one every 10 s
AT = "4m"


def query(dashboard, panel, at=0):
    """The PromQL of a panel's query, as it is."""
    found = [each.expr for each in asked() if (each.dashboard, each.panel) == (dashboard, panel)]
    return found[at].replace("[5s]", "[1m]")


def series(name, values, **labels):
    more = "".join(f',{key}="{value}"' for key, value in labels.items())
    values = " ".join(["NaN"] * (SAMPLES + 1)) if values.startswith("NaN") else values  # it cannot be multiplied
    return {"series": f"{name}{OF}{more}}}", "values": values}


@pytest.fixture
def judge(promtool, tmp_path):
    """Check that a query has one value at `AT`, or several by one label."""

    def judge(expr, expected, given):
        samples = expected if isinstance(expected, list) else [{"labels": "{}", "value": expected}]
        test = {
            "interval": "10s",
            "input_series": given,
            "promql_expr_test": [{"expr": expr, "eval_time": AT, "exp_samples": samples}],
        }
        path = tmp_path / "test.yml"
        path.write_text(yaml.safe_dump({"evaluation_interval": "10s", "tests": [test]}))
        promtool("test", "rules", path)

    return judge


def alive(last_activity, running=1):
    return [
        series("trimtab_run_status", f"{running}x{SAMPLES}", status="running"),
        series("trimtab_last_activity_timestamp_seconds", last_activity),
        series("trimtab_hung_after_seconds", f"100x{SAMPLES}"),
    ]


@pytest.mark.parametrize(
    ("given", "state", "hung"),
    [(alive("0+10x30"), 1, 0), (alive("0x30"), 2, 1), (alive("0x30", running=0), 0, 0)],
    ids=["alive", "hung", "over"],
)
def test_a_run_is_alive_hung_or_over(judge, given, state, hung):
    judge(query("trimtab-run", "Alive or hung"), state, given)
    judge(query("trimtab-fleet", "Hung"), hung, given)


def test_time_to_go_is_at_the_pace_of_the_last_minutes(judge):
    position = [series("trimtab_epoch_position", "1+0.01x30")]  # 1.24 after four minutes, 0.001 a second
    judge(f"round({query('trimtab-run', 'Time to go in this epoch')})", 760, position)


def test_time_to_go_is_nothing_at_the_end_of_an_epoch(judge):
    judge(query("trimtab-run", "Time to go in this epoch"), 0, [series("trimtab_epoch_position", "2x30")])


def test_last_adjustment_is_the_last_one_with_its_own_settings(judge):
    of = [
        {"policy": policy, "action": "scale_learning_rate", "outcome": "applied", "optimizer": "0"}
        for policy in ("old", "new")
    ]
    given = []
    for labels, when, before, after in zip(of, (50, 100), (1, 0.5), (0.5, "NaN"), strict=True):
        given += [
            series("trimtab_last_adjustment_timestamp_seconds", f"{when}x30", **labels),
            series("trimtab_adjustment_before", f"{before}x30", **labels, setting="scale"),
            series("trimtab_adjustment_after", f"{after}x30", **labels, setting="scale"),
        ]
    when, before, after = (query("trimtab-run", "Last adjustment", at) for at in range(3))
    judge(f"max by (policy) ({when})", [{"labels": '{policy="new"}', "value": 100_000}], given)
    judge(f"max by (policy) ({before})", [{"labels": '{policy="new"}', "value": 0.5}], given)
    judge(f"count by (policy) ({after})", [{"labels": '{policy="new"}', "value": 1}], given)


def test_layers_that_are_dead_vanishing_or_not_finite_are_counted(judge):
    norms = {"a": 1, "b": 0.0005, "c": 0, "d": "NaN", "e": 0.5}
    given = [series("trimtab_layer_gradient_norm", f"{v}x30", layer=k, depth=k) for k, v in norms.items()]
    for panel, count in {"Layers": 5, "Dead": 1, "Vanishing": 2, "Not finite": 1}.items():
        judge(query("trimtab-layers", panel), count, given)


def test_layer_whose_gradient_is_infinite_makes_no_other_vanish(judge):
    norms = {"a": 1, "b": 0.0005, "c": "Inf", "d": 0.5}
    given = [series("trimtab_layer_gradient_norm", f"{v}x30", layer=k, depth=k) for k, v in norms.items()]
    given[2]["values"] = " ".join(["Inf"] * (SAMPLES + 1))
    for panel, count in {"Vanishing": 1, "Not finite": 1}.items():
        judge(query("trimtab-layers", panel), count, given)


def test_heat_map_comes_sorted_by_depth(judge):
    depths = {"2": "0002", "10": "0010", "999": "0999", "1000": "1000"}
    given = [series("trimtab_layer_gradient_norm", "100x30", layer=f"l{n}", depth=n) for n in depths]
    found = [{"labels": f'{{layer="l{n}",depth="{padded}"}}', "value": 2} for n, padded in depths.items()]
    judge(query("trimtab-layers", "Gradient norm, powers of ten"), found, given)


def test_a_rank_is_so_many_steps_behind_the_first(judge):
    given = [
        {"series": f'trimtab_global_step{{run="r",rank="{rank}"}}', "values": f"{step}x30"}
        for rank, step in (("0", 100), ("1", 97))
    ]
    expected = [{"labels": f'{{run="r",rank="{rank}"}}', "value": value} for rank, value in (("0", 0), ("1", 3))]
    judge(query("trimtab-fleet", "All ranks", 1), expected, given)


def test_fleet_counts_what_fires_failed_or_cannot_be_reached(judge):
    given = [
        series("trimtab_rule_level", "7x30", rule="loss_nonfinite", run_id="1"),
        series("trimtab_run_status", "1x30", status="failed"),
        series("up", "0x30"),
        {"series": 'run:trimtab_gone:group{run="other",run_id="2"}', "values": "1x30"},
        {"series": 'run:trimtab_gone:group{run="other",run_id="3"}', "values": "1x30"},  # a rank with an id of its own
    ]
    given[2]["series"] = 'up{job="trimtab",instance="a:1"}'
    for panel in ("Rules firing", "Failed", "Gone", "Targets down"):
        judge(query("trimtab-fleet", panel), 1, given)
        judge(query("trimtab-fleet", panel), 0, [series("trimtab_global_step", "1x30")])


@pytest.mark.parametrize(
    ("source", "heard", "run", "age"),
    [("alertmanager", 60, "r", 180), ("alertmanager", 0, "r", -2), ("webhook", 60, "none", -1)],
)
def test_answer_that_never_came_is_of_no_age_in_any_run(judge, source, heard, run, age):
    given = [series("trimtab_alert_source_last_success_timestamp_seconds", f"{heard}x{SAMPLES}", source=source)]
    judge(query("trimtab-own", "Alerts last asked for"), [{"labels": f'{{run="{run}"}}', "value": age}], given)


@pytest.mark.parametrize(
    ("source", "heard", "age"), [("alertmanager", 60, 180), ("alertmanager", 0, -2), ("webhook", 60, -1)]
)
def test_age_of_the_last_answer_is_that_of_the_server_that_is_asked(judge, source, heard, age):
    given = [series("trimtab_alert_source_last_success_timestamp_seconds", f"{heard}x{SAMPLES}", source=source)]
    judge(query("trimtab-run", "Alerts last asked for"), age, given)
