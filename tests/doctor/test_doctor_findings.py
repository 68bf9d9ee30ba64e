"""Each link that does not hold is told, with what to do about it."""

import dataclasses
import importlib.metadata
import os
import platform
import time

import pytest
from answering import Answering, serving
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from servers import free_port

from trimtab import config, discovery
from trimtab.cli import trimtab
from trimtab.doctor import local, prometheus
from trimtab.doctor.http import Http
from trimtab.doctor.prometheus import seconds
from trimtab.errors import ConfigError
from trimtab.testing import sample_run, sample_step
from trimtab_backends.prometheus import PrometheusBackend


@pytest.fixture
def target(tmp_path):
    """A run of this machine that serves, as its file tells."""
    backend = PrometheusBackend()
    run = sample_run(tmp_path)
    run.facts["host"] = platform.node()
    backend.start(run)
    backend.write([sample_step()])
    (found,) = discovery.read(tmp_path / "targets")
    yield found.target
    backend.close()


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text("t0ken")
    path.chmod(0o600)
    return path


def scraped(target, **changes):
    labels = {"__meta_trimtab_run_id": target.run_id, "__meta_trimtab_rank": str(target.rank)}
    return {
        "discoveredLabels": labels, "scrapeUrl": "http://somewhere/metrics", "health": "up", "lastError": "",
        "lastScrape": "2026-01-01T00:00:00Z", "scrapeInterval": "5s", **changes,
    }  # fmt: skip


def group(*names, interval=5, **rule):
    return {"interval": interval, "rules": [{"name": name, "health": "ok", **rule} for name in names]}


def test_set_up_of_the_tests_is_in_order():
    assert [local.package().verdict, local.backends().verdict] == ["ok", "ok"]


def test_run_that_serves_is_found_and_answers(target, tmp_path):
    finding, found, ours = local.find_run(tmp_path / "targets", None)
    assert (finding.verdict, found, ours) == ("ok", target, True)
    assert local.port(target, None).verdict == "ok"


def test_port_is_told_with_the_number_of_its_series(target):
    page = Http(target.url.removesuffix("/metrics")).text("/metrics")
    series = sum(len(family.samples) for family in text_string_to_metric_families(page))
    assert local.port(target, None).text == f"{target.url} serves {series} series"


def test_own_run_is_followed_before_one_that_another_user_wrote(target, tmp_path, monkeypatch):
    theirs = discovery.Found(tmp_path, dataclasses.replace(target, run="theirs"), age_s=0.0, ours=False)
    own = discovery.Found(tmp_path, target, age_s=5.0, ours=True)
    monkeypatch.setattr(discovery, "read", lambda directory: [theirs, own])
    assert local.find_run(tmp_path, None)[1:] == (target, True)


def test_run_of_another_name_is_not_found(target, tmp_path):
    finding, found, _ = local.find_run(tmp_path / "targets", "other")
    assert (finding.verdict, found) == ("wrong", None)
    assert "'other'" in finding.text


def test_files_of_dead_processes_are_told(target, tmp_path):
    (path,) = (tmp_path / "targets").glob("*.json")
    path.write_text(path.read_text().replace(target.process_start, "boot/0"))
    finding, _, _ = local.find_run(tmp_path / "targets", None)
    assert "files of dead processes: 1" in finding.text
    assert "trimtab targets clean" in finding.advice


def test_token_is_not_sent_to_an_address_that_another_user_wrote(target, tmp_path, token_file, monkeypatch):
    doctor = importlib.import_module("trimtab.cli.doctor")
    sent = []
    monkeypatch.setattr(local, "port", lambda target, token, *trusted: sent.append(token) or local.package())
    settings = config.check(targets=tmp_path / "targets", metrics_token_file=token_file)

    def walk():
        none = "http://127.0.0.1:1"
        return list(
            doctor._findings(settings, {"name": None, "prometheus": none, "alertmanager": none, "grafana": none})
        )

    walk()
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    told = walk()
    assert sent == ["t0ken", None]
    assert any("another user's, so it is sent no token" in finding.text for finding in told)


def test_port_that_another_run_took_is_told(target):
    assert "another run" in local.port(dataclasses.replace(target, run="ended"), None).text


def test_port_that_nobody_listens_on_is_told(target):
    finding = local.port(dataclasses.replace(target, address=f"127.0.0.1:{free_port()}"), None)
    assert "Connection refused" in finding.text


def test_port_that_wants_a_token_is_told(tmp_path, token_file):
    backend = PrometheusBackend()
    run = sample_run(tmp_path, metrics_token_file=token_file)
    run.facts["host"] = platform.node()
    backend.start(run)
    (found,) = discovery.read(tmp_path / "targets")
    for token, said in ((None, "it wants a token"), ("wrong", "the token is not the run's")):
        assert said in local.port(found.target, token).text
    backend.close()


