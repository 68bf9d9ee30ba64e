"""What broke a simpler way from a number to an adjustment, in a real run that a real Prometheus judges too.

All is as usual but sixty times as fast: levels look back over a second, not over a minute, are scraped four times in
it, and what a run says is at its backends within some milliseconds, not within a second.
"""

import contextlib
import time

import pytest
import torch
from judged_twice import alerted, firing, in_process

import trimtab
from trimtab.actions import ScaleLearningRate
from trimtab.bus import BATCH_INTERVAL_S, Bus
from trimtab.rules import trailing
from trimtab.steering import control
from trimtab.testing import RecordingBackend

SCRAPED_EACH = "250ms"
STEP_S = 0.01
WINDOW_S = 1.0
PATIENCE_S = 10.0
HIGH, LOW = 5.0, 0.1

RULES = (
    trimtab.Rule("held", signal=lambda loss: loss, threshold=1.0, hold=10, severity="warning"),
    trimtab.Rule("at_once", signal=lambda loss: loss, threshold=1.0, severity="warning"),
)

pytestmark = pytest.mark.servers


class Loop:
    """A run whose loss is what the test says."""

    def __init__(self, run, ask, seen):
        self.run, self.ask, self.seen = run, ask, seen
        self._weight = torch.nn.Parameter(torch.zeros(1))
        self._optimizer = torch.optim.SGD([self._weight], lr=0.1)

    @property
    def firing(self):
        return firing(self.ask, self.run.name) & {"held"}

    @property
    def episodes(self):
        """In process, and at Prometheus."""
        found = in_process(self.seen), alerted(self.ask, self.run.name)
        return tuple({rule: each[rule] for rule in ("held", "at_once") if rule in each} for each in found)

    def train(self, loss, *, seconds=PATIENCE_S, until=lambda: False, look_s=0.1):
        """Train at that loss until something is so, which has to come, or for so long."""
        end, asked = time.monotonic() + seconds, 0.0
        while time.monotonic() < end:
            self._optimizer.zero_grad()
            (self._weight.sum() * 0.0 + loss).backward()
            self._optimizer.step()
            time.sleep(STEP_S)
            if time.monotonic() - asked > look_s:
                if until():
                    return
                asked = time.monotonic()
        assert seconds < PATIENCE_S, "it did not come"

    def fix(self):
        """An adjustment, which sets a fence."""
        before = len(self.run.adjustments)
        control.send(self.run.directory, self.run.id, "adjust", [ScaleLearningRate(0.5)])
        self.train(HIGH, until=lambda: len(self.run.adjustments) > before, look_s=0.0)


@pytest.fixture
def loop(tmp_path, relay, ask, monkeypatch, one_record_a_step, request):
    """Start a run, or go on with it."""
    monkeypatch.setattr(trailing, "LEVEL_WINDOW_S", WINDOW_S)
    monkeypatch.setitem(Bus.__init__.__kwdefaults__, "interval_s", BATCH_INTERVAL_S / 60)
    seen = RecordingBackend()

    @contextlib.contextmanager
    def loop(**options):
        settings = {
            "run": request.node.name,
            "directory": tmp_path,
            "port": 0,
            "rules": RULES,
            "linger": 0.0,
            **options,
        }
        with trimtab.watch(backends=["prometheus", "jsonl", seen], **settings) as run:
            relay.target = run.addresses["prometheus"]
            yield Loop(run, ask, seen)

    return loop


def test_blip_of_50_ms_is_no_episode_but_where_one_point_is_enough(loop):
    with loop() as training:
        training.train(LOW, seconds=0.5)
        training.train(HIGH, seconds=5 * STEP_S)
        training.train(LOW, seconds=2 * WINDOW_S)
        assert training.episodes == ({"at_once": 1}, {"at_once": 1})


def test_first_fix_that_is_too_small_is_followed_by_a_second_episode(loop):
    with loop() as training:
        training.train(LOW, seconds=0.5)
        training.train(HIGH, until=lambda: training.firing)
        training.fix()
        training.train(HIGH, until=lambda: not training.firing)
        training.train(HIGH, until=lambda: training.firing)
        training.fix()
        training.train(LOW, until=lambda: not training.firing)
        training.train(LOW, seconds=1.5 * WINDOW_S)
        assert training.episodes[0]["held"] == training.episodes[1]["held"] == 2


def test_second_fault_soon_after_a_fix_is_an_episode_of_its_own(loop):
    with loop() as training:
        training.train(HIGH, until=lambda: training.firing)
        training.fix()
        training.train(LOW, seconds=0.3 * WINDOW_S)
        training.train(HIGH, until=lambda: not training.firing)
        training.train(HIGH, until=lambda: training.firing)
        assert training.episodes[0]["held"] == training.episodes[1]["held"] == 2


def test_missed_scrapes_after_a_fix_raise_no_alert_on_old_evidence(loop, relay):
    with loop() as training:
        training.train(HIGH, until=lambda: training.firing)
        training.fix()
        failed, relay.broken = relay.failed, True
        training.train(LOW, until=lambda: relay.failed > failed + 1, look_s=0.0)
        relay.broken = False
        training.train(LOW, seconds=2 * WINDOW_S)
        assert not training.firing
        assert training.episodes[0]["held"] == training.episodes[1]["held"] == 1


def test_fault_that_outlives_a_fast_resume_raises_an_alert_for_the_new_run(loop):
    with loop() as training:
        training.train(HIGH, until=lambda: training.firing)
        first = training.run.id
    with loop(resume=True) as training:
        query = f'ALERTS{{alertstate="firing", rule="held", run_id="{training.run.id}"}}'
        training.train(HIGH, until=lambda: training.ask(query))
        assert training.run.id != first
        assert training.episodes[0]["held"] == training.episodes[1]["held"] == 2
        assert [a.episode for a in training.run.alerts if a.rule == "held"] == [2]
