"""Runs with two optimizers are kept, and rolled back, at the end of a round: whatever the order in which they step."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trimtab
from trimtab.actions import RollBack
from trimtab.steering import control

CALLED = trimtab.Rule("called", signal="logged:called", threshold=1.0)
BACK = trimtab.Policy(on="called", ladder=[RollBack()])


class Pair:
    """A generator and a discriminator, and what they were after each round."""

    def __init__(self):
        self.g, self.d = nn.Linear(4, 2), nn.Linear(2, 1)
        self.of_g = torch.optim.Adam(self.g.parameters())
        self.of_d = torch.optim.Adam(self.d.parameters())
        self.rounds = []

    def step_d(self, fake):
        self.of_d.zero_grad()
        loss = F.softplus(self.d(fake.detach())).mean() + F.softplus(-self.d(torch.randn(8, 2))).mean()
        loss.backward()
        self.of_d.step()

    def step_g(self, fake):
        self.of_g.zero_grad()
        F.softplus(-self.d(fake)).mean().backward()
        self.of_g.step()

    def play(self, order, rounds):
        for _ in range(rounds):
            fake = self.g(torch.randn(8, 4))
            for step in order:
                (self.step_g if step == "g" else self.step_d)(fake)
            del fake
            states = [*self.g.state_dict().values(), *self.d.state_dict().values()]
            self.rounds.append(torch.cat([state.flatten() for state in states]))


@pytest.mark.parametrize("order", ["dg", "gd", "dddddg"])
def test_round_that_is_rolled_back_ends_as_an_earlier_one_did(watching, order):
    pair = Pair()
    with watching(act="process", rules=[CALLED], policies=[BACK]) as seen:
        pair.play(order, 80)
        seen.run.log(called=1.0)
        pair.play(order, 1)
        (back,) = seen.run.adjustments
    assert back.outcome == "applied"
    assert back.after["weights_of_step"] > 0
    assert any(pair.rounds[-1].equal(earlier) for earlier in pair.rounds[:-1])


class Alternating:
    """Two halves of one model, updated in turn from gradients that both have accumulated since their own update."""

    def __init__(self):
        self.halves = nn.Linear(4, 4), nn.Linear(4, 1)
        self.optimizers = [torch.optim.Adam(half.parameters()) for half in self.halves]
        self.after = []

    def play(self, rounds):
        for _ in range(rounds):
            for optimizer in self.optimizers:
                inputs = torch.randn(16, 4)
                (self.halves[1](self.halves[0](inputs)) - inputs.sum(1, keepdim=True)).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                states = [p.detach().flatten() for half in self.halves for p in half.parameters()]
                self.after.append(torch.cat(states))


def test_run_whose_cycle_never_ends_is_kept_and_rolled_back_all_the_same(watching):
    loop = Alternating()
    with watching(act="process", rules=[CALLED], policies=[BACK]) as seen:
        loop.play(150)
        seen.run.log(called=1.0)
        loop.play(2)
        (back,) = seen.run.adjustments
    assert back.outcome == "applied"
    assert back.after["weights_of_step"] > 0
    assert any(loop.after[at].equal(earlier) for at in range(300, 304) for earlier in loop.after[:300])


@pytest.mark.parametrize("first", ["rollback", "restore_best"])
def test_gradients_that_went_with_the_weights_are_no_sign_that_cycles_end(watching, monkeypatch, first):
    """They were cleared by us and not by the loop: taken for the loop's, the next rollback would find no moment."""
    monkeypatch.setattr(control, "INTERVAL_S", 0.0)
    loop = Alternating()
    with watching(act="process") as seen:
        loop.play(100)
        if first == "rollback":
            control.send(seen.run.directory, seen.run.id, "adjust", [RollBack()])
            loop.play(2)
        else:
            seen.run.log(phase="validation", loss=1.0)
            loop.play(1)
            assert seen.run.restore_best()
        loop.play(2)
        control.send(seen.run.directory, seen.run.id, "adjust", [RollBack()])
        loop.play(4)
    assert [a.outcome for a in seen.run.adjustments if a.action == "roll_back"][-1] == "applied"
