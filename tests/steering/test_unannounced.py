"""Steps that no hook announces in the usual way are judged too, when they are over."""

import math

import pytest
import torch
from torch.nn import functional as F

import trimtab
from trimtab.actions import (
    ClipGradients,
    Halt,
    RollBack,
    ScaleLearningRate,
    ScaleWeightDecay,
    SetDropout,
    SkipStep,
)
from trimtab.types import Adjustment, Alert

LATE = trimtab.Rule("late", signal=lambda loss: 1.0, threshold=0.5, hold=10)


class InBackward:
    """One optimizer for each parameter, which steps as soon as its gradient is there."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(4, 1)
        self.optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in self.model.parameters()}
        for parameter in self.model.parameters():
            parameter.register_post_accumulate_grad_hook(self.apply)

    def apply(self, parameter):
        self.optimizers[parameter].step()
        self.optimizers[parameter].zero_grad()

    def step(self, spoil=1.0):
        F.mse_loss(self.model(torch.ones(8, 4) * spoil), torch.zeros(8, 1)).backward()


class ByHand:
    """No optimizer at all."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(4, 1)

    def step(self, spoil=1.0):
        F.mse_loss(self.model(torch.ones(8, 4) * spoil), torch.zeros(8, 1)).backward()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter -= 0.01 * parameter.grad
        self.model.zero_grad()


def test_nothing_but_a_halt_can_be_done_where_there_is_no_optimizer(watching):
    actions = [ClipGradients(1.0, steps=9), ScaleLearningRate(0.5), ScaleWeightDecay(0.5), SetDropout(0.1), RollBack()]
    training = ByHand()
    with watching(
        act="process", rules=[LATE], policies=[trimtab.Policy(on="late", ladder=[(*actions, Halt())])]
    ) as seen:
        for _ in range(20):
            training.step()
    assert [(a.action, a.outcome) for a in seen.backend.of(Adjustment)] == [
        *((action.name, "refused") for action in actions),
        ("halt", "applied"),
    ]


class DeepByHand(ByHand):
    """Its graph needs the weights: whenever a step is seen, that of the next one is there already."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def test_weights_that_the_next_graph_needs_by_then_are_not_waited_for(watching):
    training, policy = DeepByHand(), trimtab.Policy(on="late", ladder=[(RollBack(), Halt())])
    with watching(act="process", rules=[LATE], policies=[policy]) as seen:
        while not trimtab.should_stop():
            training.step()
    (fired,) = [alert.step for alert in seen.backend.of(Alert)]
    back, halt = seen.backend.of(Adjustment)
    assert (back.outcome, halt.outcome) == ("refused", "applied")
    assert "a graph is pending" in back.reason
    assert fired <= back.step == halt.step <= fired + 1


def test_best_weights_are_back_once_such_a_loop_hears_of_its_halt(watching):
    training = DeepByHand()
    inputs, targets = torch.ones(8, 4), torch.zeros(8, 1)
    with watching(act="process", rules=[LATE], policies=[trimtab.Policy(on="late", ladder=[Halt()])]) as seen:
        for _ in range(4):
            training.step()
        training.model.eval()
        with torch.no_grad():
            best = F.mse_loss(training.model(inputs), targets)
        training.model.train()
        while not seen.backend.of(Adjustment):
            training.step(spoil=3.0)
        assert F.mse_loss(training.model(inputs), targets) != best
        assert trimtab.should_stop()
        assert F.mse_loss(training.model(inputs), targets) == best


@pytest.mark.parametrize("loop", [InBackward, ByHand])
def test_rules_judge_them(watching, loop):
    training = loop()
    with watching() as seen:
        for _ in range(20):
            training.step()
        training.step(spoil=math.nan)
        training.step()
    fired = {(alert.rule, alert.step) for alert in seen.backend.of(Alert)}
    assert {("loss_nonfinite", 21), ("gradient_nonfinite", 21)} <= fired


@pytest.mark.parametrize("loop", [InBackward, ByHand])
def test_first_aid_comes_too_late_and_says_so(watching, loop):
    training = loop()
    policies = [trimtab.Policy(on="late", ladder=[SkipStep()])]
    with watching(act="process", rules=[LATE], policies=policies) as seen:
        for _ in range(12):
            training.step()
    assert {(a.action, a.outcome) for a in seen.backend.of(Adjustment)} == {("skip_step", "refused")}


@pytest.mark.parametrize("loop", [InBackward, ByHand])
def test_halt_stops_them(watching, loop):
    training = loop()
    taken = 0
    with watching(act="process", rules=[LATE], policies=[trimtab.Policy(on="late", ladder=[Halt("enough")])]):
        while taken < 80 and not trimtab.should_stop():
            training.step()
            taken += 1
    assert taken < 80


def test_rate_of_optimizers_in_backward_is_scaled_for_all_of_them(watching):
    training = InBackward()
    policies = [trimtab.Policy(on="late", ladder=[ScaleLearningRate(0.5)], budget=1)]
    with watching(act="process", rules=[LATE], policies=policies) as seen:
        for _ in range(11):
            training.step()
        before = [p.detach().clone() for p in training.model.parameters()]
        training.step()
        gradients = torch.autograd.grad(
            F.mse_loss(
                torch.nn.functional.linear(torch.ones(8, 4), *(b.requires_grad_() for b in before)), torch.zeros(8, 1)
            ),
            before,
        )
    moved = [b - p for b, p in zip(before, training.model.parameters(), strict=True)]
    assert all(torch.allclose(m, 0.05 * g) for m, g in zip(moved, gradients, strict=True))
    assert seen.steps()[-1].learning_rate == pytest.approx([0.05])


class BesideAnother(InBackward):
    """The same below a layer that has an optimizer of the usual kind."""

    def __init__(self):
        super().__init__()
        self.optimizers = {p: torch.optim.SGD([p], lr=0.1, momentum=0.9) for p in self.model.parameters()}
        self.above = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.above.parameters(), lr=0.1)

    def step(self):
        self.optimizer.zero_grad()
        F.mse_loss(self.above(self.model(torch.ones(8, 4))), torch.zeros(8, 1)).backward()
        self.optimizer.step()
        states = [self.optimizers[p].state[p]["momentum_buffer"] for p in self.model.parameters()]
        return [tensor.detach().clone() for tensor in (*self.model.parameters(), *self.above.parameters(), *states)]


def test_rollback_turns_back_optimizers_inside_backward_with_the_one_beside_them(watching):
    training, rule = BesideAnother(), trimtab.Rule("back", signal="logged:back", threshold=0.5)
    policy = trimtab.Policy(on="back", ladder=[RollBack()])
    with watching(act="process", rules=[rule], policies=[policy]) as seen:
        states = [training.step() for _ in range(40)]
        seen.run.log(back=1.0)
        restored = training.step()
    (back,) = seen.run.adjustments
    assert 0 < (step := back.after["weights_of_step"]) < 40
    assert all(map(torch.equal, restored, states[step - 1]))


def test_next_model_that_is_trained_by_hand_is_not_judged_by_the_last_losses_of_the_one_before(watching):
    with watching() as seen:
        for _ in range(4):
            training = ByHand()
            for _ in range(150):
                training.step()
    assert [alert.rule for alert in seen.backend.of(Alert)] == []
