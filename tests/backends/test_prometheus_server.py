"""A real Prometheus and its own checker read what we serve."""

import subprocess

import pytest

from trimtab import catalog
from trimtab.testing import sample_events, sample_step
from trimtab.types import LayerStatistics

pytestmark = pytest.mark.servers


def test_promtool_finds_nothing_to_complain_about(serve, get, program):
    backend = serve()
    backend.write(sample_events())
    page = get(backend.address).body
    done = subprocess.run([program("promtool"), "check", "metrics"], input=page, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_prometheus_has_every_metric_that_was_written(serve, prometheus):
    backend = serve()
    backend.write([*sample_events(), sample_step(6, loss=float("nan"), gradient_norm=float("inf"))])
    ask = prometheus(backend.address)
    ask.until('{run="sample"}', bool)
    names = ask.names('{run="sample"}')
    expected = {spec.name for spec in catalog.METRICS if spec.kind != "histogram"}
    histogram = {f"{catalog.STEP_DURATION.name}_{part}" for part in ("bucket", "count", "sum")}
    assert names == expected | histogram
    assert ask('trimtab_loss{phase="train"} != trimtab_loss{phase="train"}'), "NaN is stored as NaN"
    assert ask("trimtab_gradient_norm > 1e300")[0]["value"][1] == "+Inf"
    assert ask("up")[0]["value"][1] == "1"


def test_prometheus_follows_a_run_of_1000_series(serve, prometheus):
    statistics = LayerStatistics(depth=0, mean=0.1, variance=0.1, norm=0.1, max_abs=0.1)
    layers = {f"blocks.{i}.weight": statistics for i in range(330)}
    backend = serve()
    backend.write([sample_step(1, layers=layers)])
    ask = prometheus(backend.address)
    ask.until("trimtab_global_step == 1", bool)
    backend.write([sample_step(2, layers=layers)])
    assert ask.until("trimtab_global_step == 2", bool)
    assert len(ask('{run="sample", layer!=""}')) == 990
