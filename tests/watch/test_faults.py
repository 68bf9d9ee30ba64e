"""No fault of ours or of a backend's stops or slows the training."""

import copy
import gc
import itertools
import socket
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab
from trimtab.testing import RecordingBackend
from trimtab.types import RunEnd
from trimtab.watchdog import Watchdog

pytestmark = pytest.mark.usefixtures("guarded")

STEPS = 5


class Odd(nn.Linear):
    """A model that breaks what names its layers, while gradients are sampled."""

    def named_parameters(self, *args, **kwargs):
        raise RuntimeError("a fault")


def train(model):
    optimizer = torch.optim.SGD([model.weight, model.bias], lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.mse_loss(model(torch.ones(4, 2)), torch.ones(4, 1)).backward()
        optimizer.step()
    return torch.cat([model.weight.flatten(), model.bias]).detach()


@pytest.fixture
def odd():
    return Odd(2, 1)


def test_fault_in_a_hook_does_not_reach_the_training(watching, odd):
    bare = train(copy.deepcopy(odd))
    with watching() as seen:
        watched = train(odd)
    assert torch.equal(bare, watched)
    assert seen.end.totals["faults"]


def test_fault_in_a_hook_is_counted_and_told_once_with_its_place(watching, odd):
    with watching() as seen:
        train(odd)
    (notice,) = seen.notices
    assert notice.startswith("step pre-hook: RuntimeError: a fault")
    assert "test_faults.py" in notice
    assert seen.end.totals["faults"] == {"step pre-hook": STEPS}


def test_what_does_not_depend_on_the_fault_is_seen_all_the_same(watching, odd):
    with watching() as seen:
        train(odd)
    assert len(seen.losses()) == STEPS
    assert None not in seen.losses()


def test_faulty_model_that_is_not_trained_does_not_matter(watching, odd):
    with watching() as seen:
        train(nn.Linear(2, 1))
    assert seen.end.totals["faults"] == {}
    assert list(seen.steps()[0].layers) == ["weight", "bias"]


class Failing(RecordingBackend):
    def write(self, events):
        raise OSError("disk full")


def test_backend_that_fails_costs_only_itself(tmp_path):
    good = RecordingBackend()
    with trimtab.watch(run="test", directory=tmp_path, backends=[good, Failing()]):
        train(nn.Linear(2, 1))
    assert good.closed
    (end,) = good.of(RunEnd)
    assert end.status == "completed"
    assert end.totals["steps"] == {"0": STEPS}


def test_backend_that_cannot_start_is_skipped_where_it_was_only_a_default(tmp_path, capsys):
    (tmp_path / "targets").write_text("a file where a directory belongs")
    with trimtab.watch(run="test", directory=tmp_path):
        train(nn.Linear(2, 1))
    log = (tmp_path / "test" / "rank-0.jsonl").read_text()
    assert "Going on without it." in log
    assert '"completed"' in log


@pytest.mark.parametrize("setting", ["metrics_token_file", "tls_certificate_file", "targets"])
def test_run_whose_metrics_cannot_be_served_as_asked_does_not_go_on_without_them(tmp_path, setting):
    (tmp_path / "file").write_text("")
    with_key = {"tls_key_file": tmp_path / "file"} if setting == "tls_certificate_file" else {}
    asked = {setting: tmp_path / "file" / "missing", **with_key}
    with pytest.raises(trimtab.BackendError, match=setting), trimtab.watch(directory=tmp_path, **asked):
        pytest.fail("the run began")


def test_port_that_was_asked_for_and_is_taken_is_an_error_with_the_default_backends_too(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(trimtab.BackendError, match=f"port={port}: already"),
            trimtab.watch(directory=tmp_path, port=port),
        ):
            pytest.fail("the run began")


def test_backend_that_was_asked_for_and_cannot_start_is_an_error(tmp_path, monkeypatch):
    occupied = tmp_path / "certificate.pem"
    occupied.mkdir()
    for name in ("CERTIFICATE", "KEY"):
        monkeypatch.setenv(f"TRIMTAB_TLS_{name}_FILE", str(occupied))
    with pytest.raises(trimtab.BackendError), trimtab.watch(directory=tmp_path, backends=["prometheus"]):
        pass


def test_modules_that_come_meanwhile_hinder_no_start(tmp_path):
    """Whatever the collector of garbage frees may have something imported, at any moment."""
    come = (f"come_{count}" for count in itertools.count())

    def import_another(*_):
        sys.modules[next(come)] = ModuleType("come")

    before, threshold = set(sys.modules), gc.get_threshold()
    gc.callbacks.append(import_another)
    gc.set_threshold(5)
    try:
        with trimtab.watch(run="test", directory=tmp_path, backends=[RecordingBackend()]):
            pass
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(import_another)
        for name in [name for name in sys.modules if name not in before and name.startswith("come_")]:
            del sys.modules[name]


def test_nothing_is_left_of_a_run_that_cannot_have_its_threads(tmp_path, monkeypatch):
    def no_more(watchdog):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Watchdog, "start", no_more)
    backend = RecordingBackend()
    with (
        pytest.raises(RuntimeError, match="new thread"),
        trimtab.watch(run="test", directory=tmp_path, backends=[backend]),
    ):
        pytest.fail("the run began")
    train(nn.Linear(2, 1))
    assert backend.closed
    (end,) = backend.of(RunEnd)
    assert (end.status, end.totals["steps"]) == ("failed", {})
