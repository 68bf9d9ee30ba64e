"""Losses with grad beside those that are trained on: of another batch, of weights before they were adapted."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.capture import calls
from trimtab.capture.calls import KEPT_FOR, Calls, node_of
from trimtab.capture.said import Said
from trimtab.sample.criteria import Criterion

pytestmark = pytest.mark.usefixtures("warmth")

STEPS, BATCH = 24, 8


class Trained:
    """What a loop knows of the batches that it trained on."""

    def __init__(self):
        self.losses, self.hits = [], []

    def add(self, output, labels):
        self.losses.append(-output.detach().log_softmax(1)[range(len(labels)), labels].mean().item())
        self.hits.append((output.argmax(1) == labels).float().mean().item())

    @property
    def loss(self):
        return sum(self.losses) / len(self.losses)

    @property
    def accuracy(self):
        return sum(self.hits) / len(self.hits)


def plainly(loss, model):
    return loss


def penalised(loss, model):
    return loss + 0.01 * model[0].weight.square().sum()


def train(model, batches, *, scored, objective, every):
    """`scored`: when another batch is scored with grad, in every so many steps. Its labels are all wrong."""
    optimizer, trained = torch.optim.SGD(model.parameters(), lr=0.1), Trained()
    others = torch.randn(2 * BATCH, 4)

    def score(when, step):
        if when == scored and step % every == 0:
            F.cross_entropy(model(others), model(others).argmin(1))

    for step, (inputs, labels) in enumerate(batches):
        optimizer.zero_grad()
        score("before", step)
        output = model(inputs)
        loss = F.cross_entropy(output, labels)
        score("amid", step)
        objective(loss, model).backward()
        score("between", step)
        optimizer.step()
        score("after", step)
        trained.add(output, labels)
    with torch.no_grad():
        F.cross_entropy(model(others), torch.zeros(2 * BATCH, dtype=torch.long))
    return trained


def check(seen, trained):
    """What is shown is of the batches that were trained on."""
    (epoch,) = seen.epochs
    assert epoch.train.samples == STEPS * BATCH
    assert epoch.train.criterion in (None, pytest.approx(trained.loss))
    assert [step.samples for step in seen.steps()] == [BATCH] * STEPS
    shown = [
        (step.accuracy, hit) for step, hit in zip(seen.steps(), trained.hits, strict=True) if step.accuracy is not None
    ]
    assert len(shown) > 1
    assert [accuracy for accuracy, _ in shown] == pytest.approx([hit for _, hit in shown])


@pytest.fixture
def data():
    return TensorDataset(torch.randn(STEPS * BATCH, 4), torch.arange(STEPS * BATCH) % 3)


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("objective", [plainly, penalised])
@pytest.mark.parametrize("is_loaded", [True, False])
@pytest.mark.parametrize("scored", ["never", "before", "amid", "between", "after"])
def test_a_loss_that_no_backward_differentiates_is_no_training(
    watching, model, data, scored, is_loaded, objective, every
):
    batches = DataLoader(data, BATCH)
    with watching() as seen:
        trained = train(model, batches if is_loaded else list(batches), scored=scored, objective=objective, every=every)
    check(seen, trained)
    assert objective is plainly or seen.epochs[0].train.criterion is not None


@pytest.mark.parametrize("scored", ["before", "amid", "between", "after"])
def test_a_loss_that_no_backward_differentiates_is_no_training_in_eval_mode(watching, model, data, scored):
    model.eval()
    with watching() as seen:
        trained = train(model, DataLoader(data, BATCH), scored=scored, objective=penalised, every=1)
    check(seen, trained)


def test_what_an_inner_loop_asks_the_gradient_of_is_no_training(watching, data):
    """As by second-order meta-learning, with a loss of the task before it is adapted to."""
    weights = torch.zeros(4, 3, requires_grad=True)
    optimizer, trained = torch.optim.SGD([weights], lr=0.1), Trained()
    with watching() as seen:
        for inputs, labels in list(DataLoader(data, BATCH)):
            optimizer.zero_grad()
            before = F.cross_entropy(inputs @ weights, (labels + 1) % 3)
            (gradient,) = torch.autograd.grad(before, [weights], create_graph=True)
            output = inputs @ (weights - gradient)
            F.cross_entropy(output, labels).backward()
            optimizer.step()
            trained.add(output, labels)
        seen.run.log(loss=1.0, phase="validation")
    assert sum(step.samples for step in seen.steps()) == STEPS * BATCH
    hits = [step.accuracy for step in seen.steps()]
    assert hits == pytest.approx(trained.hits)


def test_two_losses_that_are_computed_before_either_is_differentiated_both_count(watching, model, inputs, labels):
    optimizer, said = torch.optim.SGD(model.parameters(), lr=0.1), []
    with watching() as seen:
        for _ in range(12):
            optimizer.zero_grad()
            losses = [F.cross_entropy(model(part), labels) for part in (inputs, inputs * 2)]
            said.append(sum(loss.item() for loss in losses) / 2)
            for loss in losses:
                (loss / 2).backward(retain_graph=True)
            optimizer.step()
        with torch.no_grad():
            F.cross_entropy(model(inputs), labels)
    assert seen.epochs[0].train.criterion == pytest.approx(sum(said) / 12)
    assert seen.losses() == pytest.approx(said)


def test_what_is_differentiated_after_the_step_of_another_optimizer_counts_with_its_own(watching, inputs, labels):
    models = [nn.Linear(4, 3) for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    trained = [Trained(), Trained()]
    with watching() as seen:
        for _ in range(12):
            outputs = [model(inputs) for model in models]
            losses = [F.cross_entropy(output, labels) for output in outputs]
            for index in range(2):
                trained[index].add(outputs[index], labels)
                optimizers[index].zero_grad()
                (losses[index] + 1).backward()
                optimizers[index].step()
    for index in range(2):
        shown = {at: step.accuracy for at, step in enumerate(seen.steps(str(index))) if step.accuracy is not None}
        assert list(shown.values()) == pytest.approx([trained[index].hits[at] for at in shown])
        assert shown


def test_a_look_at_what_is_trained_on_by_a_loss_of_ones_own_counts(watching, model, inputs, labels):
    optimizer, said = torch.optim.SGD(model.parameters(), lr=0.1), []
    with watching() as seen:
        for _ in range(12):
            optimizer.zero_grad()
            output = model(inputs)
            looks = [F.cross_entropy(part, labels[:3]).item() for part in (output[:3], output[3:])]
            said.append(sum(looks) / 2)
            (output.softmax(1) - F.one_hot(labels, 3)).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            F.cross_entropy(model(inputs), labels)
    assert seen.epochs[0].train.criterion == pytest.approx(sum(said) / 12)


def test_no_graph_is_held(watching, model, inputs, labels):
    with watching():
        for _ in range(6):
            train(model, [(inputs, labels)] * 2, scored="never", objective=penalised, every=1)
            scored = inputs * 2 * torch.ones((), requires_grad=True)
            F.cross_entropy(model(scored), labels)
            held = weakref.ref(scored)
            del scored
            gc.collect()
            assert held() is None


def returned(*used):
    return (sum(used) + torch.ones((), requires_grad=True)).exp()


def add(waiting, output, value=1.0, name="loss", **more):
    said = Said("loss", samples=1, values=[Criterion(value, 1.0, 1)])
    waiting.add(name, node_of(output), said, **more)


def values(waiting, tensors, **more):
    said = Said("loss")
    waiting.backward(tensors, said, **more)
    return [each.value for each in said.values]


def test_one_call_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(calls, "NODES", None)
    waiting = Calls()
    add(waiting, returned())
    assert values(waiting, returned()) == [1.0]
    assert not waiting


@pytest.mark.parametrize("steps", range(KEPT_FOR + 2))
def test_a_call_that_is_left_is_given_up_after_two_steps(steps):
    waiting, one = Calls(), returned()
    add(waiting, one, 1.0)
    for _ in range(steps):
        other = returned()
        add(waiting, other, 2.0)
        assert values(waiting, other + 1) == [2.0]
        waiting.end_step()
    assert values(waiting, one) == ([1.0] if steps <= KEPT_FOR else [])
    assert not waiting


def test_of_several_calls_that_count_samples_are_not_known():
    waiting, said, outputs = Calls(), Said("loss"), [returned() for _ in range(3)]
    for output in outputs:
        add(waiting, output)
    waiting.backward(outputs[0], said)
    assert not said.several
    waiting.backward(outputs[1], said)
    assert said.several
    assert waiting


def test_a_value_that_waits_is_of_no_use_where_it_is_the_objective():
    waiting, output = Calls(), returned()
    add(waiting, output, waits=True)
    assert values(waiting, output, is_all=True) == []
    add(waiting, output, waits=True)
    assert values(waiting, output + 1) == [1.0]


def test_no_more_nodes_are_gone_through_than_a_few(monkeypatch):
    waiting, outputs = Calls(), [returned() for _ in range(2)]
    far = outputs[0]
    for _ in range(20):
        far = far + 1
    for output, value in zip(outputs, (1.0, 2.0), strict=True):
        add(waiting, output, value)
    monkeypatch.setattr(calls, "NODES", 5)
    assert values(waiting, far + outputs[1]) == [2.0]
