"""On a device a step is judged while the next one is under way, and what was copied has to have arrived."""

import gc
import math

import pytest
import torch
from on_device import equal

import trimtab
from trimtab.actions import ClipGradients, Halt, RollBack, ScaleLearningRate, ScaleWeightDecay, SetDropout


def once(at):
    """A rule that begins to fire with the loss of step `at`."""
    seen = []

    def signal(loss):
        seen.append(loss)
        return float(len(seen) >= at)

    return trimtab.Rule("once", signal=signal, threshold=0.5)


def policy(*ladder):
    return trimtab.Policy(on="once", ladder=list(ladder), budget=1)


def applied(seen):
    return [each for each in seen.run.adjustments if each.outcome == "applied"]


def acting(watching, rule, *ladder, **options):
    return watching(act="process", rules=[rule], policies=[policy(*ladder)], **options)


def rate_used(loop):
    """Takes a step of plain SGD. Returns what it multiplied the gradient with."""
    loop.loss().backward()
    weights = loop.model[4].weight
    before, gradient = weights.detach().clone(), weights.grad.clone()
    loop.optimizer.step()
    loop.optimizer.zero_grad()
    return round(((before - weights.detach()).norm() / gradient.norm()).item(), 3)


@pytest.mark.parametrize("is_tensor", [False, True], ids=["float", "tensor"])
def test_rate_is_scaled_from_the_next_step_on(watching, training, device, is_tensor):
    loop = training(torch.optim.SGD, lr=torch.tensor(0.5, device=device) if is_tensor else 0.5)
    with acting(watching, once(3), ScaleLearningRate(0.5, ramp=1)) as seen:
        used = [rate_used(loop) for _ in range(8)]
    assert len(applied(seen)) == 1
    assert used == [0.5] * 4 + [0.25] * 4  # the third loss is judged with the fourth step
    assert float(loop.optimizer.param_groups[0]["lr"]) == 0.5


@pytest.mark.parametrize("action", [ScaleWeightDecay(2.0), SetDropout(0.5), ClipGradients(0.01, steps=4)], ids=repr)
def test_every_other_action_works_on_a_device(watching, training, action):
    bare = training()
    bare.steps(12)
    loop = training()
    with acting(watching, once(3), action) as seen:
        loop.steps(12)
    assert len(applied(seen)) == 1
    assert not equal(bare.state, loop.state)
    assert seen.end.totals["faults"] == {}


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"capturable": True}], ids=["plain", "fused", "capturable"])
def test_what_is_restored_is_what_was_saved_bit_for_bit(watching, training, options):
    loop, states = training(**options), []
    with acting(watching, once(150), RollBack()) as seen:
        for _ in range(170):
            states.append(loop.state)
            loop.step()
            if applied(seen):
                break
    (back,) = applied(seen)
    assert equal(loop.state, states[back.after["weights_of_step"]])


def test_copies_are_whole_though_the_device_lags_far_behind(watching, training):
    """No step is waited for between them: memory that is given back is used again while it is read or written."""
    loop, rule = training(), trimtab.Rule("often", signal=lambda loss: 1.0, threshold=0.5, hold=6)
    ladder = trimtab.Policy(on="often", ladder=[RollBack()], budget=5, cooldown=6)
    states = []
    with watching(act="process", rules=[rule], policies=[ladder]) as seen:
        for _ in range(80):
            loop.step()
            states.append([p.detach().clone() for p in loop.model.parameters()])
            gc.collect(0)
    assert len(applied(seen)) > 1
    assert all(p.isfinite().all() for p in loop.model.parameters())
    for back in applied(seen):
        assert all(p.isfinite().all() for p in states[back.step - 1])


def test_nan_in_a_batch_is_undone(watching, training):
    loop = training()
    with watching(act="process") as seen:
        loop.steps(30)
        loop.step(spoil=math.nan)
        loop.steps(30)
    assert ("loss_nonfinite", 31) in [(alert.rule, alert.step) for alert in seen.run.alerts]
    assert [each.action for each in applied(seen)] == ["roll_back"]
    assert all(value.isfinite().all() for value in loop.state.values())


def test_overflows_of_a_scaler_are_no_alarm(watching, training):
    loop = training(fused=True)
    with watching(act="process") as seen:
        for step in range(40):
            loop.scaled_step(spoil=math.inf if step in (5, 6, 20) else 1.0)
    assert not seen.run.alerts
    assert seen.end.totals["skipped"] == {"0": {"scaler": 3}}


def test_best_state_is_on_disk_and_put_back(watching, training):
    loop, states = training(), []
    with watching(act="process", policies=[]) as seen:
        for _ in range(4):
            loop.steps(10)
            loop.validate()
            states.append(loop.state)
        loop.steps(4, spoil=-100.0)
        loop.validate()
        assert seen.run.restore_best()
    assert all(loop.state[name].equal(states[3][name]) for name in loop.model.state_dict())


def test_state_that_is_saved_has_arrived(watching, training):
    loop, states = training(), []
    with acting(watching, once(45), Halt()) as seen:
        while not seen.run.should_stop:
            loop.steps(5)
            loop.validate()
            states.append(loop.state)
        loop.steps(1)
    saved = torch.load(seen.run.directory / "best.pt", weights_only=True, map_location="cpu")
    best = states[saved["step"] // 5 - 1]
    assert all(value.equal(best[name]) for name, value in saved["models"]["Sequential"].items())


@pytest.mark.parametrize("where", ["memory", "files"])
def test_a_rate_a_thousand_times_too_high_is_survived(watching, training, where, tmp_path):
    options = {"snapshot_directory": tmp_path / "snapshots"} if where == "files" else {}
    loop = training(torch.optim.SGD, lr=0.2)
    with watching(act="process", **options) as seen:
        loop.steps(60)
        for group in loop.optimizer.param_groups:
            group["lr"] = 2000.0
        loop.steps(200)
    assert applied(seen)
    assert all(value.isfinite().all() for value in loop.state.values())
    assert loop.validate().item() < 1.2


def test_steering_goes_on_after_a_resume(watching, training):
    loop = training(torch.optim.SGD, lr=0.5)
    with acting(watching, once(3), ScaleLearningRate(0.5, ramp=1)):
        loop.steps(8)
    with watching(act="process", policies=[], resume=True):
        assert [rate_used(loop) for _ in range(3)] == [0.25] * 3