@pytest.mark.parametrize(("text", "expected"), [("5s", 5), ("1m30s", 90), ("250ms", 0.25), ("1h", 3600)])
def test_durations_are_read_as_prometheus_writes_them(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("interval", "evaluation", "verdict"), [("30s", 30, "ok"), ("31s", 5, "wrong"), ("5s", 60, "wrong")]
)
def test_window_holds_two_scrapes_and_an_evaluation(target, interval, evaluation, verdict):
    active = [scraped(target, scrapeInterval=interval)]
    assert prometheus._window(active, [group("A", interval=evaluation)], target, ["A"]).verdict == verdict


def test_window_passes_over_groups_of_others(target):
    groups = [group("A"), group("Theirs", interval=600)]
    assert prometheus._window([scraped(target)], groups, target, ["A"]).verdict == "ok"


def test_run_that_prometheus_does_not_look_for_is_told(target):
    finding = prometheus._scraping([scraped(target, discoveredLabels={})], target)
    assert finding.verdict == "wrong"
    assert "file_sd_configs" in finding.advice


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("server returned HTTP status 401 Unauthorized", "credentials_file"),
        ("x509: certificate signed by unknown authority", "ca_file"),
        ("dial tcp 127.0.0.1:9464: connect: connection refused", "TRIMTAB_HOST"),
    ],
)
def test_scrape_that_fails_is_told_with_its_remedy(target, error, advice):
    finding = prometheus._scraping([scraped(target, health="down", lastError=error)], target)
    assert finding.verdict == "wrong"
    assert error in finding.text
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({}, "ok", "rank 0"),
        ({"job": None}, "wrong", "honor_labels"),
        ({"job": "4711"}, "wrong", "honor_labels"),
        ({"run": "other", "exported_run": "sample"}, "wrong", "Set no label 'run'"),
    ],
    ids=["as they should be", "honoured and empty", "honoured", "set by discovery"],
)
def test_labels_that_one_side_took_from_the_other_are_told(target, changes, verdict, said):
    scraped = {"job": "trimtab", "instance": "somewhere"}
    series = {**scraped, "run": target.run, "rank": str(target.rank), "run_id": target.run_id, **changes}
    metric = {name: value for name, value in series.items() if value is not None}
    finding = prometheus._labelled([{"metric": metric}], scraped, target)
    assert finding.verdict == verdict
    assert said in finding.text + finding.advice


def test_series_that_are_not_stored_are_told(target):
    finding = prometheus._labelled([], {"job": "trimtab", "instance": "somewhere"}, target)
    assert (finding.verdict, "metric_relabel_configs" in finding.advice) == ("wrong", True)


def test_rules_that_are_missing_or_broken_are_told():
    assert prometheus._rules([group("A", "B")], ["A", "B"]).verdict == "ok"
    assert "1 of 2 alerts are not loaded: B" in prometheus._rules([group("A")], ["A", "B"]).text
    assert (
        "A: no such function" in prometheus._rules([group("A", health="err", lastError="no such function")], ["A"]).text
    )


def test_prometheus_that_tells_nobody_is_told():
    assert prometheus._alerting([], {}).verdict == "wrong"


@pytest.mark.parametrize(
    ("sendings", "verdict"),
    [({}, "ok"), ({"a": (9, 9)}, "ok"), ({"a": (9, 9), "b": (9, 8)}, "ok"), ({"a": (9, 9), "b": (2, 2)}, "wrong")],
    ids=["not told", "one just started", "one of two", "none"],
)
def test_prometheus_whose_alerts_get_nowhere_is_told(sendings, verdict):
    assert prometheus._alerting(["a", "b"], sendings).verdict == verdict


class Prometheus(Answering):
    """Answers as one does that scrapes the run, holds the rules and tells an Alertmanager."""

    def get(self):
        path, said = self.path.partition("?")[0], self.server.said
        if path == "/metrics":
            self.answer(200, said[path].encode())
        elif self.path.endswith("?query=time%28%29"):
            now = time.time() - self.server.late_s
            self.answer(200, {"data": {"resultType": "scalar", "result": [now, str(now)]}})
        else:
            self.answer(200, {"data": said[path.removeprefix("/api/v1/")]})


SENDING = "http://alertmanager:9093/api/v2/alerts"


@pytest.fixture
def asked(target):
    """`asked(...)` is the verdict on each link, by its subject. What is given is answered in place of what is right."""
    at = {"job": "trimtab", "instance": target.address}
    right = {
        "status/buildinfo": {"version": "2.53.0"},
        "targets": {"activeTargets": [scraped(target, labels=at)]},
        "rules": {"groups": [group("TrimtabLossSpike")]},
        "alertmanagers": {"activeAlertmanagers": [{"url": SENDING}]},
        "query": {"result": [{"metric": {**at, "run": target.run, "rank": str(target.rank)}}]},
        "/metrics": "",
    }

    def asked(late_s=0.0, **other):
        said = right | {name.replace("_", "/"): value for name, value in other.items()}
        with serving(Prometheus, said=said, late_s=late_s) as server:
            url = f"http://127.0.0.1:{server.server_port}"
            return {each.subject: each.verdict for each in prometheus.check(url, target, ["TrimtabLossSpike"])}

    return asked


def test_prometheus_that_is_in_order_is_told_link_by_link(asked):
    links = ("prometheus", "scraping", "labels", "clock", "rules", "window", "alerting")
    assert asked() == dict.fromkeys(links, "ok")


