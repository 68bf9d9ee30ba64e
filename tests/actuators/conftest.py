"""An optimizer whose steps are surrounded, as a run would do it, without a run."""

import functools

import pytest
import torch
from torch import nn

from trimtab.actuators.steering import Steering
from trimtab.actuators.step_controls import StepControls
from trimtab.capture.lane import OUT
from trimtab.capture.optimizers import OptimizerHooks
from trimtab.guard import Guard
from trimtab.sample.meter import Meter


class Judge:
    """Listens to steps, and may be told what to do when gradients are there, or when the step is over."""

    def __init__(self):
        self.before, self.after = [], []  # called with the optimizer once each, then forgotten

    def before_step(self, optimizer, gradients_ready):
        if gradients_ready:
            self._run(self.before, optimizer)

    def closure_returned(self, optimizer):
        self._run(self.before, optimizer)

    def after_step(self, optimizer):
        self._run(self.after, optimizer)

    @staticmethod
    def _run(waiting, optimizer):
        while waiting:
            waiting.pop(0)(optimizer)


class ClosedLane:
    """In the place of a lane: every step takes the long way."""

    awaits, left_in_step = OUT, None

    def __init__(self):
        self.ways = self

    def set_steps(self, before, after):
        self.before_step, self.after_step = before, after

    def leave(self):
        """Nobody is in it."""

    def enter(self, optimizer):
        """It stays closed."""

    def was_left_in_step(self, optimizer):
        return False


class Helm:
    """Hooks, steering and controls, as a run wires them."""

    def __init__(self):
        self.judge, self.said, self.usual_norm, self.models = Judge(), [], None, []
        self.hooks = OptimizerHooks(self.judge, ClosedLane())
        self.steering = Steering(self.hooks, lambda parameters: self.models, lambda label: self.usual_norm, self._say)
        self.guard = Guard(self._say)

    def _say(self, kind, text):
        self.said.append(text)

    def attach(self):
        self.hooks.attach(functools.partial(self.guard.wrap_hook, meter=Meter()), self.guard.wrap)

    def controls(self, *optimizers, label="0"):
        for optimizer in optimizers:
            self.steering.meet(label, optimizer)
        return StepControls(self.steering, label)

    def close(self):
        self.steering.close()
        self.hooks.detach()


@pytest.fixture
def helm():
    helm = Helm()
    helm.attach()
    yield helm
    helm.close()


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture
def fit(model):
    """`fit()` leaves a fresh gradient, and returns the loss."""
    inputs, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])

    def fit():
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    return fit
