"""A run whose values are on a device, as far as a machine without one can tell."""

import math

import pytest
import torch
from torch.nn import functional as F

from trimtab.rules.judge import Judge

pytestmark = pytest.mark.usefixtures("on_a_device")


def applied(seen):
    return [each for each in seen.run.adjustments if each.outcome == "applied"]


def test_nan_in_a_batch_is_told_one_judgement_later_and_undone(watching, training):
    with watching(act="process") as seen:
        training.steps(30)
        training.step(spoil=math.nan)
        training.steps(30)
    assert ("loss_nonfinite", 31) in [(alert.rule, alert.step) for alert in seen.run.alerts]
    (back,) = applied(seen)
    assert (back.action, back.step) == ("roll_back", 32)
    assert back.after["weights_of_step"] <= 30
    assert all(weights.isfinite().all() for weights in training.weights)
    assert training.step() < 1.0


@pytest.mark.parametrize("act", ["process", False])
def test_last_steps_are_judged_when_the_run_ends(watching, training, act):
    with watching(act=act) as seen:
        training.steps(290)
        training.step(spoil=math.nan)
    assert ("loss_nonfinite", 291) in [(alert.rule, alert.step) for alert in seen.run.alerts]
    assert not applied(seen)


def test_steps_are_judged_before_validation_that_rests_on_them(watching, training, monkeypatch):
    compared, losses, validation = [], [], Judge.validation

    def comparing(judge, step, loss, accuracy, train_loss, beginning=None, **options):
        compared.append(train_loss)
        return validation(judge, step, loss, accuracy, train_loss, beginning, **options)

    monkeypatch.setattr(Judge, "validation", comparing)
    with watching():
        for _ in range(3):
            losses.append([training.step() for _ in range(30)])
            with torch.no_grad():
                F.cross_entropy(training.model(training.inputs), training.labels)
    assert compared == [pytest.approx(sum(epoch) / 30) for epoch in losses]


@pytest.mark.parametrize("in_a_row", [2, 3])
def test_overflow_that_only_a_fused_optimizer_knows_of_is_no_alarm_before_the_third(watching, training, in_a_row):
    optimizer = torch.optim.Adam(training.model.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with watching(act="process") as seen:
        for step in range(30):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(training.model(training.inputs), training.labels)).backward()
            if 20 <= step < 20 + in_a_row:
                training.model[0].weight.grad.fill_(torch.inf)
            scaler.step(optimizer)
            scaler.update()
    firing = [alert.rule for alert in seen.run.alerts if alert.state == "firing"]
    assert firing == (["gradient_nonfinite"] if in_a_row > 2 else [])
    assert bool(applied(seen)) == (in_a_row > 2)
    assert seen.end.totals["skipped"] == {"0": {"scaler": in_a_row}}
