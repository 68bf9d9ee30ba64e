import os
import signal
import sys
import threading
import time
from collections import deque

import pytest

from trimtab import bus
from trimtab.bus import Bus
from trimtab.guard import Guard
from trimtab.testing import RecordingBackend, sample_step

PATIENCE_S = 10.0
NEVER_S = 3600.0


class HangingBackend(RecordingBackend):
    """Does not return from `write` until `release` is set."""

    def __init__(self):
        super().__init__()
        self.entered, self.release = threading.Event(), threading.Event()

    def write(self, events):
        self.entered.set()
        self.release.wait(PATIENCE_S)
        super().write(events)


class RaisingBackend(RecordingBackend):
    """Raises at the first `failures` batches; `called` counts the calls."""

    def __init__(self, failures, error=OSError):
        super().__init__()
        self.failures, self.error, self.called = failures, error, threading.Semaphore(0)

    def write(self, events):
        self.called.release()
        self.failures -= 1
        if self.failures >= 0:
            raise self.error("disk full")
        super().write(events)


class WordlessError(Exception):
    """Fails where it is asked for its text."""

    def __str__(self):
        return self.nosuch


@pytest.fixture
def told(guarded):
    """What the guard told."""
    return []


@pytest.fixture
def make_bus(told):
    """Makes a bus that hands over only when it is woken or closed, so that no test waits."""
    made = []

    def make(interval_s=NEVER_S, **backends):
        made.append(Bus(backends, Guard(lambda place, text: told.append(text)), interval_s=interval_s))
        return made[-1]

    yield make
    for each in made:
        each.close(deadline_s=0)


def steps(backend):
    return [event.step for event in backend.events]


def test_every_backend_gets_every_event_in_order(make_bus):
    one, other = RecordingBackend(), RecordingBackend()
    lanes = make_bus(one=one, other=other)
    for step in range(100):
        lanes.publish(sample_step(step + 1))
    lanes.close(deadline_s=5.0)
    assert steps(one) == steps(other) == list(range(1, 101))
    assert one.closed
    assert other.closed


def test_events_are_handed_over_without_being_asked_for(make_bus):
    backend = HangingBackend()
    make_bus(interval_s=0.01, backend=backend).publish(sample_step())
    assert backend.entered.wait(PATIENCE_S)
    backend.release.set()


def test_publishing_does_not_wait_for_a_hanging_backend(make_bus, monkeypatch):
    monkeypatch.setattr(bus, "QUEUE_EVENTS", 10)
    backend = HangingBackend()
    lanes = make_bus(backend=backend)
    lanes.publish(sample_step(1))
    lanes.flush(0)
    assert backend.entered.wait(PATIENCE_S)
    for step in range(2, 102):
        lanes.publish(sample_step(step))  # would never return, were it to wait
    assert lanes.dropped() == {"backend": {"queue_full": 90}}
    backend.release.set()
    lanes.close(deadline_s=5.0)
    assert steps(backend) == [1, *range(92, 102)], "the oldest go first"


