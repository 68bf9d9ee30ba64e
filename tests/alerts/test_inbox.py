"""The inbox lets in what is new and about this run, and no more than it can hold."""

import pytest
from sending import alert, posted

from trimtab.alerts import payloads
from trimtab.alerts.inbox import BURST, CAPACITY
from trimtab.catalog import CLOCK_SKEW_S


@pytest.fixture
def offer(inbox, clock):
    def offer(**changes):
        (incoming,), _ = payloads.webhook(posted(alert(**{"at": clock.now, **changes})))
        ((outcome, _),) = inbox.offer([incoming]).items()
        return outcome

    return offer


def test_alert_about_this_run_is_taken_in_once(offer, inbox):
    assert [offer(), offer(), offer(fingerprint="f2")] == ["taken", "duplicate", "taken"]
    assert len(inbox.take()) == 2


def test_alert_that_fires_again_or_ends_is_new(offer, clock):
    assert [offer(), offer(at=clock.now + 1), offer(status="resolved")] == ["taken"] * 3


def test_alert_that_is_there_again_after_it_was_gone_is_new(offer):
    """A server that was started anew lists nothing until it has heard of its alerts again."""
    assert [offer(status=status) for status in ("firing", "resolved", "firing", "resolved")] == ["taken"] * 4


@pytest.mark.parametrize(
    "labels", [{"run_id": "f" * 16}, {"run": "other"}, {"run_id": None}, {"run_id": None, "run": None}], ids=str
)
def test_alert_about_another_run_is_not_ours(offer, labels):
    assert offer(**labels) == "other_run"


def test_alert_bound_by_name_may_name_the_run_alone(offer, inbox):
    assert offer(rule=None, run_id=None, alertname="GpuHot", purpose=None) == "taken"
    assert inbox.take()[0].rule == "alert:GpuHot"


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, None),
        ({"rule": "no_such_rule"}, "unknown_rule"),
        ({"rule": None, "alertname": "DiskFull"}, "unknown_rule"),
        ({"purpose": "page"}, "for_people"),
        ({"alertname": "DatasourceNoData"}, "no_alert"),
    ],
    ids=str,
)
def test_what_moves_no_run_is_marked(offer, inbox, changes, outcome):
    offer(**changes)
    assert inbox.take()[0].outcome == outcome


def test_alert_from_the_future_is_marked(offer, inbox, clock):
    offer(at=clock.now + CLOCK_SKEW_S + 1)
    assert inbox.take()[0].outcome == "in_future"


def test_flood_is_limited_and_ebbs(offer, clock):
    outcomes = [offer(fingerprint=str(number)) for number in range(BURST + 1)]
    assert outcomes == ["taken"] * BURST + ["rate_limited"]
    clock.now += 1
    assert offer(fingerprint=str(BURST)) == "taken"


def test_clock_that_is_set_back_keeps_nothing_out(offer, clock):
    clock.now -= 3600
    assert offer(at=clock.now) == "taken"


def test_inbox_that_nobody_empties_fills_up(offer, clock):
    for number in range(CAPACITY):
        clock.now += 1
        assert offer(fingerprint=str(number)) == "taken"
    assert offer(fingerprint="one more") == "inbox_full"


def test_alert_for_a_run_that_is_over_is_not_taken(offer, inbox):
    inbox.close()
    assert offer() == "run_over"


def test_outcomes_are_counted_by_source(offer, inbox, clock):
    offer(run="other")
    inbox.heard("webhook")
    assert inbox.received == {"webhook": {"other_run": 1}}
    assert inbox.last_success == {"webhook": clock.now}


def test_signal_that_ends_the_run_while_an_alert_is_counted_does_not_wait_for_itself(inbox):
    """Its handler closes the run, on the thread that holds the lock."""
    with inbox._lock:
        assert inbox._lock.acquire(blocking=False)
        inbox._lock.release()
