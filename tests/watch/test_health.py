"""What a run says of itself every few seconds, and what is judged of it."""

import threading

import pytest
import torch
from torch.utils.data import DataLoader

from trimtab.health import INTERVAL_S
from trimtab.types import Alert, Health

RULES = [{"name": name, "threshold": 2.0, "hold": 1} for name in ("overhead_exceeded", "backend_failing")]


@pytest.fixture
def reported(watching):
    """`reported(spent_s, window_s)` is what fired at a report, and the report, of watching that took so long of it."""

    def reported(spent_s, window_s=2 * INTERVAL_S, **how):
        with watching(overhead=0.01, rules=RULES) as seen:
            seen.run._meter.add(spent_s)
            seen.run._health._told_at -= window_s
            seen.run._health.publish(**how)
            fired = [alert.rule for alert in seen.run.alerts]
        return fired, seen.backend.of(Health)[0]

    return reported


def test_watching_that_takes_more_than_its_share_is_told(reported):
    fired, health = reported(0.03 * 2 * INTERVAL_S)
    assert fired == ["overhead_exceeded"]
    assert health.overhead_seconds == pytest.approx(0.03 * 2 * INTERVAL_S, rel=0.2)


def test_watching_that_takes_its_share_is_not(reported):
    assert reported(0.01 * 2 * INTERVAL_S)[0] == []


@pytest.mark.parametrize(("window_s", "how"), [(INTERVAL_S / 3, {}), (2 * INTERVAL_S, {"last": True})])
def test_what_is_measured_over_too_short_a_time_or_at_the_end_is_not_judged(reported, window_s, how):
    assert reported(INTERVAL_S, window_s, **how)[0] == []


def test_only_what_was_spent_since_the_last_report_is_judged(watching):
    with watching(overhead=0.01, rules=RULES) as seen:
        for spent_s in (0.0, INTERVAL_S, 0.0):
            seen.run._meter.add(spent_s)
            seen.run._health._told_at -= 2 * INTERVAL_S
            seen.run._health.publish()
    assert [(alert.rule, alert.state) for alert in seen.run.alerts] == [
        ("overhead_exceeded", "firing"),
        ("overhead_exceeded", "resolved"),
    ]


def test_nothing_is_judged_on_a_thread_that_says_something(watching):
    """As that of a backend does when it fails, or that which asks for alerts when nobody answers."""
    with watching(overhead=0.01, rules=RULES) as seen:
        seen.run._meter.add(INTERVAL_S)
        seen.run._health._told_at -= 2 * INTERVAL_S
        thread = threading.Thread(target=seen.run._say, args=("kind", "text"))
        thread.start()
        thread.join()
        assert not seen.run.alerts
    assert seen.notices[0] == "text"


def test_share_of_its_time_that_a_step_waits_for_data_is_judged(watching, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching(rules=[{"name": "waits", "signal": "data_wait_share", "threshold": 1e-9}]) as seen:
        for batch in DataLoader(torch.ones(8, 2)):
            model(batch).sum().backward()
            optimizer.step()
    (fired,) = [alert for alert in seen.backend.of(Alert) if alert.rule == "waits"]
    assert fired.value in [step.data_wait_seconds / step.step_seconds for step in seen.steps() if step.step_seconds]


@pytest.mark.parametrize(("spent_s", "factor"), [(100 * INTERVAL_S, 2), (0.0, 1)])
def test_statistics_are_spaced_further_out_where_watching_takes_more_than_its_share(watching, model, spent_s, factor):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching(overhead=0.05, gradients_every=None) as seen:
        for _ in range(100):
            model(torch.ones(4, 2)).sum().backward()
            optimizer.step()
        settled = seen.run._pace.gradients.interval
        seen.run._meter.add(spent_s)
        seen.run._health._told_at -= 100 * INTERVAL_S  # so long that what the machine is busy with does not matter
        seen.run._health._steps -= 10**9  # steps of half a microsecond: a pass over gradients costs many
        seen.run._health.publish()
        assert seen.run._pace.gradients.interval == factor * settled
