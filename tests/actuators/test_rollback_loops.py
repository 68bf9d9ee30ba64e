"""Whole loops are rolled back in the middle, at the boundary that is found, and go on as if restored by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trimtab.actuators.cycle import Cycle
from trimtab.actuators.parts import Parts
from trimtab.actuators.snapshots import Snapshots

WANTED_AT = 8  # rounds of the loop
TAKEN_AT = 4


class Loop:
    """Two models, two optimizers, and what the run would tell of their steps and backwards."""

    def __init__(self):
        torch.manual_seed(3)
        self.g = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
        self.d = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
        self.optimizers = {"g": torch.optim.Adam(self.g.parameters()), "d": torch.optim.Adam(self.d.parameters())}
        self.parts = Parts(models={"g": self.g, "d": self.d}, optimizers=self.optimizers)
        self.cycle, self.data = Cycle(), torch.Generator().manual_seed(5)
        self.at_boundary = lambda label: None
        self.round = 0

    def noise(self):
        return torch.randn(8, 2, generator=self.data)

    def backward(self, loss):
        first = {label: optimizer.param_groups[0]["params"][0] for label, optimizer in self.optimizers.items()}
        before = {label: None if p.grad is None else p.grad._version for label, p in first.items()}
        loss.backward()
        for label, parameter in first.items():
            if parameter.grad is not None and parameter.grad._version != before[label]:
                self.cycle.backward(label, cleared=before[label] is None)

    def step(self, label):
        self.optimizers[label].step()
        if self.cycle.stepped(label):
            self.at_boundary(label)

    def zero(self, label):
        self.optimizers[label].zero_grad()

    def bits(self):
        things = [self.g, self.d, *self.optimizers.values()]
        return [tensor.tolist() for thing in things for tensor in tensors_of(copy.deepcopy(thing.state_dict()))]


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)


def loss_of(logits, real):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def discriminator_first(loop):
    fake = loop.g(loop.noise())
    loop.zero("d")
    loop.backward(loss_of(loop.d(loop.noise()), 1) + loss_of(loop.d(fake.detach()), 0))
    loop.step("d")
    loop.zero("g")
    loop.backward(loss_of(loop.d(fake), 1))
    loop.step("g")


def generator_first(loop):
    fake = loop.g(loop.noise())
    loop.zero("g")
    loop.backward(loss_of(loop.d(fake), 1))
    loop.step("g")
    loop.zero("d")
    loop.backward(loss_of(loop.d(loop.noise()), 1) + loss_of(loop.d(fake.detach()), 0))
    loop.step("d")


def both_backwards_first(loop):
    fake = loop.g(loop.noise())
    loop.zero("g")
    loop.backward(loss_of(loop.d(fake), 1))
    loop.zero("d")
    loop.backward(loss_of(loop.d(fake.detach()), 0))
    loop.step("g")
    loop.step("d")


def one_loss(loop):
    loop.zero("g")
    loop.zero("d")
    loop.backward(loss_of(loop.d(loop.g(loop.noise())), 1))
    loop.step("g")
    loop.step("d")


def five_critic_steps(loop):
    for _ in range(5):
        fake = loop.g(loop.noise())
        loop.zero("d")
        loop.backward(loop.d(fake.detach()).mean() - loop.d(loop.noise()).mean())
        loop.step("d")
    loop.zero("g")
    loop.backward(-loop.d(fake).mean())
    loop.step("g")


def accumulating(loop):
    loop.zero("g")
    loop.zero("d")
    for _ in range(3):
        loop.backward(loss_of(loop.d(loop.g(loop.noise())), 1) / 3)
    loop.step("d")
    loop.step("g")


ROUNDS = [discriminator_first, generator_first, both_backwards_first, one_loss, five_critic_steps, accumulating]


@pytest.mark.parametrize("one_round", ROUNDS)
def test_loop_goes_on_as_if_restored_by_hand_at_the_end_of_a_round(one_round):
    watched, bare = Loop(), Loop()
    snapshots, done, saved = Snapshots(), [], None

    def act(label):
        now = watched.round
        if now == TAKEN_AT:
            snapshots.take(watched.parts, now)
        if now == WANTED_AT and not done and snapshots.may_restore(watched.parts):
            done.append(snapshots.roll_back(watched.parts, now))
            watched.cycle.dropped()

    watched.at_boundary = act
    for now in range(WANTED_AT + 6):
        watched.round = now
        one_round(watched)
        one_round(bare)
        if now == TAKEN_AT:
            saved = copy.deepcopy([thing.state_dict() for thing in (bare.g, bare.d, *bare.optimizers.values())])
        if now == WANTED_AT:
            for thing, state in zip((bare.g, bare.d, *bare.optimizers.values()), saved, strict=True):
                thing.load_state_dict(state)
    assert done
    assert watched.bits() == bare.bits()


def test_loop_whose_order_was_taken_for_another_waits_for_its_pending_graph():
    loop, blocked, done = Loop(), [], []
    snapshots = Snapshots()
    snapshots.meet(loop.parts)

    def act(label):
        if done or loop.round < WANTED_AT:
            return
        if snapshots.may_restore(loop.parts):
            done.append((label, snapshots.roll_back(loop.parts, loop.round)))
        else:
            blocked.append(label)
            loop.cycle.blocked(label)

    loop.at_boundary = act
    for _ in range(3):  # the generator is met first, which steps last in every round to come
        loop.zero("g")
        loop.backward(loop.g(loop.noise()).square().mean())
        loop.step("g")
    for loop.round in range(3, WANTED_AT + 6):
        discriminator_first(loop)
    assert blocked == ["d"] * 3
    assert [label for label, _ in done] == ["g"]