@pytest.fixture
def restless():
    """Threads take turns as often as they can, which is what brings races out."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_what_a_full_queue_loses_is_counted_exactly(make_bus, monkeypatch, restless):
    monkeypatch.setattr(bus, "QUEUE_EVENTS", 1)
    backend = RecordingBackend()
    lanes = make_bus(interval_s=0.0, backend=backend)
    for step in range(20_000):
        lanes.publish(sample_step(step + 1))
        lanes.flush(0)
    lanes.close(deadline_s=5.0)
    assert len(backend.events) + lanes.dropped().get("backend", {}).get("queue_full", 0) == 20_000
    assert steps(backend) == sorted(steps(backend))


def test_a_queue_that_was_full_and_is_empty_a_moment_later_is_no_error(make_bus, monkeypatch):
    monkeypatch.setattr(bus, "QUEUE_EVENTS", 0)  # so that an empty queue passes for a full one
    backend = RecordingBackend()
    lanes = make_bus(backend=backend)
    lanes.publish(sample_step())
    lanes.close(deadline_s=5.0)
    assert steps(backend) == [1]
    assert lanes.dropped() == {}


def test_a_hanging_backend_does_not_delay_the_others(make_bus):
    hanging, other = HangingBackend(), RecordingBackend()
    lanes = make_bus(hanging=hanging, other=other)
    lanes.publish(sample_step())
    lanes.flush(0)
    assert hanging.entered.wait(PATIENCE_S)
    lanes.publish(sample_step(2))
    lanes.close(deadline_s=0.2)
    assert steps(other) == [1, 2]
    assert other.closed


def test_flush_waits_until_every_backend_has_what_was_published(make_bus):
    one, hanging = RecordingBackend(), HangingBackend()
    lanes = make_bus(one=one, hanging=hanging)
    lanes.publish(sample_step(1))
    releasing = threading.Timer(0.1, hanging.release.set)
    releasing.start()
    lanes.flush(PATIENCE_S)
    assert steps(one) == steps(hanging) == [1]
    releasing.join()


def test_event_on_its_way_from_the_queue_to_the_backend_is_waited_for(make_bus):
    class Queue(deque):
        def popleft(self):
            event = super().popleft()
            busy.append(lane.busy())
            return event

    one, busy = RecordingBackend(), []
    lanes = make_bus(one=one)
    (lane,) = lanes._lanes
    lane._queue = Queue()
    lanes.publish(sample_step(1))
    lanes.publish(sample_step(2))
    lanes.flush(PATIENCE_S)
    assert busy == [True, True]
    assert steps(one) == [1, 2]


def test_flush_gives_up_at_the_deadline_and_loses_nothing(make_bus):
    hanging = HangingBackend()
    lanes = make_bus(hanging=hanging)
    lanes.publish(sample_step(1))
    lanes.flush(0.05)  # would take ten seconds, were it to wait for the backend
    assert not hanging.events
    hanging.release.set()
    lanes.close(deadline_s=5.0)
    assert steps(hanging) == [1]


def test_close_gives_up_at_the_deadline_and_counts_what_is_lost(make_bus):
    hanging = HangingBackend()
    lanes = make_bus(hanging=hanging)
    lanes.publish(sample_step())
    lanes.flush(0)
    assert hanging.entered.wait(PATIENCE_S)
    lanes.publish(sample_step(2))
    for _ in range(2):  # would take ten seconds each, were it to wait for the backend
        assert lanes.close(deadline_s=0.05) == {"hanging": 2}
    assert not hanging.events
    assert lanes.dropped() == {"hanging": {"deadline": 2}}
    hanging.release.set()


def test_a_write_that_takes_too_long_is_known_until_it_returns(make_bus, monkeypatch):
    hanging = HangingBackend()
    lanes = make_bus(hanging=hanging, other=RecordingBackend())
    assert lanes.hanging() == []
    lanes.publish(sample_step())
    lanes.flush(0)
    assert hanging.entered.wait(PATIENCE_S)
    assert lanes.hanging() == []
    monkeypatch.setattr(bus, "HANGING_S", 0.0)
    assert lanes.hanging() == ["hanging"]
    hanging.release.set()
    lanes.flush(PATIENCE_S)
    assert lanes.hanging() == []


@pytest.mark.parametrize("error", [OSError, SystemExit])
def test_a_raising_backend_is_counted_told_once_and_called_again(make_bus, told, error):
    raising, other = RaisingBackend(2, error), RecordingBackend()
    lanes = make_bus(raising=raising, other=other)
    for step in (1, 2, 3):
        lanes.publish(sample_step(step))
        lanes.flush(0)
        assert raising.called.acquire(timeout=PATIENCE_S)
    lanes.close(deadline_s=5.0)
    assert (steps(raising), steps(other)) == ([3], [1, 2, 3])
    assert lanes.dropped() == {"raising": {"error": 2}}
    assert lanes.errors() == {"raising": 2}
    assert len(told) == 1
    assert f"{error.__name__}: disk full" in told[0]


def test_error_without_a_text_costs_its_own_batch_only(make_bus, told):
    raising = RaisingBackend(1, WordlessError)
    lanes = make_bus(raising=raising)
    for step in (1, 2):
        lanes.publish(sample_step(step))
        lanes.flush(0)
        assert raising.called.acquire(timeout=PATIENCE_S)
    lanes.close(deadline_s=5.0)
    assert (steps(raising), lanes.dropped()) == ([2], {"raising": {"error": 1}})
    assert "WordlessError" in told[0]


def test_a_backend_that_fails_to_close_is_told_and_no_more(make_bus, told):
    backend = RecordingBackend()
    backend.close = lambda: 1 / 0
    lanes = make_bus(backend=backend)
    lanes.publish(sample_step())
    lanes.close(deadline_s=5.0)
    assert steps(backend) == [1]
    assert lanes.dropped() == {}
    assert lanes.errors() == {"backend": 1}
    assert "ZeroDivisionError" in told[0]


def test_closing_twice_writes_once(make_bus):
    backend = RecordingBackend()
    lanes = make_bus(backend=backend)
    lanes.publish(sample_step())
    lanes.close(deadline_s=5.0)
    lanes.close(deadline_s=5.0)
    assert steps(backend) == [1]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_nothing_is_written_or_closed_in_a_forked_child(make_bus, tmp_path):
    class TellingBackend(RecordingBackend):
        def write(self, events):
            (tmp_path / f"write-{os.getpid()}").touch()

        def close(self):
            (tmp_path / f"close-{os.getpid()}").touch()

    lanes = make_bus(backend=TellingBackend())
    child = os.fork()
    if child == 0:
        lanes.publish(sample_step())
        lanes.flush(0)  # the lane that would be woken is not there
        lanes.close(deadline_s=5.0)
        os._exit(0)
    assert exit_code(child) == 0
    lanes.publish(sample_step())
    lanes.close(deadline_s=5.0)
    assert {path.name for path in tmp_path.iterdir()} == {f"write-{os.getpid()}", f"close-{os.getpid()}"}


def exit_code(child):
    """Of a forked process, None where it hangs."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def test_busy_time_is_that_of_the_lanes_alone(make_bus):
    def spin():
        for _ in range(200_000):
            pass

    backend = RecordingBackend()
    backend.write = lambda events: spin()
    lanes = make_bus(backend=backend)
    lanes.publish(sample_step())
    assert lanes.busy_seconds() == 0
    lanes.close(deadline_s=5.0)
    assert lanes.busy_seconds() > 0


def test_lanes_are_daemons_with_a_name_and_end_with_the_run(make_bus):
    lanes = make_bus(backend=RecordingBackend())
    (lane,) = (thread for thread in threading.enumerate() if thread.name == "trimtab-backend")
    assert lane.daemon
    lanes.close(deadline_s=5.0)
    assert not lane.is_alive()
