import inspect
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers
from torch.utils.data.dataloader import _BaseDataLoaderIter

import trimtab
from trimtab.capture.losses import BUILTIN_LOSSES, PYTHON_LOSSES
from trimtab.capture.patches import Patches
from trimtab.errors import BackendError
from trimtab.testing import RecordingBackend


class Base:
    def method(self):
        return "theirs"


class Derived(Base):
    pass


def ours(self):
    return "ours"


@pytest.fixture
def surroundings():
    """Everything of torch that a run replaces or adds to."""

    def surroundings():
        return [
            torch.autograd.backward,
            nn.utils.clip_grad._get_total_norm,
            _BaseDataLoaderIter.__next__,
            *(vars(GradScaler)[name] for name in ("scale", "step", "unscale_")),
            *(getattr(loss.owner, loss.name) for loss in BUILTIN_LOSSES),
            *(module.forward for module in PYTHON_LOSSES),
            len(torch.jit._builtins._get_builtin_table()),
            dict(optimizers._global_optimizer_pre_hooks),
            dict(optimizers._global_optimizer_post_hooks),
            sorted(vars(torch.Tensor)), sorted(vars(Optimizer)), sorted(vars(GradScaler)), sorted(vars(F)),
        ]  # fmt: skip

    return surroundings


def test_attribute_is_replaced_and_put_back():
    patches, original = Patches(), vars(Base)["method"]
    patches.replace(Base, "method", ours)
    assert Base().method() == "ours"
    patches.restore()
    assert vars(Base)["method"] is original


def test_inherited_attribute_is_not_copied_down():
    patches = Patches()
    patches.replace(Derived, "method", ours)
    patches.restore()
    assert "method" not in vars(Derived)


def test_what_somebody_put_over_ours_since_stays():
    patches, original = Patches(), vars(Base)["method"]
    patches.replace(Base, "method", ours)
    Base.method = theirs = lambda self: "newer"
    patches.restore()
    assert vars(Base)["method"] is theirs
    Base.method = original


def test_run_leaves_nothing_patched(watching, surroundings, model, inputs, labels):
    optimizer = torch.optim.LBFGS(model.parameters())
    optimizer.step(lambda: F.cross_entropy(model(inputs), labels))  # at the first torch adds to its table of builtins
    before = surroundings()
    with watching():
        assert surroundings() != before
        optimizer.step(lambda: F.cross_entropy(model(inputs), labels))
    assert surroundings() == before
    assert not optimizer._optimizer_step_pre_hooks


def test_run_that_raises_leaves_nothing_patched(watching, surroundings):
    before = surroundings()
    with pytest.raises(ZeroDivisionError), watching():
        assert 1 / 0
    assert surroundings() == before


def test_run_that_cannot_start_leaves_nothing_patched(tmp_path, surroundings):
    class Broken(RecordingBackend):
        def start(self, run):
            raise OSError("no space left on device")

    before = surroundings()
    with pytest.raises(BackendError, match="no space left"), trimtab.watch(backends=[Broken()], directory=tmp_path):
        pass
    assert surroundings() == before


def test_wrapped_functions_keep_name_and_documentation(watching):
    documented = torch._C._nn.cross_entropy_loss.__doc__
    with watching():
        assert torch._C._nn.cross_entropy_loss.__doc__ == documented
        assert torch._C._nn.cross_entropy_loss.__name__ == "cross_entropy_loss"


def test_wrapped_functions_keep_signature_and_are_pickled(watching):
    """Command lines are made of signatures, and a function is pickled by its name."""
    scaler, clipping = torch.amp.GradScaler, nn.utils.clip_grad

    def described():
        functions = [
            torch.autograd.backward, nn.utils.get_total_norm, nn.utils.clip_grads_with_norm_, clipping._get_total_norm,
            clipping._clip_grads_with_norm_, scaler, scaler.scale, scaler.step, scaler.unscale_,
        ]  # fmt: skip
        return [(each.__doc__, inspect.signature(each)) for each in functions], pickle.dumps(torch.autograd.backward)

    before = described()
    with watching():
        assert described() == before


def test_optimizer_that_lives_to_the_end_of_the_process_leaves_it_in_peace(tmp_path):
    script = f"""
import gc, torch, trimtab
from torch import nn
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
gc.freeze()
with trimtab.watch(backends=["jsonl"], directory={str(tmp_path)!r}) as run:
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Exception" not in done.stderr
