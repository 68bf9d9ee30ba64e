"""Payloads are read strictly where they are used, and not at all where they are not."""

import json

import pytest
from sending import alert, listed, posted

from trimtab.alerts import payloads
from trimtab.alerts.payloads import Malformed

NOW = 1_800_000_000.0


@pytest.mark.parametrize("version", ["4", "1"])
def test_webhooks_of_both_servers_are_read(version):
    (found,), unreadable = payloads.webhook(posted(alert(at=NOW), version=version, unknown={"a": [1]}))
    assert (found.rule, found.state, found.starts_at, found.value) == ("loss_diverged", "firing", NOW, 1.5)
    assert unreadable == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe\x00",
        b"<html>",
        posted(alert(at=NOW))[:-20],
        posted(alert(at=NOW), version="3"),
        posted(version=4),
        json.dumps({"alerts": []}).encode(),
        b'{"version": "4", "alerts": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        posted(*[alert(at=NOW)] * 1_001),
    ],
)
def test_request_that_is_no_webhook_is_malformed(body):
    with pytest.raises(Malformed):
        payloads.webhook(body)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"labels": {"run": 3}},
        {"labels": {"run": "x" * 257}},
        {"status": "suppressed"},
        {"startsAt": "yesterday"},
        {"startsAt": "2026-01-01T00:00:00"},
        {"fingerprint": None},
    ],
)
def test_alert_that_cannot_be_read_leaves_the_others(spoilt):
    found, unreadable = payloads.webhook(posted({**alert(at=NOW), **spoilt}, alert(at=NOW, fingerprint="good")))
    assert ([each.fingerprint for each in found], unreadable) == (["good"], 1)


@pytest.mark.parametrize(
    ("labels", "annotations"),
    [
        ({"alertname": "DatasourceNoData"}, {}),
        ({"alertname": "DatasourceError"}, {}),
        ({"alertname": "TestAlert"}, {}),
        ({}, {"grafana_state_reason": "NoData"}),
    ],
)
def test_what_grafana_says_of_itself_is_no_alert(labels, annotations):
    (found,), _ = payloads.webhook(posted(alert(at=NOW, annotations=annotations, **labels), version="1"))
    assert not found.real


@pytest.mark.parametrize(
    "status", [{"state": "suppressed"}, {"silenced_by": ["5c1c"]}, {"inhibited_by": ["f2"]}], ids=str
)
def test_listed_alert_that_is_silenced_or_inhibited_is_suppressed(status):
    (found,), _ = payloads.listed(listed(alert(at=NOW), **status), "grafana")
    assert (found.state, found.source) == ("suppressed", "grafana")


def test_one_silence_that_is_not_understood_spoils_the_answer():
    with pytest.raises(Malformed):
        payloads.silences(b'[{"id": "1", "status": {"state": "active"}, "matchers": [{"name": "run"}]}]')


@pytest.mark.parametrize(
    ("text", "value"), [("+Inf", float("inf")), ("NaN", None), ("many", None), ("1e999", float("inf"))]
)
def test_value_is_a_number_or_nothing(text, value):
    (found,), _ = payloads.webhook(posted(alert(at=NOW, annotations={"value": text})))
    assert found.value == value
