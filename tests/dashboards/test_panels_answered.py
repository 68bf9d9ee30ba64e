"""Every panel, asked of a real Prometheus that scrapes a real training run and evaluates the rules that ship."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from panel_queries import annotated, asked, choices, labels_of

import trimtab
import trimtab.run
from trimtab.actions import ScaleLearningRate
from trimtab.policies import Policy
from trimtab.rules.rule import Rule

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
PATIENCE_S = 60.0

pytestmark = pytest.mark.servers


class Prometheus:
    """A running server, asked over the time since `began`."""

    def __init__(self, port):
        self.api = f"http://127.0.0.1:{port}/api/v1"
        self.began = time.time()

    def __call__(self, query):
        """The series that answer one query: their labels, and their values as text."""
        asks = {"query": query.expr, "time": time.time()}
        if not query.instant:
            asks = {"query": query.expr, "start": self.began, "end": time.time(), "step": 1}
        path = "query" if query.instant else "query_range"
        try:
            with urllib.request.urlopen(f"{self.api}/{path}?{urllib.parse.urlencode(asks)}", timeout=10) as response:
                found = json.load(response)["data"]["result"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{query}\n{error.read().decode()}")
        except urllib.error.URLError:  # it is still starting
            return []
        return [(each["metric"], [v for _, v in each.get("values") or [each["value"]]]) for each in found]


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def impatient(rules):
    """The rules that ship, as a file in which nothing waits before it fires."""
    content = yaml.safe_load(rules.read_text())
    for rule in (rule for group in content["groups"] for rule in group["rules"]):
        rule.pop("for", None)
    return yaml.safe_dump(content)


@pytest.fixture
def prometheus(tmp_path, program, port):
    """A Prometheus that scrapes whoever serves on `port`, and evaluates the rules that ship."""
    rules = []
    for file in sorted(RULES.glob("*.rules.yml")):
        (tmp_path / file.name).write_text(impatient(file))
        rules.append(str(tmp_path / file.name))
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": rules,
        "scrape_configs": [{"job_name": "trimtab", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    command = [
        program("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{own}",
    ]
    with (tmp_path / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        yield Prometheus(own)
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture
def demo(tmp_path, port, monkeypatch):
    """Train the demo again and again until `done()`. A rule that always fires brings adjustments about."""
    from trimtab.demo import train

    monkeypatch.setattr(trimtab.run, "HEALTH_INTERVAL_S", 0.5)
    rules = [Rule("always", signal=lambda loss: 1.0, threshold=0.5)]
    policies = [Policy(on="always", ladder=[ScaleLearningRate(0.9)])]

    def demo(act, done):
        end = time.monotonic() + PATIENCE_S
        settings = {
            "rules": rules,
            "policies": policies,
            "backends": ["prometheus"],
            "port": port,
            "gradients_every": 1,
        }
        with trimtab.watch(run=f"demo-{act}", directory=tmp_path, act=act, **settings):
            while time.monotonic() < end and not done():
                train.__wrapped__(epochs=1)
                trimtab.log(perplexity=3.5, phase="validation")

    return demo


def is_number(value):
    return value not in ("NaN", "+Inf", "-Inf")


def test_every_query_is_answered_with_data_after_a_demo_run(prometheus, demo):
    panels, others = asked(), [*annotated(), *choices()]
    answers = {}

    def answered(queries):
        for query in queries:
            found = [metric for metric, values in prometheus(query) if any(map(is_number, values))]
            if found:
                answers[query] = found
        return answers.keys() >= set(queries)

    # In a dry run nothing sets a fence: levels stay up, and alerts fire.
    demo(False, lambda: answered([query for query in others if query.panel in ("Rules", "Alerts")]))
    demo("process", lambda: answered([query for query in [*panels, *others] if query not in answers]))
    print(f"{sum(query in answers for query in panels)} of {len(panels)} queries of panels answered with data")
    assert "\n".join(str(query) for query in [*panels, *others] if query not in answers) == ""
    for query, found in answers.items():
        assert query.kind != "table" or "__name__" not in set().union(*found), f"{query}: Grafana joins no such columns"
        told = set().union(*found)
        is_zero = any("none" in metric.values() for metric in found)  # of a counter of what did not happen
        assert is_zero or labels_of(query.legend) <= told | {"exported_job"}, query
