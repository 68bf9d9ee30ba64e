"""The runs of the session: every loop that was selected, bare and watched, on all cores at once."""

import importlib.util

import pytest

from expectations import Loop
from running import Runner


@pytest.fixture(scope="session")
def runner(request, tmp_path_factory):
    """Starts the runs of all selected tests at once, so that the tests find theirs done."""
    runner = Runner(tmp_path_factory.mktemp("loops"))
    for item in request.session.items:
        loop = getattr(item, "callspec", None) and item.callspec.params.get("loop")
        if isinstance(loop, Loop) and not missing(loop):
            runner.outcome(loop, watched=True)
            runner.outcome(loop, watched=False)
    yield runner
    runner.close()


@pytest.fixture
def bare(runner, loop):
    """What the loop does by itself."""
    skip_if_missing(loop)
    return runner.outcome(loop, watched=False).result()


@pytest.fixture
def watched(runner, loop):
    """What the loop does under `trimtab run`."""
    skip_if_missing(loop)
    return runner.outcome(loop, watched=True).result()


def missing(loop):
    return loop.needs is not None and importlib.util.find_spec(loop.needs) is None


def skip_if_missing(loop):
    if missing(loop):
        pytest.skip(f"{loop.needs} is not installed: pip install {loop.needs}")
