"""Under GradScaler everything is shown as it would be without, and steps that it skips are no steps."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import distributed, nn
from torch.amp import GradScaler

from trimtab.sample import books

pytestmark = pytest.mark.usefixtures("warmth")

SCALE = 1024.0


@pytest.fixture(params=["plain", "fused"])
def optimizer(request, model):
    """A fused optimizer is given scaled gradients, and told what to make of them."""
    return torch.optim.AdamW(model.parameters(), lr=0.01, fused=request.param == "fused")


class Own(GradScaler):
    """Scales by itself, as FSDP's does, and steps as the class above it."""

    def scale(self, outputs):
        if self._scale is None:
            self._lazy_init_scale_growth_tracker(torch.device("cpu"))
        return [each * self._scale for each in outputs] if isinstance(outputs, list) else outputs * self._scale

    def step(self, optimizer, *args, **kwargs):
        return super().step(optimizer, *args, **kwargs)


@pytest.fixture(params=[GradScaler, Own])
def scaler(request):
    return request.param("cpu", init_scale=SCALE)


@pytest.fixture
def scaled_step(model, optimizer, scaler, inputs, labels):
    """One step. Returns the loss, and the norm of the gradient that is applied."""

    def scaled_step(*, bad=False, unscale=False, clip=None, parts=1):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels) * (torch.inf if bad else 1.0)
        norm = nn.utils.get_total_norm(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)).item()
        for part in range(parts):
            (scaler.scale(loss) / parts).backward(retain_graph=part < parts - 1)
        if unscale or clip:
            scaler.unscale_(optimizer)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        scaler.step(optimizer)
        scaler.update()
        return loss.item(), norm

    return scaled_step


def norms(seen):
    return [step.gradient_norm for step in seen.steps()]


@pytest.mark.parametrize("unscale", [True, False])
def test_loss_and_gradient_are_unscaled(watching, scaled_step, unscale):
    with watching() as seen:
        taken = [scaled_step(unscale=unscale) for _ in range(3)]
    assert seen.losses() == pytest.approx([loss for loss, _ in taken])
    assert norms(seen) == pytest.approx([norm for _, norm in taken])
    assert all(step.gradient_max_abs < 10 for step in seen.steps())


@pytest.mark.parametrize("unscale", [True, False])
def test_skipped_steps_are_counted_and_are_no_steps(watching, scaled_step, unscale):
    with watching() as seen:
        taken = [scaled_step(bad=bad, unscale=unscale) for bad in (False, True, False, True, False)]
    assert seen.losses() == pytest.approx([loss for loss, _ in taken[::2]])
    assert norms(seen) == pytest.approx([norm for _, norm in taken[::2]])
    assert seen.end.totals["steps"] == {"0": 3}
    assert seen.end.totals["skipped"] == {"0": {"scaler": 2}}


@pytest.mark.parametrize("in_a_row", [2, 3])
def test_overflow_is_no_alarm_before_the_third_in_a_row(watching, model, optimizer, scaler, inputs, labels, in_a_row):
    with watching(act="process") as seen:
        for step in range(12):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(inputs), labels)).backward()
            if 12 - 4 - in_a_row <= step < 12 - 4:  # the loss is finite, and its scale too large
                next(model.parameters()).grad.fill_(torch.inf)
            scaler.step(optimizer)
            scaler.update()
    assert seen.end.totals["skipped"] == {"0": {"scaler": in_a_row}}
    firing = [alert.rule for alert in seen.run.alerts if alert.state == "firing"]
    assert firing == (["gradient_nonfinite"] if in_a_row == 3 else [])
    assert bool(seen.run.adjustments) == (in_a_row == 3)


def test_first_step_that_is_skipped_is_counted(watching, scaled_step):
    with watching() as seen:
        scaled_step(bad=True)
    assert seen.end.totals["skipped"] == {"0": {"scaler": 1}}
    assert seen.end.totals["steps"] == {"0": 0}


def test_infinite_loss_of_a_skipped_step_is_counted(watching, scaled_step):
    with watching() as seen:
        scaled_step()
        scaled_step(bad=True)
    assert seen.end.totals["nonfinite"] == {"loss": 1}