@pytest.mark.parametrize(("version", "verdict"), [("2.41.1", "wrong"), ("2.42.0", "ok"), ("3.0.0", "ok")])
def test_prometheus_that_is_too_old_is_told(asked, version, verdict):
    assert asked(status_buildinfo={"version": version})["prometheus"] == verdict


def test_series_with_labels_of_others_are_looked_for(asked):
    assert asked(query={"result": []})["labels"] == "wrong"


@pytest.mark.parametrize(("late_s", "verdict"), [(3600.0, "wrong"), (20.0, "ok"), (-20.0, "ok"), (-3600.0, "wrong")])
def test_clock_by_which_a_run_would_refuse_alerts_is_told(asked, late_s, verdict):
    assert asked(late_s=late_s)["clock"] == verdict


@pytest.mark.parametrize(("sent", "failed", "verdict"), [(4, 4, "wrong"), (4, 1, "ok"), (4, 0, "ok")])
def test_alerts_that_got_nowhere_are_counted_by_prometheus(asked, sent, failed, verdict):
    counts = {"sent": sent, "errors": failed}.items()
    page = [f'prometheus_notifications_{what}_total{{alertmanager="{SENDING}"}} {count}' for what, count in counts]
    assert asked(**{"/metrics": "\n".join(page)})["alerting"] == verdict


class Odd(Answering):
    """Answers as a Prometheus might that means no good: a version that a terminal obeys, an interval that is none."""

    def get(self):
        path = self.path.partition("?")[0]
        found = {
            "/api/v1/status/buildinfo": {"version": "2.53.0\x1b[2J"},
            "/api/v1/targets": {"activeTargets": [self.server.target]},
            "/api/v1/rules": {"groups": [group("TrimtabRunGone", interval="often")]},
            "/api/v1/alertmanagers": {"activeAlertmanagers": []},
        }
        self.answer(200, {"data": found.get(path, {"result": []})})


@pytest.fixture
def odd(target):
    with serving(Odd, target=scraped(target, health="down")) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def test_answer_that_is_none_of_prometheus_is_a_finding(target, odd):
    *_, last = prometheus.check(odd, target, ["TrimtabRunGone"])
    assert (last.verdict, last.text) == ("wrong", f"{odd} answers, but not as Prometheus does.")


def test_nothing_that_a_server_says_is_obeyed_by_the_terminal(odd, tmp_path):
    nobody = ("--alertmanager", "http://127.0.0.1:1", "--grafana", "http://127.0.0.1:1")
    done = CliRunner().invoke(trimtab, ["doctor", "--targets", str(tmp_path / "targets"), "--prometheus", odd, *nobody])
    assert "2.53.0" in done.output
    assert "\x1b" not in done.output


@pytest.mark.parametrize(("torch", "verdict"), [("2.10.0", "wrong"), ("2.11.0+cpu", "ok")])
def test_torch_that_is_too_old_is_told(monkeypatch, torch, verdict):
    monkeypatch.setattr(importlib.metadata, "version", {"trimtab": "0.1.0", "torch": torch}.__getitem__)
    assert local.package().verdict == verdict


def test_torch_of_unknown_version_is_in_order(monkeypatch):
    versions = {"trimtab": "0.1.0"}

    def version(name):
        try:
            return versions[name]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert (local.package().verdict, "unknown version" in local.package().text) == ("ok", True)


def test_run_with_tls_is_believed_for_its_own_certificate(tmp_path, certificate):
    own, key = certificate
    backend = PrometheusBackend()
    run = sample_run(tmp_path, tls_certificate_file=own, tls_key_file=key)
    run.facts["host"] = platform.node()
    backend.start(run)
    backend.write([sample_step()])
    (found,) = discovery.read(tmp_path / "targets")
    try:
        assert local.port(found.target, None, own).verdict == "ok"
        doubted = local.port(found.target, None)
    finally:
        backend.close()
    assert (doubted.verdict, "is not trusted" in doubted.text) == ("wrong", True)
    assert "TRIMTAB_TLS_CERTIFICATE_FILE" in doubted.advice


def test_certificates_that_are_none_are_told(tmp_path, token_file):
    doctor = importlib.import_module("trimtab.cli.doctor")
    settings = config.check(alerts_ca_file=token_file)
    finding = doctor._read_files(settings, "alerts_token_file", "alerts_ca_file")
    assert (finding.verdict, finding.subject) == ("wrong", "certificates")
    assert "in PEM" in finding.advice


@pytest.mark.parametrize("option", ["--prometheus", "--alertmanager", "--grafana"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("x", "'x': expected an address such as http"),
        ("", "'': expected an address such as http"),
        ("http://me:hunter2@h", "expected an address without name and password"),
    ],
)
def test_option_that_is_no_address_is_named_before_any_link_is_looked_at(option, url, said):
    done = CliRunner().invoke(trimtab, ["doctor", option, url], standalone_mode=False)
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith(f"{option}: {said}")
    assert "hunter2" not in str(done.exception)
    assert done.output == ""
