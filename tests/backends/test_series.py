import dataclasses
import math
import sys
import threading

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from trimtab import catalog
from trimtab.testing import SAMPLE_TIME, faulty_event, sample_events, sample_run, sample_step
from trimtab.types import (
    Adjustment,
    Alert,
    Health,
    Intake,
    LayerStatistics,
    Metric,
    Notice,
    RunEnd,
    Step,
    Totals,
    Verdicts,
)
from trimtab_backends.exposition import Exposition
from trimtab_backends.series import SeriesTable

TEXT = "text/plain;version=0.0.4"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
UTF8 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8"
HOSTILE = 'a"b\\c\nd # {e="f"} 1.0 \r\u2028 \u00e9 \U0001f600 \x00'


@pytest.fixture
def series(tmp_path):
    return SeriesTable(sample_run(tmp_path))


@pytest.fixture
def exposition(series):
    return Exposition(series)


def registry_of(series):
    registry = CollectorRegistry()
    registry.register(series)
    return registry


def page(exposition, accept=TEXT):
    return exposition.page(accept)[1].decode()


def samples(exposition):
    families = parse_text(page(exposition))
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def value(exposition, metric, **labels):
    return samples(exposition)[(metric, *sorted({"run": "sample", "rank": "0", **labels}.items()))]


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS, UTF8, ""])
def test_the_page_is_what_prometheus_client_would_write(series, exposition, accept):
    numbers = (0.0, -0.0, 1e-300, 123456789.0, 0.1 + 0.2, math.nan, math.inf, -math.inf, 7)
    for number in numbers:
        series.take([*sample_events(), sample_step(6, loss=number, optimizer=HOSTILE)])
        encode, content_type = choose_encoder(accept)
        assert exposition.page(accept) == (content_type, encode(registry_of(series)))


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_the_page_of_a_run_that_said_nothing_is_empty(exposition, accept):
    assert page(exposition, accept) == ("# EOF\n" if accept == OPENMETRICS else "")


def test_the_page_follows_new_series_and_new_values(series, exposition):
    series.take([sample_step(1, loss=1.0)])
    assert value(exposition, "trimtab_loss", phase="train", optimizer="") == 1.0
    series.take([sample_step(2, loss=2.0), sample_step(2, loss=3.0, optimizer="critic")])
    assert value(exposition, "trimtab_loss", phase="train", optimizer="") == 2.0
    assert value(exposition, "trimtab_loss", phase="train", optimizer="critic") == 3.0


class Minutes:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return 60.0 * self.now


def judged(level, **more):
    levels = {"loss_spike": level, "run_hung": 0.0}
    verdicts = Verdicts(rule_levels=levels, signals={}, learning_rate_scale={}, **more)
    return sample_step(1, verdicts=verdicts)


@pytest.fixture
def clock():
    return Minutes()


@pytest.fixture
def level(tmp_path, clock):
    """What a server is told of the level of a rule, after what the test lets happen."""
    series = SeriesTable(sample_run(tmp_path), clock)
    exposition = Exposition(series)

    def level(*events, at, rule="loss_spike"):
        clock.now = at
        series.take(events)
        return value(exposition, "trimtab_rule_level", rule=rule, run_id=sample_run(tmp_path).run_id)

    return level


def test_level_of_a_run_that_is_over_falls_away_after_a_minute(level):
    end = RunEnd(ts=SAMPLE_TIME, step=1, status="completed", seconds=1.0)
    assert level(judged(1.5), at=0) == 1.5
    assert level(end, at=0.1) == 1.5
    assert level(at=1.05) == 1.5
    assert level(at=1.1) == 0.0


def test_level_of_a_run_that_trains_no_more_falls_away_after_a_minute(level):
    assert level(judged(0.5), at=0) == 0.5
    assert level(judged(1.5), at=0.01) == 1.5
    assert (
        level(Health(ts=SAMPLE_TIME, step=1, overhead_seconds=0, overhead_ratio=0, gradient_interval_steps=1), at=1)
        == 1.5
    )
    assert level(at=1.02) == 0.0
    assert level(judged(1.25), at=1.03) == 1.25


def test_level_of_a_run_with_long_steps_stays_from_one_to_the_next(level):
    assert level(judged(1.5), at=5) == 1.5
    assert level(judged(1.5), at=10) == 1.5
    assert level(at=19.9) == 1.5
    assert level(at=20) == 0.0


def test_run_that_hangs_is_told_of_though_nothing_is_judged(level):
    hung = Alert(
        ts=SAMPLE_TIME,
        step=1,
        rule="run_hung",
        episode=1,
        state="firing",
        severity="critical",
        value=2.0,
        threshold=1.0,
    )
    level(judged(1.5), at=0)
    assert level(hung, at=10, rule="run_hung") == 2.0
    assert level(at=11) == 0.0
    end = RunEnd(ts=SAMPLE_TIME, step=1, status="failed", seconds=1.0)
    assert level(end, at=12, rule="run_hung") == 2.0
    assert level(at=13, rule="run_hung") == 0.0


