"""What looks through Python functions, and what copies them, goes on working during a run."""

import copy
import functools
import pickle

import pytest
import torch
import torch.nn.functional as F
from kinds_of_loops import Loop
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from trimtab.capture.losses import BUILTIN_LOSSES


class Tuned(nn.Module):
    """A model that holds its loss function."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.criterion = F.cross_entropy

    def forward(self, inputs, labels):
        return self.criterion(self.linear(inputs), labels)


class Scriptable(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.linear(inputs), labels) + F.mse_loss(inputs, inputs)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_model_with_a_loss_can_be_scripted(watching, inputs, labels, tmp_path):
    model = Scriptable()
    with watching():
        scripted = torch.jit.script(model)
        assert torch.equal(scripted(inputs, labels), model(inputs, labels))
        scripted.save(tmp_path / "model.pt")
    assert torch.equal(torch.jit.load(tmp_path / "model.pt")(inputs, labels), model(inputs, labels))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_loss_module_that_is_python_can_be_scripted(watching):
    criterion, logits, targets = nn.MultiLabelSoftMarginLoss(), torch.randn(4, 3), torch.ones(4, 3)
    with watching():
        scripted = torch.jit.script(criterion)
        assert torch.equal(scripted(logits, targets), criterion(logits, targets))


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
def test_model_with_a_loss_can_be_traced(watching, inputs, labels):
    model = Scriptable()
    with watching() as seen:
        traced = torch.jit.trace(model, (inputs, labels), check_trace=False)
        assert torch.equal(traced(inputs, labels), model(inputs, labels))
    assert seen.end.totals["faults"] == {}


def test_gradient_of_a_function_with_a_loss_is_not_read(watching, inputs, labels):
    weight = torch.randn(4, 3)
    with watching() as seen:
        gradient = torch.func.grad(lambda w: F.cross_entropy(inputs @ w, labels))(weight)
    assert gradient.shape == weight.shape
    assert seen.validations == []


def test_samples_of_a_function_whose_gradient_is_taken_do_not_count_with_the_next_step(watching, model, inputs, labels):
    optimizer, weight = torch.optim.SGD(model.parameters(), lr=0.1), torch.randn(4, 3)
    with watching(gradients_every=1000) as seen:
        for _ in range(24):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            torch.func.grad(lambda w: F.cross_entropy(inputs @ w, labels))(weight)
    assert {step.samples for step in seen.steps()} == {6}


def test_loss_under_vmap_is_not_read(watching, inputs, labels):
    with watching() as seen, torch.no_grad():
        losses = torch.func.vmap(F.cross_entropy)(inputs[:, :3], labels)
    assert losses.shape == (6,)
    assert seen.validations == []


def test_model_that_holds_a_loss_function_is_pickled_and_copied(watching, inputs, labels):
    model = Tuned()
    with watching():
        twins = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]
    for twin in twins:
        assert twin.criterion is F.cross_entropy
        assert torch.equal(twin(inputs, labels), model(inputs, labels))


@pytest.mark.parametrize("loss", BUILTIN_LOSSES, ids=lambda loss: loss.name)
def test_built_in_loss_is_pickled_as_what_it_is(watching, loss):
    """A model may be made in the run that holds one, and be saved in it."""
    with watching():
        criterion = getattr(loss.owner, loss.name)
        assert pickle.loads(pickled := pickle.dumps(criterion)) is criterion
    assert pickle.loads(pickled) is getattr(loss.owner, loss.name)


def test_state_of_a_watched_model_has_no_key_of_ours(watching, inputs, labels, tmp_path):
    model = Tuned()
    optimizer = torch.optim.AdamW(model.parameters())
    keys = list(model.state_dict())
    with watching():
        model(inputs, labels).backward()
        optimizer.step()
        torch.save((model, optimizer.state_dict()), tmp_path / "both.pt")
        copy.deepcopy(optimizer)
    twin, state = torch.load(tmp_path / "both.pt", weights_only=False)
    assert list(twin.state_dict()) == keys
    assert state.keys() == torch.optim.AdamW(nn.Linear(1, 1).parameters()).state_dict().keys()
    assert state["param_groups"][0].keys() == optimizer.param_groups[0].keys()


class Recording(TorchDispatchMode):
    """Writes down every operation."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations.append(str(function))
        return function(*args, **(kwargs or {}))


def recorded(clip):
    """The operations of two epochs with a validation each."""
    loop = Loop()
    with Recording() as mode:
        for _ in range(2):
            for batch in loop.loader:
                loop.loss(*batch).backward()
                if clip:
                    nn.utils.clip_grad_norm_(loop.model.parameters(), 1.0)
                loop.optimizer.step()
                loop.optimizer.zero_grad(set_to_none=False)
            with torch.no_grad():
                loop.loss()
    return mode.operations


@pytest.fixture(params=["CPU", "device"])
def anywhere(request):
    if request.param == "device":
        request.getfixturevalue("on_a_device")


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("clip", [True, False])
def test_mode_of_the_user_sees_nothing_of_ours(watching, clip):
    bare = recorded(clip)
    with watching() as seen:
        watched = recorded(clip)
    assert watched == bare
    assert seen.steps()[-1].gradient_norm > 0.0
    assert seen.validations[-1].accuracy is not None


def selectively(model, inputs, labels):
    """Trains with a loss inside of a checkpoint that saves what every operation gives. Returns its losses."""

    def forward(inputs):
        hidden = model(inputs)
        loss = F.cross_entropy(hidden, labels)
        return loss + 1e-3 * hidden.square().sum() + F.mse_loss(hidden.sum(1), torch.ones(len(labels)))

    policy = functools.partial(create_selective_checkpoint_contexts, lambda *_, **__: CheckpointPolicy.MUST_SAVE)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    for _ in range(12):
        loss = checkpoint(forward, inputs, use_reentrant=False, context_fn=policy)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_selective_checkpoint_saves_nothing_of_ours(watching, model, inputs, labels):
    bare = selectively(copy.deepcopy(model), inputs, labels)
    with watching() as seen:
        assert selectively(model, inputs, labels) == bare
    assert seen.losses() == pytest.approx(bare)
