"""On a device no step waits, whether it is sampled or not, and numbers are those of the CPU."""

import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
import torch
import torch.nn.functional as F
from on_device import DEVICE, Split, Training, equal

from trimtab.capture import share
from trimtab.sample import books
from trimtab.sample.gradients import take

OPTIMIZERS = {
    "plain": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable": {"capturable": True},
}


@pytest.mark.parametrize("interval_s", [0.0, 3600.0], ids=["a record a step", "one record"])
@pytest.mark.parametrize("every", [1, 1000], ids=["sampled", "unsampled"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_no_step_waits_for_the_device(watching, monkeypatch, training, no_waiting, kind, every, interval_s):
    monkeypatch.setattr(books, "RECORD_INTERVAL_S", interval_s)
    loop = training(**OPTIMIZERS[kind])
    with watching(gradients_every=every) as seen:
        loop.step(clip=1.0)
        with no_waiting():
            loop.steps(40, parts=3, clip=1.0)  # each longer than the device lags
    assert seen.end.totals["steps"] == {"0": 41}
    assert seen.end.totals["faults"] == {}


@pytest.mark.skipif(DEVICE != "sim", reason="needs a device that counts its kernels: run with DEVICE=sim")
@pytest.mark.parametrize(("parts", "own"), [(1, 1), (2, 26)], ids=["plain", "accumulated"])
@pytest.mark.parametrize("act", [False, "process"])
def test_kernels_that_an_ordinary_step_launches(watching, monkeypatch, training, parts, own, act):
    """One to keep the loss; where the objective is not what the loss function returned, those of its own mean."""
    monkeypatch.setattr(books, "RECORD_INTERVAL_S", 3600.0)

    def launched(loop):
        counts = []
        for _ in range(64):
            before = torch.ops.sim.launched()
            loop.step(parts=parts)
            counts.append(torch.ops.sim.launched() - before)
        return median(counts)

    loop = training()
    bare = launched(loop)
    with watching(gradients_every=1000, act=act):
        loop.steps(40, parts=parts)
        assert launched(loop) - bare == own


def test_what_would_wait_is_noticed(training, no_waiting):
    loop = training()
    with no_waiting(), pytest.raises(RuntimeError):
        loop.step().item()


def test_validation_does_not_wait_for_the_device(watching, training, no_waiting):
    loop = training()
    with watching() as seen:
        loop.step()
        with no_waiting():
            for _ in range(3):
                loop.validate()
    assert seen.validations[0].samples == 18


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_is_bit_equal(watching, training, kind):
    bare = training(**OPTIMIZERS[kind])
    bare.steps(20, clip=1.0)
    watched = training(**OPTIMIZERS[kind])
    with watching(act="process"):
        watched.steps(20, clip=1.0)
    assert equal(bare.state, watched.state)


def test_values_are_those_of_the_moment(watching, training):
    loop = training()
    with watching() as seen:
        losses = []
        for _ in range(5):
            loss = loop.step()
            losses.append(loss.clone())
            loss.zero_()
    assert seen.losses() == pytest.approx(torch.stack(losses).tolist())
    assert all(step.gradient_norm > 0 for step in seen.steps())


def numbers_of(seen):
    """What a run said of its steps, but for times."""
    for step in seen.steps():
        layers = [(name, s.mean, s.variance, s.norm, s.max_abs, s.update_ratio) for name, s in step.layers.items()]
        yield step.step, step.micro_steps, step.samples, step.learning_rate, layers
        yield step.loss, step.accuracy, step.gradient_mean, step.gradient_variance, step.gradient_preclip_norm


def test_numbers_are_those_of_the_cpu(watching, device):
    said = []
    for place in (device, torch.device("cpu")):
        loop = Training(place, torch.optim.SGD)
        loop.model[3].p = 0.0  # a device draws numbers of its own
        with watching() as seen:
            for _ in range(2):
                for _ in range(5):
                    loop.step(parts=3, clip=1.0)
                loop.validate()
        said.append((list(numbers_of(seen)), [(e.train, e.validation) for e in seen.epochs]))
    assert repr(rounded(said[0])) == repr(rounded(said[1]))


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.3g}") if abs(value) > 1e-6 else 0.0
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return (
        value if not hasattr(value, "__dataclass_fields__") else rounded([getattr(value, n) for n in value.__slots__])
    )


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_every_micro_batch_of_the_first_step_counts(watching, training, parts):
    loop = training()
    with watching() as seen:
        losses = loop.steps(4, parts=parts)
    assert [step.micro_steps for step in seen.steps()] == [parts] * 4
    assert seen.losses() == pytest.approx(torch.stack(losses).tolist(), rel=0.1)  # dropout differs between the parts


@pytest.mark.parametrize("clears", [False, True], ids=["never cleared", "cleared unseen"])
def test_gradients_that_outlive_their_step_are_those_of_the_cpu(watching, monkeypatch, device, clears):
    """`zero_grad` is missing, or `p.grad.data.zero_()` clears, which moves no version: one look tells, for good."""
    said, looks = [], []
    monkeypatch.setattr(share, "has_any", lambda gradient: looks.append(1) or bool(gradient.any()))
    for place in (torch.device("cpu"), device):
        loop = Training(place, torch.optim.SGD, lr=1e-4)
        loop.model[3].p = 0.0
        with watching() as seen:
            for _ in range(30):
                loop.loss().backward()
                loop.optimizer.step()
                for parameter in loop.model.parameters():
                    if clears:
                        parameter.grad.data.zero_()
        said.append(([step.micro_steps for step in seen.steps()], rounded(seen.losses())))
        assert any("zero_grad" in text for text in seen.notices) == (not clears)
    assert len(looks) == 1
    assert said[0] == said[1]
    assert said[1][0] == ([1] * 30 if clears else list(range(1, 31)))


@pytest.mark.parametrize("parts", [1, 3])
def test_updates_by_hand_that_no_version_tells_of_are_seen_if_each_backward_has_one(watching, training, parts):
    """Nobody waits again for a device that had something in its gradients when it was asked first."""
    loop = training()
    loop.optimizer = None  # which may step yet while it lives
    with watching() as seen:
        for _ in range(6):
            for _ in range(parts):
                loop.loss().backward()
            for parameter in loop.model.parameters():
                parameter.data -= 0.1 * parameter.grad.data
                parameter.grad.data.zero_()
    assert seen.end.totals["steps"] == ({"0": 6} if parts == 1 else {})


SIZES = [(), (1,), (7,), (300, 200), (3, 5, 2, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_statistics_of_gradients_agree_with_float64(device, size, dtype):
    values = torch.randn(size, dtype=torch.complex128 if dtype.is_complex else torch.float64).to(dtype)
    (found,) = take([values.to(device)]).read()
    exact = (torch.view_as_real(values) if dtype.is_complex else values).double().flatten()
    rms = exact.square().mean().sqrt().item()
    assert found.size == exact.numel()
    assert found.mean == pytest.approx(exact.mean().item(), abs=1e-5 * rms)
    assert found.variance == pytest.approx(exact.var(correction=0).item(), rel=1e-5, abs=1e-12)
    assert found.max_abs == pytest.approx(exact.abs().max().item(), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_gradient_hides_what_is_not_finite(device, bad):
    values = torch.randn(50)
    values[17] = bad
    (found,) = take([values.to(device)]).read()
    assert not found.finite


def test_scale_of_a_device_divides(device):
    values, scale = torch.randn(50), torch.tensor(1024.0)
    (found,) = take([(values * scale).to(device)], scale.to(device)).read()
    assert found.norm == pytest.approx(values.norm().item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["foreach", "fused"])
def test_steps_that_the_scaler_skips_are_no_steps(watching, training, kind):
    loop = training(**OPTIMIZERS[kind])
    with watching() as seen:
        losses = [loop.scaled_step(factor) for factor in (1.0, math.inf, 1.0)]
    assert seen.losses() == pytest.approx([losses[0].item(), losses[2].item()])
    assert seen.end.totals["skipped"] == {"0": {"scaler": 1}}
    assert seen.end.totals["nonfinite"]["loss"] == 1
    assert [round(step.gradient_norm) < 10 for step in seen.steps()] == [True, True]


def test_mixed_precision_is_shown_as_it_is(watching, training, device):
    loop = training()
    with watching() as seen:
        losses = []
        for _ in range(3):
            with torch.autocast(device.type, torch.bfloat16):
                loss = loop.loss()
            loop.scaler.scale(loss).backward()
            loop.scaler.step(loop.optimizer)
            loop.scaler.update()
            loop.optimizer.zero_grad()
            losses.append(loss.item())
    assert seen.losses() == pytest.approx(losses)


def test_epoch_is_not_spoilt_by_a_step_in_which_nothing_counts(watching, training):
    loop = training()
    with watching() as seen:
        for labels in (loop.labels, loop.ignored, loop.labels):
            for _ in range(2):
                loop.loss(labels, reduction="sum").backward()
            loop.optimizer.step()
            loop.optimizer.zero_grad()
        loop.validate()
    assert seen.epochs[0].train.criterion > 0


@pytest.fixture
def recorded(device):
    """`recorded(call)` has what it launches recorded for a graph, as `torch.cuda.graph` does."""

    def recorded(call):
        if DEVICE != "sim":
            with torch.cuda.graph(torch.cuda.CUDAGraph()):
                call()
            return
        torch.ops.sim.record(True)
        try:
            call()
        finally:
            torch.ops.sim.record(False)

    return recorded


@pytest.mark.parametrize("act", [False, "process"])
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
def test_recording_a_graph_is_left_alone_and_told(watching, training, recorded, is_known, act):
    loop = training(capturable=True)
    loop.steps(3, clip=1.0)  # outside, as torch asks for
    with watching(act=act) as seen:
        losses = loop.steps(5 if is_known else 0)
        recorded(lambda: (loop.step(clip=1.0), loop.validate()))
        losses += loop.steps(5)
    assert seen.losses() == pytest.approx(torch.stack(losses).tolist())
    assert seen.end.totals["faults"] == {}
    assert any("recorded in a CUDA graph" in text for text in seen.notices) == is_known


def test_optimizers_that_step_in_the_backward_are_seen_in_the_thread_of_the_device(watching, training):
    loop = training()
    parameters = list(loop.model.parameters())
    optimizers = {parameter: torch.optim.SGD([parameter], lr=0.01) for parameter in parameters}

    def step(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(step)
    losses = []
    with watching() as seen:
        for _ in range(5):
            loss = loop.loss()
            loss.backward()
            losses.append(loss.item())
    label = seen.optimizers[0]
    assert seen.losses(label) == pytest.approx(losses)


def test_where_it_trains_is_told_once(watching, training, device):
    loop = training()
    with watching() as seen:
        loop.steps(2)
        training().steps(2)
    (told,) = [text for text in seen.notices if text.startswith("Trains on")]
    assert f"({device.type}:0)" in told


def test_a_run_begins_before_the_script_has_chosen_its_devices(tmp_path):
    """Whoever asks CUDA anything fixes which devices are visible, and keeps forked processes from using any."""
    script = tmp_path / "train.py"
    script.write_text(
        f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import sim, torch
if {DEVICE!r} == "sim":
    sim.register()
import trimtab
module = torch.get_device_module({DEVICE!r})
with trimtab.watch(run="test", directory={str(tmp_path)!r}, backends=["jsonl"]):
    trimtab.log(value=1.0)
assert not module.is_initialized()
assert {DEVICE!r} != "sim" or not module.asked
"""
    )
    subprocess.run([sys.executable, str(script)], check=True, env=os.environ, timeout=120)


def split(*devices, steps):
    """Trains a model that is on two devices. Returns its losses and weights."""
    torch.manual_seed(0)
    model, inputs = Split(*devices), torch.randn(6, 4).to(devices[0])
    labels = torch.tensor([0, 1, 2, 2, 1, 0]).to(devices[1])
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9), []
    for _ in range(steps):
        for part in range(2):
            loss = F.cross_entropy(model(inputs[part::2]), labels[part::2]) / 2
            loss.backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return losses, [p.detach().cpu() for p in model.parameters()]


@pytest.mark.parametrize("act", [False, "process"])
def test_model_on_two_devices(watching, device, act):
    if torch.accelerator.device_count() < 2:
        pytest.skip("needs two devices")
    devices = [torch.device(device.type, index) for index in range(2)]
    losses, weights = split(*devices, steps=20)
    said = []
    for places in (devices, ["cpu", "cpu"]):
        with watching(act=act) as seen:
            found = split(*places, steps=20)
        said.append(list(numbers_of(seen)))
        assert seen.end.totals["faults"] == {}
        if places is devices:
            assert all(map(torch.equal, found[1], weights))
            assert seen.losses() == pytest.approx([sum(losses[i : i + 2]) for i in range(0, 40, 2)])
            assert any(f"{device.type}:0" in text and f"{device.type}:1" in text for text in seen.notices)
    assert repr(rounded(said[0])) == repr(rounded(said[1]))


@pytest.mark.parametrize("second", ["device", "cpu"])
def test_losses_of_two_places_under_one_optimizer(watching, device, second):
    if torch.accelerator.device_count() < 2:
        pytest.skip("needs two devices")
    places = [torch.device(device.type, 0), torch.device(device.type, 1) if second == "device" else torch.device("cpu")]
    parts = [Training(place) for place in places]
    parameters = [p for part in parts for p in part.model.parameters()]
    optimizer, losses = torch.optim.SGD(parameters, lr=0.1), []
    with watching() as seen:
        for step in range(30):
            ordered = parts if step % 2 else parts[::-1]
            both = [part.loss() for part in ordered]
            for loss in both:
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(sum(loss.item() for loss in both))
            if step % 10 == 9:
                for part in ordered:
                    part.validate()
    assert seen.losses() == pytest.approx(losses)
    assert seen.end.totals["faults"] == {}


def test_loss_on_the_cpu_of_a_model_on_a_device(watching, training, device):
    """As of one that is split: the output is brought to the CPU, and the loss is taken there."""
    loop = training()
    with watching() as seen:
        losses = []
        for _ in range(3):
            loss = F.cross_entropy(loop.model(loop.inputs).cpu(), loop.labels.cpu())
            loss.backward()
            loop.optimizer.step()
            loop.optimizer.zero_grad()
            losses.append(loss.item())
    assert seen.losses() == pytest.approx(losses)


def test_two_models_in_turn(watching, training):
    """A GAN: what one backward brings to the other's gradients is cleared."""
    one, other = training(), training()
    with watching() as seen:
        losses = []
        for _ in range(6):
            for player, opponent in ((one, other), (other, one)):
                player.optimizer.zero_grad()
                difference = player.model(one.inputs) - opponent.model(one.inputs)
                loss = player.loss() + 0.1 * difference.square().mean()
                loss.backward()
                player.optimizer.step()
                losses.append(loss.item())
    assert [loss for pair in zip(seen.losses("0"), seen.losses("1"), strict=True) for loss in pair] == pytest.approx(
        losses
    )
