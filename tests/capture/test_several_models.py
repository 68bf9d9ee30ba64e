"""One optimizer of several models, or of several heads: a backward reaches a part of its parameters, which changes."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trimtab.capture import attribution

STEPS = 100  # more than graphs are walked for backwards that reach nobody

# Which heads have a backward in a step.
ORDERS = {
    "always the same": lambda step, draw: [0, 1, 2],
    "there and back": lambda step, draw: [0, 1, 2] if step % 2 else [2, 1, 0],
    "in turns": lambda step, draw: [step % 3],
    "one of them seldom": lambda step, draw: [0, 1] if step % 10 else [2],
    "some": lambda step, draw: draw.sample(range(3), draw.randint(1, 3)),
}


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("trunk", [nn.Identity, lambda: nn.Linear(4, 4)], ids=["apart", "one trunk"])
@pytest.mark.parametrize("order", ORDERS)
def test_every_backward_of_a_step_counts(watching, inputs, labels, order, trunk, set_to_none):
    draw, body = random.Random(0), trunk()
    heads = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in range(3))
    optimizer, own = torch.optim.Adam([*heads.parameters(), *body.parameters()], lr=0.003), []
    with watching(gradients_every=1000) as seen:
        for step in range(STEPS):
            own.append(0.0)
            for head in ORDERS[order](step, draw):
                loss = F.cross_entropy(heads[head](body(inputs)), labels)
                loss.backward()
                own[-1] += loss.item()
            optimizer.step()
            optimizer.zero_grad(set_to_none=set_to_none)
            if step % 7 == 6:
                with torch.no_grad():
                    F.cross_entropy(heads[0](body(inputs)), labels)
    assert seen.losses() == pytest.approx(own)


def test_what_reaches_one_optimizer_as_ever_counts_for_another_of_which_it_reaches_another_part(
    watching, inputs, labels
):
    models = [nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in range(4)]
    optimizers = [torch.optim.SGD([*models[i].parameters(), *models[i + 2].parameters()], lr=0.01) for i in range(2)]
    own = [[], []]
    with watching(gradients_every=1000) as seen:
        for step in range(STEPS):
            part = ([1, 3, 0], [2, 1], [0, 1, 2, 3])[step % 3]
            loss = sum(F.cross_entropy(models[i](inputs), labels) for i in part)
            loss.backward()
            for index, optimizer in enumerate(optimizers):
                optimizer.step()
                optimizer.zero_grad()
                own[index].append(loss.item())
    assert [seen.losses(label) for label in ("0", "1")] == [pytest.approx(losses) for losses in own]


def test_graphs_are_not_walked_for_parts_that_are_known(watching, inputs, labels, monkeypatch):
    """As in a CycleGAN, where one optimizer has two critics, each with a backward of its own."""
    walks = []

    def counted(roots, walk=attribution.reach_of):
        walks.append(roots)
        return walk(roots)

    monkeypatch.setattr(attribution, "reach_of", counted)
    critics, maker = [nn.Linear(3, 3) for _ in range(2)], nn.Linear(4, 3)
    of_critics = torch.optim.SGD([p for critic in critics for p in critic.parameters()], lr=0.01)
    of_maker = torch.optim.SGD(maker.parameters(), lr=0.01)
    own = [[], []]
    with watching(gradients_every=1000) as seen:
        for _ in range(STEPS):
            for critic in critics:
                critic.requires_grad_(False)
            loss = F.cross_entropy(critics[0](critics[1](maker(inputs))), labels)
            of_maker.zero_grad()
            loss.backward()
            of_maker.step()
            own[0].append(loss.item())
            for critic in critics:
                critic.requires_grad_(True)
            of_critics.zero_grad()
            losses = [F.cross_entropy(critic(maker(inputs).detach()), labels) for critic in critics]
            for loss in losses:
                loss.backward()
            of_critics.step()
            own[1].append(sum(losses).item())
    assert [seen.losses(label) for label in ("0", "1")] == [pytest.approx(losses) for losses in own]
    assert len(walks) < STEPS  # of three backwards each
