"""Whose losses are expected to come down."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trimtab
from trimtab.rules.contest import Contest
from trimtab.testing import RecordingBackend
from trimtab.types import Alert


def test_optimizers_that_one_backward_reaches_and_that_apply_other_losses_are_rivals():
    contest, loss = Contest(), object()
    contest.backward("d", loss)
    contest.backward("g", loss)
    contest.step("g", 0.7)
    contest.step("d", 1.4)
    assert contest.involves("g")
    assert contest.involves("d")


def test_optimizers_that_share_a_loss_are_no_rivals():
    contest, loss = Contest(), object()
    contest.backward("muon", loss)
    contest.backward("adam", loss)
    contest.step("muon", 0.7)
    contest.step("adam", 0.7)
    assert not contest.involves("muon")
    assert not contest.involves("adam")


def test_optimizers_of_separate_models_are_no_rivals():
    contest = Contest()
    for optimizer, loss in (("a", 0.7), ("b", 1.4)):
        contest.backward(optimizer, object())
        contest.step(optimizer, loss)
    assert not contest.involves("a")
    assert not contest.involves("b")


def test_optimizer_beside_two_rivals_is_none():
    contest, loss = Contest(), object()
    for optimizer in ("d", "g"):
        contest.backward(optimizer, loss)
    for optimizer, value in (("d", 1.4), ("g", 0.7), ("beside", 0.2)):
        contest.step(optimizer, value)
    assert not contest.involves("beside")


def test_optimizers_that_hold_each_other_fixed_in_turn_are_rivals():
    contest = Contest()
    for _ in range(2):
        for stepping, other, loss in (("g", "d", 0.7), ("d", "g", 1.4)):
            contest.held_fixed([other], stepping)
            contest.step(stepping, loss)
    contest.step("beside", 0.2)
    assert [contest.involves(optimizer) for optimizer in ("g", "d", "beside")] == [True, True, False]


def test_optimizer_that_is_held_fixed_for_good_is_no_rival():
    contest = Contest()
    for optimizer, fixed in (("head", []), ("body", ["head"]), ("body", ["head"])):
        contest.held_fixed(fixed, optimizer)
        contest.step(optimizer, 0.7)
    assert not contest.involves("body")


class Label(str):
    """Counts how often a label is looked up."""

    lookups = 0

    def __hash__(self):
        Label.lookups += 1
        return super().__hash__()


def test_a_call_takes_as_long_as_there_are_optimizers_and_not_as_pairs_of_them():
    contest, labels = Contest(), [Label(number) for number in range(100)]
    for loss in (object(), object()):  # all is new at first, and then nothing is
        Label.lookups = 0
        for label in labels:
            contest.backward(label, loss)
            contest.step(label, 0.7)
            assert not contest.involves(label)
    assert Label.lookups / len(labels) < 5 * len(labels)


def adversaries(steps, *, rate, discriminator_is):
    """A generator that a discriminator with a hundred times its rate overwhelms, and which may be spared then."""
    torch.manual_seed(0)
    generator, discriminator = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    g = torch.optim.Adam(generator.parameters(), lr=1e-4)
    d = torch.optim.Adam(discriminator.parameters(), lr=rate)
    for _ in range(steps):
        made, real = generator(torch.randn(32, 4)), torch.randn(32, 8) + 2
        d.zero_grad()
        verdicts = discriminator(torch.cat([real, made.detach()]))
        F.binary_cross_entropy_with_logits(verdicts, torch.cat([torch.ones(32, 1), torch.zeros(32, 1)])).backward()
        d.step()
        g.zero_grad()
        discriminator.requires_grad_(discriminator_is != "fixed")
        inputs = list(generator.parameters()) if discriminator_is == "spared" else None
        F.binary_cross_entropy_with_logits(discriminator(made), torch.ones(32, 1)).backward(inputs=inputs)
        g.step()
        discriminator.requires_grad_(True)


@pytest.mark.parametrize("discriminator_is", ["written to", "fixed", "spared"])
@pytest.mark.parametrize("rate", [1e-2, 1e-3])
def test_generator_that_loses_ground_has_not_diverged(tmp_path, rate, discriminator_is):
    backend = RecordingBackend()
    with trimtab.watch(backends=[backend], directory=tmp_path, gradients_every=4):
        adversaries(200, rate=rate, discriminator_is=discriminator_is)
    assert [alert.rule for alert in backend.of(Alert)] == []


@pytest.mark.parametrize("attacks", [False, True])
def test_separate_models_are_judged_though_each_backward_is_restricted(tmp_path, attacks):
    """An attack on both has a loss that depends on both, and is the loss of none."""
    torch.manual_seed(0)
    backend, models = RecordingBackend(), [nn.Linear(8, 8), nn.Linear(8, 8)]
    with trimtab.watch(backends=[backend], directory=tmp_path, gradients_every=4):
        both = [torch.optim.SGD(model.parameters(), lr=0.05) for model in models]
        for step in range(200):
            x = torch.randn(32, 8, requires_grad=True)
            if attacks:
                sum(F.mse_loss(model(x), x) for model in models).backward(inputs=[x])
            target = (x.detach() if step < 120 else x.detach() * 20).roll(1)
            for model, optimizer in zip(models, both, strict=True):
                optimizer.zero_grad()
                F.mse_loss(model(x.detach()), target).backward(inputs=list(model.parameters()))
                optimizer.step()
    assert {alert.optimizer for alert in backend.of(Alert) if alert.rule.startswith("loss_")} == {"0", "1"}


def test_partners_are_judged_like_any_other(tmp_path):
    torch.manual_seed(0)
    backend, encoder, decoder = RecordingBackend(), nn.Linear(8, 8), nn.Linear(8, 8)
    with trimtab.watch(backends=[backend], directory=tmp_path, gradients_every=4):
        both = [torch.optim.SGD(part.parameters(), lr=0.05) for part in (encoder, decoder)]
        for step in range(200):
            x = torch.randn(32, 8) * (1 if step < 120 else 20)
            loss = F.mse_loss(decoder(encoder(x)), x)
            for optimizer in both:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in both:
                optimizer.step()
    assert {alert.optimizer for alert in backend.of(Alert) if alert.rule.startswith("loss_")} == {"0", "1"}