def test_what_was_written_once_is_not_written_again(series, exposition, monkeypatch):
    asked, metric = [], series.metric

    def asking(name, start=0, stop=None):
        asked.append((name, start, stop))
        return metric(name, start, stop)

    monkeypatch.setattr(series, "metric", asking)
    layers = {f"layer {i}": LayerStatistics(depth=i, mean=0.0, variance=1.0, norm=1.0, max_abs=1.0) for i in range(150)}
    series.take([sample_step(1, layers=layers)])
    page(exposition)
    pieces = [(start, stop) for name, start, stop in asked if name == "trimtab_layer_gradient_norm"]
    assert pieces == [(0, 64), (64, 128), (128, 150)]
    asked.clear()
    series.take([sample_step(2, layers=layers), sample_step(2, loss=3.0, optimizer="critic")])
    page(exposition)
    assert ("trimtab_loss", 1, 2) in asked
    assert not [name for name, start, _ in asked if start == 0 or "layer" in name]
    assert page(exposition) == choose_encoder(TEXT)[0](registry_of(series)).decode()


def test_ever_new_formats_do_not_fill_the_memory(series, exposition):
    series.take(sample_events())
    for minor in range(50):
        assert page(exposition, f"application/openmetrics-text;version=1.0.{minor}")
    assert len(exposition._formats) <= 4


def test_every_metric_of_the_catalog_is_served(series, exposition):
    series.take(sample_events())
    text = page(exposition)
    missing = [spec.name for spec in catalog.METRICS if f"# TYPE {spec.name} {spec.kind}\n" not in text]
    assert missing == []


def test_every_series_has_run_and_rank(tmp_path):
    series = SeriesTable(sample_run(tmp_path, rank=3, world_size=4))
    series.take(sample_events())
    labels = [sample.labels for family in series.collect() for sample in family.samples]
    assert all((each["run"], each["rank"]) == ("sample", "3") for each in labels)


@pytest.mark.parametrize(("accept", "parse"), [(TEXT, parse_text), (OPENMETRICS, parse_openmetrics)])
def test_no_series_tells_when_it_was_created(series, exposition, accept, parse):
    series.take(sample_events())
    names = {sample.name for family in parse(page(exposition, accept)) for sample in family.samples}
    assert "trimtab_steps_total" in names
    assert not {name for name in names if name.endswith("_created")}


@pytest.mark.parametrize(("number", "shown"), [(math.nan, "NaN"), (math.inf, "+Inf"), (-math.inf, "-Inf")])
def test_a_gauge_shows_what_is_not_finite(series, exposition, number, shown):
    series.take([sample_step(1), sample_step(2, loss=number)])
    assert f'trimtab_loss{{optimizer="",phase="train",rank="0",run="sample"}} {shown}\n' in page(exposition)


def test_a_counter_never_falls_and_is_never_nan(series, exposition):
    for waited in (2.0, 1.0, math.nan, -1.0):
        series.take([sample_step(1, totals=Totals(steps=int(waited == 2.0) * 5, data_wait_seconds=waited))])
        assert value(exposition, "trimtab_data_wait_seconds_total") == 2.0
        assert value(exposition, "trimtab_steps_total", optimizer="") == 5


def test_the_histogram_counts_each_step_once_and_only_finite_ones(series, exposition):
    durations = (1e-5, 1e-4, 0.15, 700.0, math.nan, math.inf, -1.0)
    series.take([sample_step(1, step_durations=durations[:3]), sample_step(2, step_durations=durations[3:])])
    name = "trimtab_step_duration_seconds"
    expected = {"0.0001": 2, "0.1": 2, "0.2": 3, "600.0": 3, "+Inf": 4}
    assert {bound: value(exposition, f"{name}_bucket", le=bound) for bound in expected} == expected
    assert value(exposition, f"{name}_count") == 4
    assert value(exposition, f"{name}_sum") == pytest.approx(700.15011)


def test_the_position_in_an_epoch_is_one_number(series, exposition):
    series.take([sample_step(1, epoch=3, batch=25, batches=100), sample_step(2, epoch=4, batch=7, batches=None)])
    assert value(exposition, "trimtab_epoch_position") == 2.25


def test_a_run_that_hangs_shows_no_sign_of_life_though_its_threads_speak(series, exposition):
    (health,) = (event for event in sample_events() if isinstance(event, Health))
    (firing,) = (event for event in sample_events() if isinstance(event, Alert))
    (intake,) = (event for event in sample_events() if isinstance(event, Intake))
    hung = Notice(ts=0, step=1, kind="hung 1", text="No step for 700 s.")
    series.take([sample_step(1), *(dataclasses.replace(e, ts=2e9) for e in (health, firing, intake, hung))])
    assert value(exposition, "trimtab_last_activity_timestamp_seconds") == sample_step(1).ts


