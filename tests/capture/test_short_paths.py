"""Most steps take short paths through the hooks. They say what the long ones say, which are taken on sampled steps."""

import dataclasses

import pytest
from kinds_of_loops import LOOPS, STEPS, Loop

from trimtab.capture import attribution
from trimtab.types import Epoch, Step

SAID = ("loss", "micro_steps", "samples", "learning_rate", "epoch", "batch", "batches", "steps", "step", "skipped")


def said(seen):
    """Everything but times, gradients, and accuracies in training, which are sampled."""
    for event in seen.backend.events:
        if isinstance(event, Step):
            accuracy = event.accuracy if event.phase == "validation" else None
            yield event.phase, event.optimizer, accuracy, *(getattr(event, name) for name in SAID)
        elif isinstance(event, Epoch):
            train = dataclasses.replace(event.train, accuracy=None, accuracy_samples=None)
            yield event.epoch, event.step, train, event.validation


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_short_paths_say_what_the_long_ones_say(watching, monkeypatch, loop):
    monkeypatch.setattr(attribution, "WARM_UP_WALKS", 10_000)
    with watching(run="long", gradients_every=1) as long:
        loop(Loop())
    monkeypatch.setattr(attribution, "WARM_UP_WALKS", 2)
    with watching(run="short", gradients_every=1000) as short:
        loop(Loop())
    assert list(map(repr, said(short))) == list(map(repr, said(long)))
    assert len(short.steps()) >= STEPS // 2
