import math
import os
import subprocess
import sys
import threading

import pytest

from trimtab.testing import BackendContract, RecordingBackend, UnknownEvent, sample_events, sample_run, sample_step
from trimtab.types import Adjustment, Epoch, Event, Step


class TestRecordingContract(BackendContract):
    def make_backend(self, tmp_path):
        return RecordingBackend()


class Raises(RecordingBackend):
    """Raises in `write` when `bad` finds something in an event."""

    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def write(self, events):
        if any(map(self.bad, events)):
            raise ValueError("cannot take that")


class ClosesOnce(RecordingBackend):
    def close(self):
        assert not self.closed
        self.closed = True


class ClosesOnlyWhatStarted(RecordingBackend):
    def close(self):
        assert self.run is not None


class GivesUp(RecordingBackend):
    """Is of no use once a batch could not be read to its end."""

    broken = False

    def write(self, events):
        assert not self.broken
        self.broken = True
        for event in events:
            dict(getattr(event, "values", {}))
        self.broken = False


class LeavesAThread(RecordingBackend):
    def start(self, run):
        threading.Thread(target=threading.Event().wait, args=(20,), daemon=True).start()


class LeavesAFile(RecordingBackend):
    def start(self, run):
        self.files = os.pipe()


class AddressIsNoText(RecordingBackend):
    address = 9464


@pytest.mark.parametrize(
    ("promise", "backend"),
    [
        ("it_has_the_methods_of_a_backend", object()),
        ("it_says_where_its_output_is_or_nothing", AddressIsNoText()),
        ("every_kind_of_event", Raises(lambda event: isinstance(event, Epoch))),
        ("every_field_may_be_missing", Raises(lambda event: isinstance(event, Step) and event.loss is None)),
        ("every_field_may_be_missing", Raises(lambda event: isinstance(event, Adjustment) and not event.after)),
        ("nan_and_infinity", Raises(lambda event: not math.isfinite(getattr(event, "loss", None) or 0))),
        ("an_unknown_kind_of_event_is_no_error", Raises(lambda event: isinstance(event, UnknownEvent))),
        ("close_twice", ClosesOnce()),
        ("close_without_start", ClosesOnlyWhatStarted()),
        ("a_faulty_event_costs_its_batch_at_most", GivesUp()),
        ("close_leaves_no_thread_and_no_file_open", LeavesAThread()),
        ("close_leaves_no_thread_and_no_file_open", LeavesAFile()),
    ],
)
def test_the_suite_finds_a_backend_that_breaks_a_promise(promise, backend, tmp_path, monkeypatch):
    monkeypatch.setattr("trimtab.testing.PATIENCE_S", 0.2)
    suite = BackendContract()
    suite.make_backend = lambda tmp_path: backend
    with pytest.raises((AssertionError, ValueError)):
        getattr(suite, f"test_{promise}")(tmp_path)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_suite_finds_a_backend_whose_child_hangs_after_fork(tmp_path, monkeypatch):
    hang = threading.Event()
    monkeypatch.setattr("trimtab.testing.PATIENCE_S", 0.2)
    monkeypatch.setattr("gc.collect", lambda: hang.wait(20))  # as a finaliser would that waits for a lost thread
    suite = BackendContract()
    suite.make_backend = lambda tmp_path: RecordingBackend()
    with pytest.raises(AssertionError, match="hung or died"):
        suite.test_a_fork_disturbs_neither_side(tmp_path)


def test_a_suite_without_a_backend_says_what_to_write(tmp_path):
    with pytest.raises(NotImplementedError, match="BackendContract: give it a make_backend"):
        BackendContract().test_no_events(tmp_path)


def test_the_recording_backend_keeps_events_by_kind(tmp_path):
    backend = RecordingBackend()
    backend.start(sample_run(tmp_path))
    backend.write([sample_step(1)])
    backend.write(sample_events())
    assert [event.step for event in backend.of(Step)] == [1, 1, 5, 5]
    assert len(backend.of(Epoch)) == 1
    assert len(backend.of(Event)) == 1 + len(sample_events())


def test_importing_the_helpers_imports_no_pytest():
    program = "import sys, trimtab.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