def test_a_run_that_hangs_has_a_level_though_it_makes_no_record(series, exposition):
    (firing,) = (event for event in sample_events() if isinstance(event, Alert))
    hung = dataclasses.replace(firing, rule="run_hung", source="process", state="firing", value=3.0, threshold=1.5)
    of = {"rule": "run_hung", "run_id": series._run.run_id}
    series.take([dataclasses.replace(hung, source="alertmanager", value=9.0), hung])
    assert value(exposition, "trimtab_rule_level", **of) == 2.0
    series.take([dataclasses.replace(hung, state="resolved")])
    assert value(exposition, "trimtab_rule_level", **of) == 0.0


def test_gradient_statistics_have_an_age(series, exposition):
    series.take([sample_step(1), sample_step(2, gradient_norm=None)])
    assert value(exposition, "trimtab_last_gradient_timestamp_seconds", optimizer="") == sample_step(1).ts


def test_an_adjustment_tells_when_and_what_was_before_and_after(series, exposition):
    (made,) = (event for event in sample_events() if isinstance(event, Adjustment))
    before = {"learning_rate_scale": 1.0, "learning_rate": [0.1], "dropout": [0.1, 0.2], "last": "state.pt"}
    before["own"] = 10**400  # no float holds it
    series.take([dataclasses.replace(made, before=before)])
    of = {"policy": "loss_spike", "action": "scale_learning_rate", "outcome": "dry_run", "optimizer": "0"}
    assert value(exposition, "trimtab_last_adjustment_timestamp_seconds", **of) == made.ts
    found = {dict(labels)["setting"]: v for (n, *labels), v in samples(exposition).items() if n.endswith("_before")}
    assert found == {"learning_rate_scale": 1.0, "learning_rate": 0.1}
    assert value(exposition, "trimtab_adjustment_after", **of, setting="learning_rate_scale") == 0.5


def test_every_policy_shows_its_budget_before_it_has_spent_any(series, exposition):
    series.take([event for event in sample_events() if isinstance(event, Step)])
    assert value(exposition, "trimtab_policy_budget_remaining", policy="loss_diverged") == 3


@pytest.fixture
def restless():
    """Threads take turns as often as they can, which is what brings races out."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_reader_never_sees_a_histogram_half_written(series, restless):
    def write():
        for _ in range(1000):
            series.take([sample_step(1, step_durations=(0.0,))])  # counts in every bucket

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        assert len({s.value for f in series.collect() for s in f.samples if "_bucket" in s.name}) <= 1
    writer.join()


@pytest.mark.parametrize(("accept", "parse"), [(TEXT, parse_text), (OPENMETRICS, parse_openmetrics)])
def test_label_values_come_through_whatever_they_hold(series, exposition, accept, parse):
    series.take([Metric(ts=SAMPLE_TIME, step=1, values={HOSTILE: 1.0, "plain": 2.0})])
    names = {
        sample.labels["name"]: sample.value
        for family in parse(page(exposition, accept))
        for sample in family.samples
        if family.name == "trimtab_logged_value"
    }
    assert names == {HOSTILE: 1.0, "plain": 2.0}


def test_a_label_that_cannot_be_encoded_does_not_spoil_the_page(series, exposition):
    series.take([Metric(ts=SAMPLE_TIME, step=1, values={"caf\udce9": 1.0})])
    assert value(exposition, "trimtab_logged_value", name="caf?", phase="") == 1.0


def test_of_many_steps_the_last_layers_count(series, exposition):
    def layers(mean):
        return {"head.weight": LayerStatistics(depth=4, mean=mean, variance=0.0, norm=0.0, max_abs=0.0)}

    first, last, other = sample_step(1, layers=layers(1.0)), sample_step(2, layers=layers(2.0)), sample_step(3)
    series.take([first, last, other])
    assert value(exposition, "trimtab_layer_gradient_mean", layer="head.weight", depth="4") == 2.0


def test_of_many_steps_the_last_update_ratio_counts_though_later_steps_have_none(series, exposition):
    def layers(mean, ratio):
        return {"w": LayerStatistics(depth=4, mean=mean, variance=0.0, norm=0.0, max_abs=0.0, update_ratio=ratio)}

    series.take(
        [sample_step(step, layers=layers(float(step), ratio)) for step, ratio in ((1, 0.1), (2, 0.2), (3, None))]
    )
    assert value(exposition, "trimtab_layer_update_ratio", layer="w", depth="4") == 0.2
    assert value(exposition, "trimtab_layer_gradient_mean", layer="w", depth="4") == 3.0


def test_a_faulty_event_changes_nothing(series, exposition):
    series.take([sample_step(1, loss=1.0)])
    before = samples(exposition)
    with pytest.raises(ValueError, match="faulty on purpose"):
        series.take([sample_step(2, loss=2.0), faulty_event()])
    assert samples(exposition) == before
