"""A real Prometheus and its own checker read what we serve."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse

import pytest

from trimtab import catalog
from trimtab.testing import sample_events, sample_step
from trimtab.types import LayerStatistics

pytestmark = pytest.mark.servers

PATIENCE_S = 30.0


def program(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install prometheus")
    return found


@pytest.fixture
def query(tmp_path, get, request):
    """Start a Prometheus that scrapes an address four times a second. Returns a function that asks it PromQL."""
    running = []

    def start(address):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        target = address.split("/")[2]
        (tmp_path / "prometheus.yml").write_text(
            "scrape_configs:\n- job_name: trimtab\n  scrape_interval: 250ms\n  scrape_timeout: 250ms\n"
            f"  static_configs: [{{targets: ['{target}']}}]\n"
        )
        arguments = [
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        log = (tmp_path / "prometheus.log").open("w")
        running.append((subprocess.Popen([program("prometheus"), *arguments], stdout=log, stderr=log), log))
        return lambda promql: answer(get, f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(promql)}")

    yield start
    for process, log in running:
        process.terminate()
        process.wait(PATIENCE_S)
        log.close()


def answer(get, address):
    """The result of a query: label sets and values, nothing while Prometheus is still starting."""
    try:
        response = get(address)
    except OSError:
        return []
    return json.loads(response.body)["data"]["result"] if response.status == 200 else []


def until(read, condition):
    """Read until the condition holds, and return what was read last."""
    end = time.monotonic() + PATIENCE_S
    while not condition(result := read()) and time.monotonic() < end:
        time.sleep(0.05)
    return result


def test_promtool_finds_nothing_to_complain_about(serve, get):
    backend = serve()
    backend.write(sample_events())
    page = get(backend.address).body
    done = subprocess.run([program("promtool"), "check", "metrics"], input=page, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_prometheus_has_every_metric_that_was_written(serve, query):
    program("prometheus")
    backend = serve()
    backend.write([*sample_events(), sample_step(6, loss=float("nan"), gradient_norm=float("inf"))])
    ask = query(backend.address)
    names = until(lambda: {each["metric"]["__name__"] for each in ask('{run="sample"}')}, bool)
    expected = {spec.name for spec in catalog.METRICS if spec.kind != "histogram"}
    histogram = {f"{catalog.STEP_DURATION.name}_{part}" for part in ("bucket", "count", "sum")}
    assert names == expected | histogram
    assert ask('trimtab_loss{phase="train"} != trimtab_loss{phase="train"}'), "NaN is stored as NaN"
    assert ask("trimtab_gradient_norm > 1e300")[0]["value"][1] == "+Inf"
    assert ask("up")[0]["value"][1] == "1"


def test_prometheus_follows_a_run_of_1000_series(serve, query):
    program("prometheus")
    statistics = LayerStatistics(depth=0, mean=0.1, variance=0.1, norm=0.1, max_abs=0.1)
    layers = {f"blocks.{i}.weight": statistics for i in range(330)}
    backend = serve()
    backend.write([sample_step(1, layers=layers)])
    ask = query(backend.address)
    until(lambda: ask("trimtab_global_step == 1"), bool)
    backend.write([sample_step(2, layers=layers)])
    assert until(lambda: ask("trimtab_global_step == 2"), bool)
    assert len(ask('{run="sample", layer!=""}')) == 990
