"""What a program may do with its own objects, and with torch, while a run is on and when it is over."""

import contextlib
import copy
import io
import pickle

import pytest
import torch
import trimtab
from torch import nn
from torch.nn import functional as F

import recording


class Classifier(nn.Module):
    """Holds its loss as a function and as a module, as people do."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        self.loss = F.cross_entropy
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, x, y):
        logits = self.net(x)
        return self.loss(logits, y) + self.criterion(logits, y)


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 8), torch.randint(3, (16,))).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Classifier()


@pytest.fixture
def optimizer(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


@contextlib.contextmanager
def watching(directory):
    with trimtab.watch(backends=["jsonl"], directory=directory, gradients_every=1) as run:
        yield run


def test_what_is_replaced_in_torch_during_a_run_is_put_back(model, optimizer, tmp_path):
    before = recording.fingerprint()
    with watching(tmp_path):
        train(model, optimizer, 3)
        assert "torch.autograd.backward" in recording.changes(before)
    assert recording.changes(before) == []


def test_torch_is_put_back_when_the_program_raises(model, optimizer, tmp_path):
    before = recording.fingerprint()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), watching(tmp_path):
        model(torch.randn(4, 7), torch.zeros(4, dtype=torch.long))
    assert recording.changes(before) == []


def test_model_and_optimizer_keep_nothing_of_a_run(model, optimizer, tmp_path):
    fresh = [sorted(vars(m)) for m in Classifier().modules()], sorted(vars(torch.optim.AdamW([torch.zeros(1)])))
    with watching(tmp_path):
        train(model, optimizer, 3)
    assert ([sorted(vars(m)) for m in model.modules()], sorted(vars(optimizer))) == fresh
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_training_goes_on_after_a_run_as_if_there_had_been_none(model, tmp_path):
    twin = copy.deepcopy(model)
    states = []
    for candidate, run in ((twin, contextlib.nullcontext()), (model, watching(tmp_path))):
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW(candidate.parameters(), lr=1e-2)
        with run:
            train(candidate, optimizer, 5)
        train(candidate, optimizer, 5)
        states.append(recording.digest([candidate.state_dict(), recording.optimizer_state(optimizer)]))
    assert states[0] == states[1]


def test_state_dict_keys_are_the_models_own_during_a_run(model, optimizer, tmp_path):
    model_keys, optimizer_keys = list(model.state_dict()), list(optimizer.state_dict())
    with watching(tmp_path):
        train(model, optimizer, 3)
        assert list(model.state_dict()) == model_keys
        assert list(optimizer.state_dict()) == optimizer_keys
        optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o)), lambda o: saved(o)],
    ids=["deepcopy", "pickle", "save"],
)
def test_copies_made_during_a_run_train_on_like_the_original(model, optimizer, tmp_path, duplicate):
    with watching(tmp_path):
        train(model, optimizer, 3)
        twin, twin_optimizer = duplicate((model, optimizer))
    states = []
    for candidate, candidate_optimizer in ((model, optimizer), (twin, twin_optimizer)):
        torch.manual_seed(2)
        train(candidate, candidate_optimizer, 3)
        states.append(recording.digest([candidate.state_dict(), candidate_optimizer.state_dict()]))
    assert states[0] == states[1]


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def test_what_is_pickled_during_a_run_can_be_read_without_us(model, optimizer, tmp_path):
    scaler = torch.amp.GradScaler("cpu")
    loader = torch.utils.data.DataLoader(torch.zeros(4, 2))
    with watching(tmp_path):
        train(model, optimizer, 3)
        list(loader)
        for value in (model, optimizer, scaler, loader, F.mse_loss, nn.utils.clip_grad_norm_):
            assert b"trimtab" not in pickle.dumps(value)


# What torch says about itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
def test_models_are_scripted_traced_and_exported_during_a_run(optimizer, model, tmp_path):
    x, y = torch.randn(4, 8), torch.randint(3, (4,))

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x, y) + F.smooth_l1_loss(x, x * 2) + F.kl_div(x, x.exp(), reduction="batchmean")

    with watching(tmp_path):
        train(model, optimizer, 2)
        assert torch.equal(torch.jit.script(nn.CrossEntropyLoss())(x, y), F.cross_entropy(x, y))
        assert torch.equal(torch.jit.trace(loss, (x, y), check_trace=False)(x, y), loss(x, y))
        assert torch.equal(torch.export.export(model, (x, y)).module()(x, y), model(x, y))
        train(model, optimizer, 2)
