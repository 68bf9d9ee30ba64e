"""On a device nothing waits: neither on a step that is sampled, nor on one that is not."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab.sample import books

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and a torch built for CUDA"),
]


@contextlib.contextmanager
def no_waiting():
    """Raises at every synchronisation with the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Loop:
    def __init__(self, **options):
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).cuda()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, **options)
        self.inputs, self.labels = torch.randn(6, 4).cuda(), torch.tensor([0, 1, 2, 2, 1, 0]).cuda()
        self.scaler = torch.amp.GradScaler("cuda")

    def step(self, *, clip=False):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.inputs), self.labels)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        self.optimizer.step()
        return loss.detach()

    def scaled_step(self, factor=1.0):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.inputs), self.labels) * factor
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()


@pytest.mark.parametrize("interval_s", [0.0, 3600.0], ids=["a record a step", "one record"])
@pytest.mark.parametrize("every", [1, 1000], ids=["sampled", "unsampled"])
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"capturable": True}], ids=["foreach", "fused", "capturable"])
def test_no_step_waits_for_the_device(watching, monkeypatch, options, every, interval_s):
    monkeypatch.setattr(books, "RECORD_INTERVAL_S", interval_s)
    loop = Loop(**options)
    with watching(gradients_every=every) as seen:
        loop.step(clip=True)
        with no_waiting():
            for _ in range(5):
                loop.step(clip=True)
    assert seen.end.totals["steps"] == {"0": 6}
    assert seen.end.totals["faults"] == {}


def test_validation_does_not_wait_for_the_device(watching):
    loop = Loop()
    with watching() as seen:
        loop.step()
        with no_waiting(), torch.no_grad():
            for _ in range(3):
                F.cross_entropy(loop.model(loop.inputs), loop.labels)
    assert seen.validations[0].samples == 18


def test_values_on_a_device_are_those_of_the_moment(watching):
    loop = Loop()
    with watching() as seen:
        losses = []
        for _ in range(5):
            loss = loop.step()
            losses.append(loss.clone())
            loss.zero_()
    assert seen.losses() == pytest.approx(torch.stack(losses).tolist())
    assert all(step.gradient_norm > 0 for step in seen.steps())


def test_steps_that_a_fused_optimizer_skips_are_known_late_and_are_no_steps(watching):
    loop = Loop(fused=True)
    with watching() as seen:
        losses = [loop.scaled_step(factor) for factor in (1.0, torch.inf, 1.0)]
    assert seen.losses() == pytest.approx([losses[0].item(), losses[2].item()])
    assert seen.end.totals["skipped"] == {"0": {"scaler": 1}}


def test_training_on_a_device_is_bit_equal(watching):
    bare = Loop()
    torch.manual_seed(1)
    watched = Loop()
    watched.model.load_state_dict(bare.model.state_dict())
    watched.inputs = bare.inputs
    for _ in range(5):
        bare.step(clip=True)
    with watching():
        for _ in range(5):
            watched.step(clip=True)
    assert all(map(torch.equal, bare.model.parameters(), watched.model.parameters()))