def test_clipping_after_unscaling_shows_both_norms_unscaled(watching, scaled_step):
    with watching() as seen:
        taken = [scaled_step(clip=0.05) for _ in range(3)]
    assert [step.gradient_preclip_norm for step in seen.steps()] == pytest.approx([norm for _, norm in taken])
    assert norms(seen) == pytest.approx([0.05] * 3, rel=1e-4)
    assert seen.losses() == pytest.approx([loss for loss, _ in taken])


def test_skipped_step_leaves_no_norm_for_the_next(watching, scaled_step):
    with watching() as seen:
        scaled_step(bad=True, clip=0.05)
        _, norm = scaled_step(clip=0.05)
    assert [step.gradient_preclip_norm for step in seen.steps()] == [pytest.approx(norm)]


def test_skipped_step_does_not_spoil_the_record_it_is_folded_into(watching, scaled_step, monkeypatch):
    monkeypatch.setattr(books, "RECORD_INTERVAL_S", 3600.0)
    with watching() as seen:
        taken = [scaled_step(bad=bad, clip=0.05) for bad in (False, False, True, False)]
    applied = [norm for (loss, norm) in taken[1:] if norm < torch.inf]
    assert seen.steps()[-1].skipped == {"scaler": 1}
    assert seen.steps()[-1].gradient_steps == 2
    assert norms(seen)[-1] == pytest.approx(0.05, rel=1e-4)
    assert seen.steps()[-1].gradient_preclip_norm == pytest.approx(sum(applied) / 2)


def test_part_of_a_scaled_loss_is_that_part_of_the_loss(watching, scaled_step):
    with watching() as seen:
        taken = [scaled_step(parts=2) for _ in range(3)]
    assert seen.losses() == pytest.approx([loss for loss, _ in taken])
    assert [step.micro_steps for step in seen.steps()] == [2, 2, 2]


def test_class_of_scalers_that_is_made_later_is_seen(watching, model, optimizer, inputs, labels):
    with watching() as seen:

        class Later(Own):
            def scale(self, outputs):
                return super().scale(outputs)

        scaler, losses = Later("cpu", init_scale=SCALE), []
        for factor in (1.0, torch.inf, 1.0):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels) * factor
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
    assert seen.losses() == pytest.approx(losses[::2])
    assert seen.end.totals["skipped"] == {"0": {"scaler": 1}}
    assert Later.scale.__qualname__.endswith("Later.scale")  # nothing stays patched


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("is_there_before", [True, False])
def test_class_of_scalers_that_nobody_may_set_anything_of_trains_as_ever(
    watching, model, optimizer, inputs, labels, is_there_before
):
    closed = [True]  # until the test is over: the class may outlive it

    class Closed(type):
        def __setattr__(cls, name, value):
            if closed:
                raise TypeError(f"{name} is final")
            super().__setattr__(name, value)

    def make():
        class Final(GradScaler, metaclass=Closed):
            def step(self, optimizer):
                return super().step(optimizer)

        return Final

    final = make() if is_there_before else None
    with watching() as seen:
        scaler = (final or make())("cpu", init_scale=SCALE)
        loss = F.cross_entropy(model(inputs), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    closed.clear()
    assert seen.losses() == pytest.approx([loss.item()])


def test_losses_scaled_as_a_list_are_unscaled(watching, model, optimizer, scaler, inputs, labels):
    with watching() as seen:
        losses = [F.cross_entropy(model(inputs), labels), model(inputs).square().mean()]
        for loss in scaler.scale(losses):
            loss.backward()
        scaler.step(optimizer)
    assert seen.losses() == [pytest.approx(sum(loss.item() for loss in losses))]


@pytest.mark.parametrize("act", [False, "process"])
def test_scaler_that_is_not_enabled_changes_nothing(watching, model, optimizer, inputs, labels, act):
    scaler = GradScaler("cpu", enabled=False)
    with watching(act=act) as seen:  # which takes a snapshot, and such a scaler has no state
        loss = F.cross_entropy(model(inputs), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
    assert seen.losses() == [pytest.approx(loss.item())]
    assert seen.end.totals["skipped"] == {}


def test_autocast_loss_is_its_value(watching, model, optimizer, scaler, inputs, labels):
    with watching() as seen:
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(inputs), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
    assert seen.losses() == [pytest.approx(loss.item())]


def test_two_optimizers_under_one_scaler_are_skipped_each_on_its_own(watching, model, scaler, inputs, labels):
    other = nn.Linear(4, 3)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other)]
    with watching() as seen:
        for bad in (False, True):
            for m, optimizer in zip((model, other), optimizers, strict=True):
                optimizer.zero_grad()
                factor = torch.inf if bad and m is other else 1.0
                scaler.scale(F.cross_entropy(m(inputs), labels) * factor).backward()
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
    assert seen.end.totals["steps"] == {"0": 2, "1": 1}
    assert seen.end.totals["skipped"] == {"1": {"scaler": 1}}


