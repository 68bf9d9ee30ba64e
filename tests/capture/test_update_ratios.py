"""Update ratios of loops: true for every optimizer, taken now and then, and of steps that were taken only."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.amp import GradScaler

import trimtab
from trimtab.sample.updates import Weights
from trimtab.searches import living
from trimtab.testing import RecordingBackend

OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda ps: torch.optim.AdamW(ps, lr=0.01),
    "fused": lambda ps: torch.optim.AdamW(ps, lr=0.01, fused=True),
    "foreach": lambda ps: torch.optim.RMSprop(ps, lr=0.01, foreach=True),
}


@pytest.fixture
def step(model, inputs, labels):
    """`step(optimizer)` trains once. Returns the true ratio of every parameter."""

    def step(optimizer):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        after = model.named_parameters()
        return {name: ((p - before[name]).norm() / before[name].norm()).item() for name, p in after}

    return step


def ratios(seen, optimizer="0"):
    """One mapping for each step, of the layers that have a ratio."""
    found = [step.layers or {} for step in seen.steps(optimizer)]
    return [{n: each.update_ratio for n, each in layers.items() if each.update_ratio is not None} for layers in found]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_ratio_is_what_the_optimizer_did(watching, model, step, optimizer):
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    with watching() as seen:
        true = [step(optimizer) for _ in range(9)]
    assert ratios(seen)[0] == pytest.approx(true[0], rel=1e-4)
    assert ratios(seen)[8] == pytest.approx(true[8], rel=1e-4)


def test_run_that_is_over_and_held_holds_no_copy_of_weights(model, step, tmp_path):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {id(each) for each in living(Weights) if each._buffers}
    with trimtab.watch(run="held", directory=tmp_path, backends=[RecordingBackend()]) as run:
        step(optimizer)
        assert [each for each in living(Weights) if each._buffers and id(each) not in before]
    assert run.closed
    assert not [each for each in living(Weights) if each._buffers and id(each) not in before]


def test_ratios_are_taken_on_every_eighth_sample_of_a_given_interval(watching, model, step):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching(gradients_every=2) as seen:
        for _ in range(40):
            step(optimizer)
    assert [index for index, found in enumerate(ratios(seen)) if found] == [0, 16, 32]


def test_on_other_steps_nothing_is_copied(watching, model, step, monkeypatch):
    held, hold = [], Weights.hold
    monkeypatch.setattr(Weights, "hold", lambda *args: (held.append(1), hold(*args))[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching():
        for _ in range(17):
            step(optimizer)
    assert len(held) == 3


def test_shared_layer_has_one_ratio(watching):
    embedding, head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, head)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = embedding.weight.detach().clone()
    with watching() as seen:
        F.cross_entropy(model(torch.arange(5)), torch.arange(5)).backward()
        optimizer.step()
    true = ((embedding.weight - before).norm() / before.norm()).item()
    assert ratios(seen) == [pytest.approx({"0.weight": true}, rel=1e-4)]


def test_closure_that_moves_the_weights_is_no_update(watching, model, inputs, labels):
    """As sharpness-aware optimizers do: up the hill, and back before the step."""

    class Sharp(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure):
            moved = [p for group in self.param_groups for p in group["params"]]
            torch._foreach_add_(moved, 1.0)
            with torch.enable_grad():
                closure()
            torch._foreach_sub_(moved, 1.0)
            torch._foreach_mul_(moved, 0.5)

    optimizer = Sharp(model.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    with watching() as seen:
        optimizer.step(closure)
    assert list(ratios(seen)[0].values()) == pytest.approx([0.5] * 4, rel=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_skipped_step_has_no_ratio(watching, model, inputs, labels, fused):
    optimizer, scaler = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused), GradScaler("cpu")
    with watching() as seen:
        for factor in (torch.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(inputs), labels) * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    (found,) = ratios(seen)
    assert len(found) == 4
    assert all(0 < ratio < 1 for ratio in found.values())


def test_step_that_raised_has_no_part_in_the_next_ratio(watching, model, step):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = optimizer.register_step_post_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("user's own")))
    with watching() as seen:
        with pytest.raises(RuntimeError, match="user's own"):
            step(optimizer)
        handle.remove()
        step(optimizer)
    assert ratios(seen) == [{}]


def test_folded_steps_keep_the_ratio_of_the_one_that_has_it(watching, model, step, monkeypatch):
    monkeypatch.setattr("trimtab.sample.books.RECORD_INTERVAL_S", 1e9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        true = [step(optimizer) for _ in range(10)]
    assert [event.steps for event in seen.steps()] == [1, 9]
    assert ratios(seen)[1] == pytest.approx(true[8], rel=1e-4)
