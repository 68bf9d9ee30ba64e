"""Trainings that are no plain loop: bit for bit the same when they are watched, and shown as they saw themselves."""

import random

import pytest
import torch
from kinds_of_training import TRAININGS

SAMPLED = [1, 1000]


def over(trainings):
    return pytest.mark.parametrize("training", trainings, ids=lambda training: training.__name__)


def trained(training):
    """What came of it from the same start, and every bit that it left behind."""
    torch.manual_seed(1)
    random.seed(1)
    own = training()
    weights = [value for model in own.models for value in model.state_dict().values()]
    return own, [*weights, torch.get_rng_state(), torch.tensor(random.getstate()[1])]


@pytest.mark.parametrize("every", SAMPLED)
@over(TRAININGS)
def test_training_is_bit_for_bit_the_same_and_shown_as_it_was(watching, training, every):
    bare, bits_of_bare = trained(training)
    with watching(gradients_every=every) as seen:
        own, bits = trained(training)
    assert len(bits) == len(bits_of_bare)
    assert all(map(torch.equal, bits, bits_of_bare))
    assert repr(own.losses) == repr(bare.losses)
    assert [seen.losses(label) for label in seen.optimizers] == [
        [loss if loss is None else pytest.approx(loss) for loss in losses] for losses in own.losses
    ]
    steps = seen.steps()
    if own.norms is not None:
        norms = [(step.gradient_norm, norm) for step, norm in zip(steps, own.norms, strict=True)][::every]
        assert [shown for shown, _ in norms] == pytest.approx([norm for _, norm in norms], rel=1e-5)
    if own.preclip:
        assert [step.gradient_preclip_norm for step in steps] == pytest.approx(own.preclip)
    if own.rates is not None:
        assert [step.learning_rate for step in steps] == [[rate] for rate in own.rates]
    if own.epochs is not None:
        assert len(seen.epochs) == own.epochs
    if own.validation is not None:
        assert [each.loss for each in seen.validations] == pytest.approx(own.validation)
    assert seen.end.totals["faults"] == {}