def kind_of_scaler():
    """A class that multiplies for itself, as `ShardedGradScaler` of FSDP does."""

    class OfItsOwn(GradScaler):
        def scale(self, outputs):
            if self._scale is None:
                self._lazy_init_scale_growth_tracker(outputs.device)
            return outputs * self._scale

        def unscale_(self, optimizer):
            return super().unscale_(optimizer)

    return OfItsOwn


def kind_that_asks_its_parent():
    class Asking(GradScaler):
        def scale(self, outputs):
            return super().scale(outputs) * 1.0

    return Asking


@pytest.mark.parametrize("kind_of", [kind_of_scaler, kind_that_asks_its_parent])
@pytest.mark.parametrize("is_known", [True, False])
def test_scaler_with_ways_of_its_own_is_seen_through(watching, model, inputs, labels, kind_of, is_known):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kind = kind_of() if is_known else None
    losses = []
    with watching() as seen:
        scaler = (kind or kind_of())("cpu", init_scale=SCALE)
        for _ in range(3):
            loss = F.cross_entropy(model(inputs), labels)
            losses.append(loss.item())
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=False)
        assert len(seen.run._capture._scaled.recent) == 0
    assert seen.losses() == pytest.approx(losses)
    assert [step.micro_steps for step in seen.steps()] == [1, 1, 1]


def test_scaler_of_fsdp_is_seen_through(watching, model, inputs, labels, tmp_path):
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    try:
        with watching() as seen:
            loss = F.cross_entropy(model(inputs), labels)
            scaler = ShardedGradScaler("cpu", init_scale=SCALE)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
    finally:
        distributed.destroy_process_group()
    assert seen.losses() == pytest.approx([loss.item()])


def test_graph_of_a_scaled_loss_that_is_left_out_is_let_go(watching, model, inputs, labels):
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), GradScaler("cpu", init_scale=SCALE)
    kept = []
    with watching() as seen:
        for is_left_out in (False, True, False):
            hidden = model[:2](inputs)
            kept.append(weakref.ref(hidden))  # which the graph saves
            loss = scaler.scale(F.cross_entropy(model[2](hidden), labels))
            if not is_left_out:
                loss.backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        del hidden, loss
        gc.collect()
        assert [hidden() for hidden in kept] == [None, None, None]
    assert len(seen.steps()) == 2


def test_loss_computed_from_many_scaled_ones_is_unscaled(watching, model, inputs, labels):
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), GradScaler("cpu", init_scale=SCALE)
    with watching() as seen:
        losses = [F.cross_entropy(model(inputs), labels) for _ in range(4)]
        torch.stack([scaler.scale(loss) for loss in losses]).mean().backward()
        scaler.step(optimizer)
    assert seen.losses() == pytest.approx([losses[0].item()])


def test_step_that_another_thread_takes_under_its_own_scaler_is_not_skipped(watching):
    """Both threads are within `GradScaler.step` at once. The one has taken a step more than the other by then."""
    barrier = threading.Barrier(2, timeout=60)

    class Waiting(torch.optim.SGD):
        waits = False

        def step(self, closure=None):
            if self.waits:
                barrier.wait()
            super().step(closure)
            if self.waits:
                barrier.wait()

    def train(steps_alone):
        parameter = nn.Parameter(torch.ones(3))
        optimizer, scaler = Waiting([parameter], lr=0.01), GradScaler("cpu", init_scale=SCALE)
        for step in range(steps_alone + 3):
            optimizer.waits = step >= steps_alone
            optimizer.zero_grad()
            scaler.scale(parameter.square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()

    with watching() as seen, ThreadPoolExecutor(2) as threads:
        list(threads.map(train, (1, 2)))
    assert sorted(seen.end.totals["steps"].values()) == [4, 5]
    assert not any(seen.end.totals["skipped"].values())
