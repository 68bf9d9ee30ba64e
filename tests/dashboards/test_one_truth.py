"""Runs that go wrong are judged in process and by a real Prometheus: both name the same rules and episodes."""

import contextlib
import time

import pytest
import rescue_recipes as recipes
from judged_twice import alerted, counted, in_process
from rescue_faults import NanInBatch, PoisonedBatch, Rate
from rescue_loop import Fault, Method, train

import trimtab
from trimtab.testing import RecordingBackend

SCRAPED_EACH = "1s"
pytestmark = pytest.mark.servers

STEP_S = 0.01
PATIENCE_S = 5.0
# The last rule fires at step 170. Levels come with the record of their steps, one a second: so go on for longer.
RECIPE = recipes.MLP.but(epochs=6, steps=50, schedule=recipes.constant)


class Watched(Method):
    """A run that is slowed to seconds, so that it is scraped several times."""

    def __init__(self, name, directory, relay, ask):
        self.seen = RecordingBackend()
        self._name, self._directory, self._relay, self._ask = name, directory, relay, ask

    @contextlib.contextmanager
    def watching(self, model, optimizer):
        options = {"run": self._name, "directory": self._directory, "port": 0, "gradients_every": 1}
        with trimtab.watch(backends=["prometheus", self.seen], **options) as run:
            self._relay.target = run.addresses["prometheus"]
            yield
            self._let_prometheus_come()

    def should_stop(self):
        time.sleep(STEP_S)
        return False

    def _let_prometheus_come(self):
        end = time.monotonic() + PATIENCE_S
        while alerted(self._ask, self._name).keys() != in_process(self.seen).keys() and time.monotonic() < end:
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("name", "fault", "named"),
    [
        ("rate", Rate(onset=100, factor=300.0), {"loss_spike", "loss_diverged", "loss_nonfinite"}),
        ("poisoned", PoisonedBatch(onset=100), {"loss_spike", "gradient_exploding"}),
        ("nan", NanInBatch(onset=100), {"loss_nonfinite"}),
        ("healthy", Fault(), set()),
    ],
    ids=["rate too high", "poisoned batch", "NaN in a batch", "healthy"],
)
def test_process_and_prometheus_name_the_same_rules(tmp_path, relay, ask, name, fault, named):
    watched = Watched(name, tmp_path, relay, ask)
    train(RECIPE, 3, fault, watched)
    said = in_process(watched.seen)
    assert bool(named & said.keys()) == bool(said) == bool(named), said
    assert alerted(ask, name).keys() == said.keys()
    assert counted(ask, name) == said
