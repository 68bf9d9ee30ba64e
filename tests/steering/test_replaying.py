"""A run with fixed spacing is the same every time, and its record says enough to make it again."""

import json
import math

import pytest
import torch
from controller_training import Training, same
from torch.nn import functional as F

import trimtab
from trimtab.actions import ClipGradients, RollBack, ScaleLearningRate
from trimtab.errors import ConfigError

OFTEN = trimtab.Rule("often", signal=lambda loss: loss, threshold=1e-9, hold=9, severity="warning")
ADAPTIVE = trimtab.Policy(
    on="often", ladder=[(RollBack(), ScaleLearningRate(0.5), ClipGradients(steps=20))], cooldown=25, budget=5
)


def train(directory, name, training, **options):
    """A training with a spike, two poisoned batches in a row, and a rate that jumps. Returns weights and record."""
    settings = {"run": name, "directory": directory, "backends": ["jsonl"], "gradients_every": 1, **options}
    with trimtab.watch(**settings) as run:
        training.steps(60)
        training.step(spoil=1e4)
        training.steps(40)
        training.step(spoil=math.nan)
        training.step(spoil=math.nan)
        training.steps(40)
        training.optimizer.param_groups[0]["lr"] *= 300
        training.steps(80)
    done = [(a.step, a.action, a.optimizer, dict(a.after)) for a in run.adjustments if a.outcome == "applied"]
    return training.weights, done


@pytest.mark.parametrize("policies", [None, [ADAPTIVE, "shipped"]])
def test_replayed_run_ends_with_the_same_weights(tmp_path, policies):
    rules = [OFTEN] if policies else []
    weights, done = train(tmp_path, "first", Training(), act="process", rules=rules, policies=policies)
    again, repeated = train(tmp_path, "second", Training(), replay="first")
    lowered = "scale_learning_rate" if policies else "limit_updates"
    assert {action for _, action, *_ in done} >= {"skip_step", "roll_back", lowered}
    assert repeated == done
    assert same(weights, again)


def test_replayed_run_keeps_the_states_that_it_needs_whatever_its_own_rules_say(tmp_path):
    weights, done = train(tmp_path, "first", Training(), act="process")
    again, repeated = train(tmp_path, "second", Training(), replay="first", rules=[OFTEN])
    assert repeated == done
    assert same(weights, again)


def with_statistics():
    training = Training()
    training.model.insert(0, torch.nn.BatchNorm1d(8))
    return training


def test_replayed_run_ends_with_the_same_running_statistics(tmp_path):
    first, second = with_statistics(), with_statistics()
    _, done = train(tmp_path, "first", first, act="process")
    train(tmp_path, "second", second, replay="first")
    assert any("buffers_of_step" in after for *_, after in done)
    assert same(first.model.buffers(), second.model.buffers())


class LowersAndDrops:
    """Of two things in one action the second is refused: there is no dropout."""

    name, stage = "lowers_and_drops", "after_step"

    def apply(self, controls):
        controls.scale_learning_rate(0.5)
        return controls.set_dropout(0.3)


def test_half_of_an_action_that_was_done_is_done_again(tmp_path):
    policies = [trimtab.Policy(on="often", ladder=[LowersAndDrops()], cooldown=25, budget=3)]
    asked = {"rules": [OFTEN], "policies": [*policies, "shipped"]}
    weights, done = train(tmp_path, "first", Training(), act="process", **asked)
    again, repeated = train(tmp_path, "second", Training(), replay="first", **asked)
    assert [action for _, action, *_ in done].count("lowers_and_drops") == 3
    assert repeated == done
    assert same(weights, again)


def test_replay_without_the_adjustments_would_be_another_run(tmp_path):
    weights, _ = train(tmp_path, "first", Training(), act="process")
    bare, _ = train(tmp_path, "second", Training())
    assert not same(weights, bare)


def test_two_runs_that_are_adjusted_are_bit_equal(tmp_path):
    one = train(tmp_path, "one", Training(), act="process")
    other = train(tmp_path, "other", Training(), act="process")
    assert one[1] == other[1]
    assert same(one[0], other[0])


class Pair:
    """Two networks that compete, each with an optimizer of its own."""

    def __init__(self):
        torch.manual_seed(0)
        self.maker, self.judge = torch.nn.Linear(4, 2), torch.nn.Linear(2, 1)
        self.optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (self.maker, self.judge)]
        self.draw = torch.Generator().manual_seed(0)

    def round(self, spoil=1.0):
        made = self.maker(torch.randn(16, 4, generator=self.draw) * spoil)
        real = torch.randn(16, 2, generator=self.draw)
        for optimizer, inputs, target in ((1, torch.cat([made.detach(), real]), None), (0, made, torch.ones(16, 1))):
            self.optimizers[optimizer].zero_grad()
            target = torch.cat([torch.zeros(16, 1), torch.ones(16, 1)]) if target is None else target
            F.binary_cross_entropy_with_logits(self.judge(inputs), target).backward()
            self.optimizers[optimizer].step()

    @property
    def weights(self):
        return [p.detach().clone() for m in (self.maker, self.judge) for p in m.parameters()]


def compete(directory, name, **options):
    pair = Pair()
    with trimtab.watch(run=name, directory=directory, backends=["jsonl"], gradients_every=1, **options) as run:
        for count in range(120):
            pair.round(spoil={50: math.nan, 51: math.nan, 52: math.nan, 80: 1e6}.get(count, 1.0))
    return pair.weights, [(a.step, a.action, a.optimizer) for a in run.adjustments if a.outcome == "applied"]


def test_replayed_competition_ends_with_the_same_weights(tmp_path):
    weights, done = compete(tmp_path, "first", act="process")
    again, repeated = compete(tmp_path, "second", replay="first")
    assert "roll_back" in {action for _, action, _ in done}
    assert repeated == done
    assert same(weights, again)


def test_replay_says_what_it_could_not_repeat(watching, training, tmp_path):
    train(tmp_path, "first", Training(), act="process")
    with watching(replay="first", gradients_every=2) as seen:
        training.steps(80)
    assert any("adjustments of the record were not reached" in text for text in seen.notices)
    assert any("gradients_every=1" in text for text in seen.notices)


def test_replay_of_what_is_no_run_is_refused_at_the_start(watching):
    with pytest.raises(ConfigError, match="replay='nowhere'"), watching(replay="nowhere"):
        pass


def test_replay_of_a_run_that_adjusted_nothing_says_so(watching, training, tmp_path):
    train(tmp_path, "first", Training())  # a dry run
    with watching(replay="first") as seen:
        training.steps(3)
    assert any("first applied no adjustment: there is none to repeat" in text for text in seen.notices)


def test_replay_of_a_record_that_says_nonsense_of_its_settings_begins(watching, training, tmp_path):
    start = {"ts": "2026-01-01T00:00:00Z", "event": "run_start", "run": "a", "run_id": "b", "step": 0}
    (tmp_path / "a.jsonl").write_text(json.dumps({**start, "facts": {"config": [1]}}) + "\n")
    with watching(replay=str(tmp_path / "a.jsonl")) as seen:
        training.steps(2)
    assert len(seen.steps()) == 2


def test_replay_cannot_begin_where_another_run_ended(watching, training, tmp_path):
    train(tmp_path, "test", Training(), act="process")
    with (
        pytest.raises(ConfigError, match="replay='test', resume=True: a replay begins"),
        watching(replay="test", resume=True),
    ):
        pass
