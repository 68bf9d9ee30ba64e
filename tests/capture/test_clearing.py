"""However gradients are cleared, and whoever wrote to them before, a step has the losses of its own backwards."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def written_by_clipping(model, optimizer):
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def written_by_unscaling(model, optimizer, scaler):
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_clipping_of_one_optimizer_is_no_matter_of_the_other(watching, inputs, labels, set_to_none, scaled, together):
    models = [network(), network()]
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
    scalers, own = [torch.amp.GradScaler("cpu") for _ in models], [[], []]

    def begin(index):
        optimizers[index].zero_grad(set_to_none=set_to_none)
        loss = F.cross_entropy(models[index](inputs), labels)
        (scalers[index].scale(loss) if scaled else loss).backward()
        own[index].append(loss.item())

    def end(index):
        if scaled:
            written_by_unscaling(models[index], optimizers[index], scalers[index])
        else:
            written_by_clipping(models[index], optimizers[index])

    with watching() as seen:
        for _ in range(12):
            if together:
                [begin(0), begin(1), end(0), end(1)]
            else:
                begin(0), end(0), begin(1), end(1)
    for index in range(2):
        assert seen.losses(str(index)) == pytest.approx(own[index])


def test_gradients_may_be_cleared_in_another_way_later(watching, model, inputs, labels):
    optimizer, scaler, own = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu"), []

    def loss():
        loss = F.cross_entropy(model(inputs), labels)
        own.append(loss.item())
        return loss

    with watching() as seen:
        for _ in range(40):
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()
        for _ in range(12):
            scaler.scale(loss()).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=False)
    assert seen.losses() == pytest.approx(own)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("every", [1, 1000])
def test_step_that_the_user_leaves_out_when_the_norm_is_not_finite(watching, model, inputs, labels, set_to_none, every):
    optimizer, own, norms = torch.optim.SGD(model.parameters(), 0.1), [], []
    with watching(gradients_every=every) as seen:
        for step in range(60):
            optimizer.zero_grad(set_to_none=set_to_none)
            loss = F.cross_entropy(model(inputs * torch.nan if step in (20, 41) else inputs), labels)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if norm.isfinite():
                optimizer.step()
                own.append(loss.item())
                norms.append(norm.item())
    assert seen.losses() == pytest.approx(own)
    assert [step.gradient_preclip_norm for step in seen.steps()] == pytest.approx(norms)


def test_optimizer_with_a_closure_takes_over(watching, model, inputs, labels):
    first, own = torch.optim.Adam(model.parameters()), []
    with watching() as seen:
        for _ in range(10):
            first.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            first.step()
        first.zero_grad()
        second = torch.optim.LBFGS(model.parameters(), max_iter=2)

        def closure():
            second.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            values.append(loss.item())
            return loss

        for _ in range(3):
            values = []
            second.step(closure)
            own.append(values[0])
    assert seen.losses("1") == pytest.approx(own)


@pytest.mark.parametrize("change", ["frozen", "another model"])
def test_accumulation_after_the_probe_has_no_gradient_any_more(watching, model, inputs, labels, change):
    optimizer, own = torch.optim.SGD(model.parameters(), 0.1), []
    with watching() as seen:
        for step in range(30):
            if step == 20 and change == "frozen":
                model[0].requires_grad_(False)
            elif step == 20:
                model = network()
                optimizer = torch.optim.SGD(model.parameters(), 0.1)
            own.append(0.0)
            for part in range(3):
                loss = F.cross_entropy(model(inputs[part::3]), labels[part::3]) / 3
                loss.backward()
                own[-1] += loss.item()
            optimizer.step()
            optimizer.zero_grad()
    assert [loss for label in seen.optimizers for loss in seen.losses(label)] == pytest.approx(own)


def test_optimizer_that_was_trained_in_a_thread_is_found_here_though_another_is_seen(watching, inputs, labels):
    models = [network(), network()]
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]

    def step(*indices):
        for index in indices:
            optimizers[index].zero_grad()
        loss = sum(F.cross_entropy(models[index](inputs), labels) for index in indices)
        loss.backward()
        for index in indices:
            optimizers[index].step()
        return loss.item()

    with watching() as seen:
        for _ in range(20):
            step(0), step(1)
        thread = threading.Thread(target=step, args=(1,))
        thread.start()
        thread.join()
        own = [step(0, 1) for _ in range(8)]
    assert seen.losses("1")[-7:] == pytest.approx(own[-7:])


def uncleared(seen):
    return [notice for notice in seen.notices if "not cleared" in notice]


def test_gradients_that_are_never_cleared_are_told_of_once(watching, model, inputs, labels):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    with watching() as seen:
        for _ in range(40):
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    (told,) = uncleared(seen)
    assert "optimizer.zero_grad()" in told


def test_accumulation_that_grows_step_by_step_is_no_missing_call(watching, model, inputs, labels):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    with watching() as seen:
        for backwards in [*range(1, 16), *range(1, 16)]:
            for _ in range(backwards):
                F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert uncleared(seen) == []
