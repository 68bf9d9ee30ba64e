"""The gradient noise scale, in loops that accumulate gradients, against norms that the loop takes itself."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from trimtab.actions import SkipStep
from trimtab.sample.noise import NoiseScale
from trimtab.testing import RecordingBackend
from trimtab.types import Alert, Step

STEPS, BACKWARDS, BATCH = 40, 4, 8


class Loop:
    """Accumulates over four batches of eight. What is taken of every step is in `pairs`."""

    def __init__(self):
        torch.manual_seed(0)
        data = TensorDataset(1.0 + 3.0 * torch.randn(STEPS * BACKWARDS * BATCH, 6), torch.ones(1280))
        self.loader = DataLoader(data, batch_size=BATCH)
        self.model = nn.Linear(6, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4)
        self.pairs = []

    def loss(self, inputs, wanted):
        return nn.functional.mse_loss(self.model(inputs).flatten(), wanted)

    def backward(self, inputs, wanted):
        (self.loss(inputs, wanted) / BACKWARDS).backward()

    def before_step(self):
        pass

    def step(self):
        self.optimizer.step()

    def norm(self):
        return torch.cat([p.grad.flatten().double() for p in self.model.parameters()]).norm().item()

    def train(self):
        for count, batch in enumerate(self.loader, start=1):
            self.backward(*batch)
            if count % BACKWARDS == 1:
                first = self.norm()
            if count % BACKWARDS == 0:
                self.pairs.append(((BATCH, BACKWARDS * first), (BACKWARDS * BATCH, self.norm())))
                self.before_step()
                self.step()
                self.optimizer.zero_grad()


class NotDivided(Loop):
    def backward(self, inputs, wanted):
        self.loss(inputs, wanted).backward()


class Clipped(Loop):
    def before_step(self):
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)


@pytest.mark.parametrize("kind", [Loop, NotDivided, Clipped])
def test_it_is_that_of_the_first_batch_and_of_the_whole_step(watching, kind):
    loop, reference = kind(), NoiseScale()
    with watching() as seen:
        loop.train()
    for pair in loop.pairs[1:]:  # before the first step nobody knows whose gradients these are
        reference.update(*pair)
    said = [step.gradient_noise_scale for step in seen.steps()]
    assert said[0] is None
    assert said[-1] == pytest.approx(reference.value, rel=1e-4)
    assert said[-1] > 1.0


def test_step_that_a_policy_skipped_has_no_part_in_it(watching):
    steps, loop, reference = itertools.count(), Loop(), NoiseScale()
    bad = trimtab.Rule("bad", signal=lambda loss: float(next(steps) == STEPS // 2), threshold=0.5)
    skip = trimtab.Policy(on="bad", ladder=[SkipStep()])
    with watching(act="process", rules=[bad], policies=[skip]) as seen:
        loop.train()
    (skipped,) = seen.run.adjustments
    assert skipped.outcome == "applied"
    del loop.pairs[
        STEPS // 2 : STEPS // 2 + 2
    ]  # the next record has the samples of both, and no norm of its first batch
    for pair in loop.pairs[1:]:
        reference.update(*pair)
    assert seen.steps()[-1].gradient_noise_scale == pytest.approx(reference.value, rel=1e-4)


class ClippedByValue(Loop):
    def before_step(self):
        nn.utils.clip_grad_value_(self.model.parameters(), 0.01)


class DividedByHand(Loop):
    def before_step(self):
        for parameter in self.model.parameters():
            parameter.grad /= BACKWARDS


class SameBatch(Loop):
    def backward(self, inputs, wanted):
        loss = self.loss(inputs, wanted)
        loss.backward(retain_graph=True)
        loss.backward()

    def train(self):
        for batch in self.loader:
            self.backward(*batch)
            self.step()
            self.optimizer.zero_grad()


class Scaled(Loop):
    def __init__(self):
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu")

    def backward(self, inputs, wanted):
        self.scaler.scale(self.loss(inputs, wanted) / BACKWARDS).backward()

    def step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()


class OneBackward(Loop):
    def train(self):
        for batch in self.loader:
            self.optimizer.zero_grad()
            self.backward(*batch)
            self.step()


@pytest.mark.parametrize("kind", [ClippedByValue, DividedByHand, SameBatch, Scaled, OneBackward])
def test_there_is_none_where_the_two_do_not_compare(watching, kind):
    loop = kind()
    with watching() as seen:
        loop.train()
    assert len(seen.steps()) >= STEPS
    assert {step.gradient_noise_scale for step in seen.steps()} == {None}


def test_rule_may_judge_it_beside_the_batch(tmp_path):
    rule = trimtab.Rule("batch_too_small", signal="gradient_noise_ratio", threshold=1e-6)
    with trimtab.watch(directory=tmp_path, rules=[rule], gradients_every=1, backends=[seen := RecordingBackend()]):
        Loop().train()
    (fired,) = [alert for alert in seen.of(Alert) if alert.rule == "batch_too_small"]
    scales = [step.gradient_noise_scale for step in seen.of(Step)]
    assert fired.value * BACKWARDS * BATCH == pytest.approx(next(scale for scale in scales if scale is not None))
