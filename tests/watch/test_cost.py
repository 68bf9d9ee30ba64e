"""What watching costs is measured, told, and held to a budget."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab import health as reports
from trimtab.capture import recorder
from trimtab.sample import pace
from trimtab.sample.spacing import WARM_UP_STEPS
from trimtab.types import Health


@pytest.fixture
def train():
    def train(steps, size=64):
        model = nn.Linear(size, size)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        inputs = torch.ones(4, size)
        for _ in range(steps):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), inputs).backward()
            optimizer.step()

    return train


def test_cost_is_told_as_time_and_as_a_share_of_the_run(watching, train):
    with watching() as seen:
        train(20)
    assert seen.health.overhead_seconds > 0
    assert seen.health.overhead_ratio >= seen.health.overhead_seconds / seen.end.seconds


def test_search_that_is_made_once_is_not_taken_for_what_every_step_costs(watching, monkeypatch):
    monkeypatch.setattr(recorder, "living", lambda _, **__: time.sleep(1.0) or [])
    model, inputs = nn.Linear(4, 4), torch.ones(4, 4)
    with watching(gradients_every=1000) as seen:
        for _ in range(30):
            model.zero_grad()
            F.mse_loss(model(inputs), inputs).backward()
            for parameter in model.parameters():
                parameter.data.sub_(parameter.grad, alpha=0.1)
    assert 1.0 < seen.health.overhead_seconds < 3.0  # it was 6


def test_fixed_interval_is_kept(watching, train):
    with watching(gradients_every=3) as seen:
        train(10)
    sampled = [step.step for step in seen.steps() if step.gradient_steps]
    assert sampled == [1, 4, 7, 10]
    assert seen.health.gradient_interval_steps == 3


def test_interval_settles_in_warm_up_and_samples_its_multiples(watching, train):
    with watching(gradients_every=None, overhead=0.001) as seen:
        train(WARM_UP_STEPS + 4)
    interval = seen.health.gradient_interval_steps
    assert interval & (interval - 1) == 0
    sampled = [step.step - 1 for step in seen.steps() if step.gradient_steps]
    assert sampled[:5] == [0, 1, 2, 4, 8]
    assert all(step % interval == 0 for step in sampled if step > WARM_UP_STEPS + 1)


def test_run_over_its_budget_samples_half_as_often_what_is_over_its_share(watching, train, monkeypatch):
    monkeypatch.setattr(reports, "INTERVAL_S", 0.0)
    monkeypatch.setattr(pace, "GRADIENT_SHARE", 1e9)  # so that every step is sampled when the interval settles
    with watching(gradients_every=None, overhead=1e-6) as seen:
        train(WARM_UP_STEPS + 1)
        monkeypatch.setattr(seen.run._pace.gradients, "_share", 1e-9)
        train(8)
    intervals = sorted({health.gradient_interval_steps for health in seen.backend.of(Health)})
    assert intervals[:4] == [1, 2, 4, 8]


def test_run_whose_hooks_alone_are_over_the_budget_samples_as_ever(watching, train, monkeypatch):
    monkeypatch.setattr(reports, "INTERVAL_S", 0.0)
    monkeypatch.setattr(pace, "GRADIENT_SHARE", 1e9)
    with watching(gradients_every=None, overhead=1e-6) as seen:
        train(WARM_UP_STEPS + 40)
    assert seen.health.overhead_ratio > 1e-6
    assert seen.health.gradient_interval_steps == 1
