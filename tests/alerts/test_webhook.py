"""The webhook: who may post, what, and what is answered."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sending import alert, mutilated, posted

STATUSES = {200, 400, 503}
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


def test_alert_is_acknowledged_with_counts(post, inbox, clock):
    body = posted(alert(at=clock.now), alert(at=clock.now), alert(at=clock.now, run="other"), {})
    status, answer = post(body)
    assert (status, json.loads(answer)) == (200, {"accepted": 1, "duplicate": 1, "ignored": 2})
    assert len(inbox.take()) == 1


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic s3cret", "Bearer s3cret2", "Bearer \xe9"])
def test_without_the_token_nothing_is_taken(post, inbox, clock, header):
    status, answer = post(posted(alert(at=clock.now)), HTTP_AUTHORIZATION=header)
    assert (status, inbox.waiting, b"s3cret" in answer) == (401, False, False)


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"method": "GET"}, 405),
        ({"CONTENT_LENGTH": ""}, 411),
        ({"CONTENT_LENGTH": "-1"}, 411),
        ({"CONTENT_LENGTH": "many"}, 400),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 411),
        ({"CONTENT_LENGTH": str(1024 * 1024 + 1)}, 413),
        ({"CONTENT_LENGTH": "9999"}, 400),
    ],
    ids=str,
)
def test_request_that_is_not_as_it_should_be_is_refused(post, inbox, clock, environ, status):
    assert post(posted(alert(at=clock.now)), **environ)[0] == status
    assert not inbox.waiting


def test_head_is_refused_without_a_body(post):
    """On a connection that is kept it would be read as the beginning of the next answer."""
    assert post(b"", method="HEAD") == (405, b"")


def test_ten_thousand_alerts_in_a_request_are_refused_with_the_reason(post, inbox, clock):
    status, answer = post(posted(*[{} for _ in range(10_000)]))
    assert (status, inbox.waiting) == (400, False)
    assert "10000 alerts: expected 1000 at most" in json.loads(answer)["error"]


def test_full_inbox_asks_to_send_again(post, clock):
    body = posted(*[alert(at=clock.now, fingerprint=str(n)) for n in range(500)])
    status, answer = post(body)
    assert (status, json.loads(answer)["accepted"]) == (503, 200)


def test_malformed_request_is_counted(post, inbox):
    assert post(b"{")[0] == 400
    assert inbox.received == {"webhook": {"malformed": 1}}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(
    version=st.sampled_from(["4", "1", "2", 4]),
    spoilt=st.dictionaries(st.sampled_from(["status", "labels", "annotations", "startsAt", "fingerprint"]), JSON),
    beside=JSON,
)
def test_whatever_json_comes_is_answered(post, inbox, clock, version, spoilt, beside):
    body = {"version": version, "alerts": [{**alert(at=clock.now), **spoilt}, beside]}
    assert post(json.dumps(body).encode())[0] in STATUSES
    clock.now += 1
    assert {waiting.rule for waiting in inbox.take()} <= {"loss_diverged"}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(seed=st.integers(0))
def test_a_hundred_times_a_hundred_mutilated_bodies_neither_crash_nor_act(post, inbox, clock, seed):
    """Nothing can come of them but an alert that was in the good one."""
    good = posted(alert(at=clock.now), alert("loss_spike", at=clock.now, fingerprint="f2"))
    for body in mutilated(good, 100, random.Random(seed)):
        assert post(body)[0] in STATUSES
        clock.now += 1
        assert {waiting.rule for waiting in inbox.take()} <= {"loss_diverged", "loss_spike", ""}
