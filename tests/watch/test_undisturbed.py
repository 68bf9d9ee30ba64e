"""Weights, outputs, optimizer state and random numbers are bit for bit those of the bare run."""

import contextlib
import fcntl
import os
import pty
import random
import struct
import subprocess
import sys
import termios

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from trimtab.testing import RecordingBackend

STEPS = 6


def perceptron():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def batches():
    return DataLoader(TensorDataset(torch.randn(24, 4), torch.randint(3, (24,))), batch_size=4, shuffle=True)


def clipped_with_a_schedule():
    model = perceptron()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
    for inputs, labels in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels, label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
    return model, optimizer, schedule


def accumulated_and_validated():
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    losses = []
    for _ in range(2):
        for index, (inputs, labels) in enumerate(batches()):
            (F.cross_entropy(model.train()(inputs), labels) / 2).backward()
            if index % 2:
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
        with torch.no_grad():
            losses += [F.cross_entropy(model.eval()(inputs), labels) for inputs, labels in batches()]
    return model, optimizer, losses


def closures():
    model = nn.Linear(4, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
    inputs, labels = torch.randn(12, 4), torch.randint(3, (12,))

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    return model, optimizer, [optimizer.step(closure) for _ in range(3)]


def scaled(fused=False):
    model = perceptron()
    optimizer, scaler = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused), torch.amp.GradScaler("cpu")
    for index, (inputs, labels) in enumerate(batches()):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(inputs), labels) * (torch.inf if index == 2 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return model, optimizer, scaler


def scaled_and_fused():
    return scaled(fused=True)


def adversaries():
    generator, discriminator = nn.Linear(2, 4), nn.Linear(4, 1)
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in (generator, discriminator)]
    for _ in range(STEPS):
        fake, real = generator(torch.randn(8, 2)), torch.randn(8, 4)
        optimizers[1].zero_grad()
        (discriminator(fake.detach()).mean() - discriminator(real).mean()).backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        (-discriminator(fake).mean()).backward()
        optimizers[0].step()
    return generator, discriminator, *optimizers


def stepping_inside_backward():
    model = perceptron()
    optimizers = {p: torch.optim.RMSprop([p], lr=0.01) for p in model.parameters()}

    def step(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    for inputs, labels in batches():
        F.cross_entropy(model(inputs), labels).backward()
    return model, *optimizers.values()


def sparse_and_checkpointed():
    embedding, model = nn.Embedding(10, 4, sparse=True), perceptron()
    optimizers = [torch.optim.SparseAdam(embedding.parameters()), torch.optim.Adagrad(model.parameters())]
    for _ in range(STEPS):
        words = torch.randint(10, (8,))
        loss = F.cross_entropy(checkpoint(model, embedding(words), use_reentrant=True), words % 3)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return embedding, model, *optimizers


def by_hand():
    weight = torch.randn(4, 3, dtype=torch.complex64, requires_grad=True)
    for _ in range(STEPS):
        (torch.randn(5, 4, dtype=torch.complex64) @ weight).abs().square().mean().backward()
        with torch.no_grad():
            weight -= 0.1 * weight.grad
        weight.grad = None
    return (weight,)


LOOPS = [
    clipped_with_a_schedule,
    accumulated_and_validated,
    closures,
    scaled,
    scaled_and_fused,
    adversaries,
    stepping_inside_backward,
    sparse_and_checkpointed,
    by_hand,
]


def outcome(loop):
    """Everything that a loop leaves behind, as plain values and tensors."""
    torch.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)
    things = loop()
    return {
        "things": [thing.state_dict() if hasattr(thing, "state_dict") else thing for thing in things],
        "random": [torch.get_rng_state(), torch.rand(3), random.getstate(), numpy.random.get_state()[1].tolist()],
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.detach().numpy().tobytes() == other.detach().numpy().tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_watching_changes_nothing(watching, loop):
    bare = outcome(loop)
    with watching() as seen:
        watched = outcome(loop)
    assert same(bare, watched)
    assert seen.steps()
    assert seen.end.totals["faults"] == {}


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_nothing_of_ours_stays_behind(watching, loop):
    with watching():
        things = loop()
    for thing in things:
        if isinstance(thing, torch.optim.Optimizer):
            assert not thing._optimizer_step_pre_hooks
            assert not thing._optimizer_step_post_hooks
        if isinstance(thing, nn.Module):
            assert not any(module._forward_hooks for module in thing.modules())


def test_random_numbers_that_a_backend_draws_when_it_starts_were_never_drawn(tmp_path):
    class Drawing(RecordingBackend):
        def start(self, run):
            super().start(run)
            self.drawn = [torch.rand(1), random.random(), numpy.random.rand()]

    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    with trimtab.watch(run="test", directory=tmp_path, backends=[backend := Drawing()]):
        assert backend.drawn
        assert same(before, (torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()))


def test_a_library_that_the_program_imports_in_a_run_draws_what_it_draws_without_one(tmp_path):
    program = f"""
import importlib, os, random, sys, torch, trimtab

def watched():
    return trimtab.watch(directory={str(tmp_path)!r}, backends=["jsonl"])

torch.nn.Linear(1, 1)
for library in ("rich.console", "structlog"):
    for runs in (0, 3):
        if os.fork() == 0:  # a process that has imported nothing else
            random.seed(0)
            for _ in range(runs - 1):
                with watched():
                    pass
            if runs:
                run = watched()
                run.__enter__()
            importlib.import_module(library)
            print(random.random(), flush=True)
            os._exit(0)
        os.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rich, rich_watched, structlog, structlog_watched = map(float, done.stdout.split())
    assert (rich_watched, structlog_watched) == (rich, structlog)
    assert random.Random(0).random() not in (rich, structlog)  # they draw


def test_the_live_line_imports_nothing_for_the_program_and_draws_no_random_number(tmp_path):
    program = f"""
import random, sys, time, torch, trimtab

model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
random.seed(0)
with trimtab.watch(directory={str(tmp_path)!r}, backends=["console"]):
    for _ in range(150):
        optimizer.zero_grad()
        model(torch.ones(2, 1)).square().mean().backward()
        optimizer.step()
        time.sleep(0.02)
print(random.random(), "rich" in sys.modules, "structlog" in sys.modules)
"""
    terminal, end = pty.openpty()
    command = [sys.executable, "-c", program]
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    environ = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end, text=True, env=environ)
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: nobody holds the other end any more
        while piece := os.read(terminal, 65_536):
            shown += piece
    os.close(terminal)
    assert process.communicate()[0] == f"{random.Random(0).random()} False False\n"
    assert "\u2581".encode() in shown or "\u2588".encode() in shown  # the sparkline


def test_comparison_tells_one_bit():
    assert not same({"a": [torch.tensor(0.0)]}, {"a": [torch.tensor(-0.0)]})
    assert same([torch.tensor(float("nan"))], [torch.tensor(float("nan"))])
