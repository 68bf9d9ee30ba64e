"""What differs where tensors are on a device. On a GPU it runs with all other tests.

`DEVICE=sim` is a device for tests, where there is none: `tests/test_simulated_device.py` runs it with all others.
"""

import contextlib
from pathlib import Path

import pytest
import sim
import torch
from on_device import DEVICE, Training

collect_ignore_glob = [] if DEVICE else ["test_*.py"]
if DEVICE == "sim":
    sim.register()


def pytest_collection_modifyitems(items):
    """What is no simulation is marked as in need of a GPU."""
    for item in items:
        if DEVICE != "sim" and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device():
    """Where the tensors of the test are."""
    return torch.device(DEVICE)


@pytest.fixture
def no_waiting():
    """`with no_waiting():` the host does not wait for the device, or the test fails."""

    @contextlib.contextmanager
    def no_waiting():
        if DEVICE == "sim":
            set_mode, forbidden, allowed = torch.ops.sim.forbid_waiting, True, False
        else:
            set_mode, forbidden, allowed = torch.cuda.set_sync_debug_mode, "error", "default"
        set_mode(forbidden)
        try:
            yield
        finally:
            set_mode(allowed)

    return no_waiting


@pytest.fixture(autouse=True)
def no_races():
    """Host memory that is being copied to the device is left alone until it has arrived. Only `sim` can tell."""
    yield
    assert DEVICE != "sim" or torch.ops.sim.races() == 0


@pytest.fixture
def training(device):
    """`training(**options of the optimizer)`: a new one, which begins as every other."""
    return lambda *kind, **options: Training(device, *kind, **options)
