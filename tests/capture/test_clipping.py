import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_ as imported_before

pytestmark = pytest.mark.usefixtures("warmth")


@pytest.fixture
def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.fixture
def step(watching, model, optimizer, inputs, labels):
    """Two steps in which `clip` is called on the gradients. Returns the last step, and its norm before."""

    def step(clip):
        with watching() as seen:
            for _ in range(2):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
                norm = nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()
                clip()
                optimizer.step()
        return seen.steps()[-1], pytest.approx(norm)

    return step


@pytest.mark.parametrize("clip", [nn.utils.clip_grad_norm_, imported_before, nn.utils.clip_grad.clip_grad_norm_])
def test_norm_before_and_after_clipping(step, model, clip):
    shown, norm = step(lambda: clip(model.parameters(), 0.01))
    assert shown.gradient_preclip_norm == norm
    assert shown.gradient_norm == pytest.approx(0.01, rel=1e-4)


def test_norm_that_needs_no_clipping_is_shown_too(step, model):
    shown, norm = step(lambda: nn.utils.clip_grad_norm_(model.parameters(), 1e6))
    assert shown.gradient_preclip_norm == norm
    assert shown.gradient_norm == norm


def test_without_clipping_there_is_no_such_norm(step):
    shown, _ = step(lambda: None)
    assert shown.gradient_preclip_norm is None


@pytest.mark.parametrize("every", [1, None])
def test_norm_that_another_thread_finds_meanwhile_is_none_of_ours(watching, model, optimizer, inputs, labels, every):
    other = nn.Linear(4, 3)
    other(inputs).sum().backward()
    with watching(gradients_every=every) as seen:
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            thread = threading.Thread(target=nn.utils.clip_grad_norm_, args=(other.parameters(), 0.01))
            thread.start()
            thread.join()
            optimizer.step()
    assert {step.gradient_preclip_norm for step in seen.steps()} == {None}


def test_norm_counts_though_another_thread_validates_before_the_step(watching, model, optimizer, inputs, labels):
    def validate():
        with torch.no_grad():
            F.cross_entropy(model(inputs), labels)

    norms = []
    with watching(gradients_every=None) as seen:
        for count in range(60):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.01).item())
            if count % 8 == 7:
                thread = threading.Thread(target=validate)
                thread.start()
                thread.join()
            optimizer.step()
    assert [step.gradient_preclip_norm for step in seen.steps()] == pytest.approx(norms)


def test_clipping_in_parts_adds_up_to_the_whole(step, model):
    shown, norm = step(lambda: [nn.utils.clip_grad_norm_(layer.parameters(), 0.01) for layer in (model[0], model[2])])
    assert shown.gradient_preclip_norm == norm


def test_part_that_is_clipped_again_with_the_whole_counts_once(step, model):
    norms = []
    shown, _ = step(lambda: norms.extend(nn.utils.clip_grad_norm_(of.parameters(), 0.01) for of in (model[0], model)))
    assert shown.gradient_preclip_norm == pytest.approx(norms[-1].item())


def test_norm_of_a_step_that_was_left_out_is_no_part_of_the_next_of_two_optimizers(watching, inputs, labels):
    models = [nn.Linear(4, 3), nn.Linear(4, 3)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    norms = []
    with watching() as seen:
        for index in range(6):
            for model, optimizer in zip(models, optimizers, strict=True):
                optimizer.zero_grad(set_to_none=False)
                F.cross_entropy(model(inputs), labels).backward()
                norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
                if model is models[0] and index == 3:
                    continue
                optimizer.step()
                norms += [norm.item()] * (model is models[0])
    assert [step.gradient_preclip_norm for step in seen.steps()] == pytest.approx(norms)


@pytest.mark.parametrize(("kind", "is_shown"), [(2.0, True), (torch.inf, False)])
def test_norm_that_is_asked_for_and_then_clipped_by(step, model, kind, is_shown):
    def clip():
        total = nn.utils.get_total_norm([p.grad for p in model.parameters()], kind)
        nn.utils.clip_grads_with_norm_(model.parameters(), 0.01, total)

    shown, norm = step(clip)
    assert shown.gradient_preclip_norm == (norm if is_shown else None)
    assert shown.gradient_norm < norm.expected


def test_norm_of_another_kind_is_left_out(step, model):
    shown, _ = step(lambda: nn.utils.clip_grad_norm_(model.parameters(), 0.01, norm_type=torch.inf))
    assert shown.gradient_preclip_norm is None


def in_two(parameters):
    total = nn.utils.get_total_norm([p.grad for p in parameters])
    nn.utils.clip_grads_with_norm_(parameters, 0.01, total)


def by_hand(parameters):
    for parameter in parameters:
        parameter.grad.clamp_(-0.01, 0.01)


def with_noise(parameters):
    for parameter in parameters:
        parameter.grad.add_(torch.full_like(parameter, 0.01))


WRITES = {
    "norm": lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.01),
    "norm in two": in_two,
    "value": lambda parameters: nn.utils.clip_grad_value_(parameters, 0.01),
    "by hand": by_hand,
    "noise": with_noise,
}


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_writing_to_gradients_does_not_look_like_clearing_them(
    watching, model, optimizer, inputs, labels, write, to_none
):
    with watching() as seen:
        for _ in range(3):
            optimizer.zero_grad(set_to_none=to_none)
            losses = []
            for _ in range(2):
                loss = F.cross_entropy(model(inputs), labels)
                loss.backward()
                write(list(model.parameters()))
                losses.append(loss.item())
            optimizer.step()
    assert seen.losses()[-1] == pytest.approx(sum(losses))
    assert seen.steps()[-1].micro_steps == 2


def test_each_of_two_optimizers_has_its_own_norm_from_the_first_step_on(watching):
    models = [nn.Linear(3, 1) for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    norms = []
    with watching() as seen:
        for _ in range(2):
            for model in models:
                model.zero_grad()
                model(torch.ones(2, 3)).square().sum().backward()
            norms += [nn.utils.clip_grad_norm_(model.parameters(), 0.1).item() for model in models]
            for optimizer in optimizers:
                optimizer.step()
    shown = [step.gradient_preclip_norm for pair in zip(seen.steps("0"), seen.steps("1"), strict=True) for step in pair]
    assert shown == pytest.approx(norms)


def test_clipped_gradient_that_no_optimizer_applies_is_not_kept(watching, model, inputs, labels):
    with watching():
        F.cross_entropy(model(inputs), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        gradient = weakref.ref(model[0].weight.grad)
        model.zero_grad()
        assert gradient() is None


def test_clipping_function_is_put_back(watching):
    before = nn.utils.clip_grad._get_total_norm
    with watching():
        assert nn.utils.clip_grad._get_total_norm is not before
    assert nn.utils.clip_grad._get_total_norm is before
